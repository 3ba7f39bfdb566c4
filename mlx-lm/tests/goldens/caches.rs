//! `generate_step` with bounded, packed and otherwise chunked caches, on cases of `families`.

use crate::Job;
use crate::case::{self, float, floats, ints};
use mlx::{self as mx};
use mlx_lm::Model;
use mlx_lm::cache::{CacheOptions, KvQuant};
use mlx_lm::generate::{TokenOptions, Tokens};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

pub fn jobs() -> Vec<Job> {
    let models: HashMap<String, Arc<Value>> = case::all("families")
        .into_iter()
        .map(|c| (c["case"].as_str().unwrap_or_default().to_string(), Arc::new(c)))
        .collect();
    case::list("caches")
        .into_iter()
        .filter_map(|c| {
            let model = models.get(c["case"].as_str()?)?.clone();
            let name = format!("caches {} {}", c["case"].as_str()?, c["settings"]);
            let run = move || mx::catch(|| run(&model, &c)).map_err(|e| e.to_string())?;
            Some(Job { name, run: Box::new(run) })
        })
        .collect()
}

fn run(model: &Value, case: &Value) -> Result<(), String> {
    let text = |e: mlx_lm::Error| e.to_string();
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    case::write(dir.path(), &model["config"], &case::tensors(model));
    let m = Model::load(dir.path()).map_err(text)?;
    let s = &case["settings"];
    let int = |k: &str| s[k].as_i64().map(|n| n as i32);
    // the reference ignores max_kv_size where a model makes its own caches (llama); here it holds for every family
    let limit = int("max_kv_size").filter(|_| model["model_type"] != "llama");
    let mut caches = m.decoder.caches_with(CacheOptions { max_size: limit, ..Default::default() }).map_err(text)?;
    let want = ints(&case["greedy"]);
    let prompt: Vec<u32> = ints(&model["prompt"]).into_iter().map(|i| i as u32).collect();
    let options = TokenOptions {
        max_tokens: Some(want.len()),
        prefill_step: int("prefill_step_size").unwrap_or(2048) as usize,
        kv_quant: int("kv_bits").map(|bits| KvQuant {
            bits,
            value_bits: None,
            group_size: int("kv_group_size").unwrap_or(64),
            start: int("quantized_kv_start").unwrap_or(5000),
        }),
        logprobs: true,
        ..TokenOptions::default()
    };
    let tokens = Tokens::new(&m.decoder, &prompt, &mut caches, options).map_err(text)?;
    // a key that rounds to the next step of the packed form moves a logit by more than arithmetic does
    let relative = if int("kv_bits").is_some() { 1e-3 } else { 1e-4 };
    let tolerance = relative * float(&model["golden"]["max_abs"]).max(1.0);
    for (k, (t, want)) in tokens.zip(&want).enumerate() {
        let t = t.map_err(text)?;
        if t.id as i32 != *want {
            return Err(format!("step {k}: id {} instead of {want}", t.id));
        }
        let Some(recorded) = case["logprobs"].get(k.to_string()) else { continue };
        let row = t.logprobs.ok_or("no logprobs")?.to_vec::<f32>().map_err(|e| e.to_string())?;
        let recorded = floats(recorded);
        let stride = if recorded.len() == row.len() { 1 } else { row.len() / recorded.len() };
        for (i, w) in recorded.iter().enumerate() {
            let g = row[i * stride];
            if (g - w).abs() > tolerance {
                return Err(format!("step {k}: ln p {g} instead of {w}"));
            }
        }
    }
    Ok(())
}
