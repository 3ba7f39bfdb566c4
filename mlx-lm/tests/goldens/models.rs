//! Whole models of published code: logits of one pass, greedy steps from the cache, pieces, rows of a batch.

use crate::Job;
use crate::case::{self, Stored, float, floats, ints};
use crate::rule;
use mlx::{self as mx, Array, Dtype};
use mlx_lm::Model;
use mlx_lm::cache::Caches;
use mlx_lm::decoder::LoadOptions;
use mlx_lm::generate::{BatchRequest, batch_generate};
use serde_json::Value;

pub fn jobs() -> Vec<Job> {
    case::all("mixers/models")
        .into_iter()
        .map(|case| {
            let name = format!("models {}", case["name"].as_str().unwrap_or_default());
            let run = move || mx::catch(|| run(&case)).map_err(|e| e.to_string())?;
            Job { name, run: Box::new(run) }
        })
        .collect()
}

/// The tensors of a case: name, shape, dtype, mul, add. Fused experts get their published names.
pub fn tensors(case: &Value) -> Vec<Stored> {
    let seed = case["seed"].as_u64().unwrap();
    let mut out = Vec::new();
    for row in case["tensors"].as_array().unwrap() {
        let (name, shape) = (row[0].as_str().unwrap(), ints(&row[1]));
        let init = (row[4].as_f64().unwrap(), row[3].as_f64().unwrap());
        let bytes = rule::tensor(name, &shape, "F32", seed, Some(init));
        let put =
            |name: String, shape: Vec<i32>, bytes: &[u8]| Stored { name, shape, dtype: "F32", bytes: bytes.to_vec() };
        let Some(at) = name.find(".experts.").filter(|_| shape.len() == 3) else {
            out.push(put(name.into(), shape, &bytes));
            continue;
        };
        let (layer, leaf) = (&name[..at], &name[at + ".experts.".len()..]);
        for (e, expert) in bytes.chunks(bytes.len() / shape[0] as usize).enumerate() {
            let path = |leaf: &str| format!("{layer}.experts.{e}.{leaf}.weight");
            if leaf == "gate_up_proj" {
                let half = vec![shape[1] / 2, shape[2]];
                let (gate, up) = expert.split_at(expert.len() / 2);
                out.extend([put(path("gate_proj"), half.clone(), gate), put(path("up_proj"), half, up)]);
            } else {
                out.push(put(path(leaf), shape[1..].to_vec(), expert));
            }
        }
    }
    out
}

fn feed(m: &Model, caches: &mut Caches, ids: &[i32], chunk: usize) -> Result<Vec<Vec<f32>>, String> {
    let mut rows = Vec::new();
    for part in ids.chunks(chunk) {
        let y = m.decoder.forward(&Array::from_slice(part, [1, part.len() as i32]), caches);
        let v = y.dim(-1) as usize;
        let flat = y.astype(Dtype::Float32).to_vec::<f32>().map_err(|e| e.to_string())?;
        rows.extend(flat.chunks(v).map(<[f32]>::to_vec));
    }
    Ok(rows)
}

fn compare(what: &str, got: &[f32], want: &[f32], tolerance: f32) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} logits instead of {}", got.len(), want.len()));
    }
    let off = |g: f32, w: f32| if (g - w).is_nan() { f32::INFINITY } else { (g - w).abs() };
    let worst = got.iter().zip(want).map(|(&g, &w)| off(g, w)).fold(0.0, f32::max);
    if worst <= tolerance { Ok(()) } else { Err(format!("{what}: off by {worst:.2e} (allowed {tolerance:.1e})")) }
}

fn argmax(row: &[f32]) -> i32 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i32
}

fn run(case: &Value) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    case::write(dir.path(), &case["config"], &tensors(case));
    let model = Model::load(dir.path()).map_err(|e| format!("load: {e}"))?;
    let ids = ints(&case["ids"]);
    let tolerance = 1e-4 * float(&case["max_abs_logit"]).max(1.0);
    let positions = ints(&case["logits_positions"]);
    let caches = || model.decoder.caches().map_err(|e| e.to_string());
    let (greedy, margin) = (ints(&case["greedy"]), float(&case["greedy_margin"]));
    if margin < 2.0 * tolerance {
        return Err(format!("the two best logits are {margin} apart: the case does not tell"));
    }
    let mut after = caches()?;
    for chunk in [1, 7, 64, ids.len()] {
        let mut cache = caches()?;
        let rows = feed(&model, &mut cache, &ids, chunk)?;
        for (p, want) in positions.iter().zip(case["logits"].as_array().ok_or("no logits")?) {
            compare(&format!("pieces of {chunk}: position {p}"), &rows[*p as usize], &floats(want), tolerance)?;
        }
        let next = argmax(rows.last().ok_or("no ids")?);
        if next != greedy[0] {
            return Err(format!("pieces of {chunk}: id {next} instead of {}", greedy[0]));
        }
        after = cache;
    }
    // the logits of step k decide id k
    let steps = case["step_logits"].as_array().ok_or("no step_logits")?;
    for (k, &id) in greedy.iter().enumerate().skip(1) {
        let row = feed(&model, &mut after, &greedy[k - 1..k], 1)?.remove(0);
        compare(&format!("step {k}"), &row, &floats(&steps[k]), tolerance)?;
        if argmax(&row) != id {
            return Err(format!("step {k}: id {} instead of {id}", argmax(&row)));
        }
    }
    if let Some(steps) = case["cached_step_logits"].as_array() {
        dense_decode(case, dir.path(), &ids, steps, tolerance)?;
    }
    batch(&model, &ids, greedy.len())?;
    low_precision(dir.path(), &ids)
}

/// Steps of a model that decodes from its cache otherwise than it reads a prompt, if its config asks for that.
fn dense_decode(
    case: &Value,
    dir: &std::path::Path,
    ids: &[i32],
    steps: &[Value],
    tolerance: f32,
) -> Result<(), String> {
    let mut config = case["config"].clone();
    config["dense_decode"] = true.into();
    std::fs::write(dir.join("config.json"), config.to_string()).map_err(|e| e.to_string())?;
    let model = Model::load(dir).map_err(|e| format!("load: {e}"))?;
    let mut cache = model.decoder.caches().map_err(|e| e.to_string())?;
    let mut last = feed(&model, &mut cache, ids, ids.len())?.pop().ok_or("no ids")?;
    for (k, (want, id)) in steps.iter().zip(ints(&case["greedy"])).enumerate() {
        compare(&format!("dense step {k}"), &last, &floats(want), tolerance)?;
        last = feed(&model, &mut cache, &[id], 1)?.remove(0);
    }
    std::fs::write(dir.join("config.json"), case["config"].to_string()).map_err(|e| e.to_string())
}

/// Rows of unequal length, decoded together, each give what they give alone.
fn batch(model: &Model, ids: &[i32], n: usize) -> Result<(), String> {
    let rows = [&ids[..ids.len() - 11], &ids[5..], ids];
    let request = |row: &[i32]| {
        let mut r = BatchRequest::new(row.iter().map(|&i| i as u32).collect());
        r.max_tokens = n;
        r
    };
    let generate =
        |requests: Vec<BatchRequest>| batch_generate(&model.decoder, requests).map_err(|e| format!("batch: {e}"));
    let (together, _) = generate(rows.iter().map(|r| request(r)).collect())?;
    for (i, row) in rows.iter().enumerate() {
        let (alone, _) = generate(vec![request(row)])?;
        if together[i].ids != alone[0].ids {
            return Err(format!("batch row {i}: ids {:?} instead of {:?}", together[i].ids, alone[0].ids));
        }
    }
    Ok(())
}

/// In bf16 every logit is a number.
fn low_precision(dir: &std::path::Path, ids: &[i32]) -> Result<(), String> {
    let options = LoadOptions { dtype: Some(Dtype::Bfloat16), ..LoadOptions::default() };
    let model = Model::load_with(dir, options).map_err(|e| format!("load: {e}"))?;
    let rows = feed(&model, &mut model.decoder.caches().map_err(|e| e.to_string())?, ids, ids.len() - 1)?;
    match rows.iter().flatten().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err("bf16: logits are not finite".into()),
    }
}
