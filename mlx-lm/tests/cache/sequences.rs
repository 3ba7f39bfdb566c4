//! Whole models on each form of cache: recorded answers, snapshots.

use crate::{beside_others, case, model};
use mlx::{Array, Dtype};
use mlx_lm::Model;
use mlx_lm::cache::{CacheOptions, Caches, KvLayout, PromptCache, restore, snapshot};
use mlx_lm::generate::{TokenOptions, Tokens};
use std::collections::BTreeMap;

fn recorded(name: &str) -> (Vec<u32>, Vec<u32>) {
    let c = case::all("families").into_iter().find(|c| c["case"] == name).unwrap();
    let ids = |v: &serde_json::Value| case::ints(v).into_iter().map(|i| i as u32).collect();
    (ids(&c["prompt"]), ids(&c["golden"]["greedy"]))
}

fn greedy(m: &Model, caches: &mut Caches, prompt: &[u32], n: usize, chunk: usize) -> Vec<u32> {
    let options = TokenOptions { max_tokens: Some(n), prefill_step: chunk, ..TokenOptions::default() };
    Tokens::new(&m.decoder, prompt, caches, options).unwrap().map(|t| t.unwrap().id).collect()
}

/// Grouped heads, capped scores, sinks with windows, masks of blocks, layers that share keys, latent attention,
/// several caches in a layer.
#[test]
fn models_answer_alike_on_pages_and_joined_caches() {
    let _guard = beside_others();
    for name in
        ["qwen3", "gemma2", "gpt_oss", "gemma3n", "deepseek_v3", "longcat_flash", "falcon_h1", "afm7", "smollm3.bf16"]
    {
        let (m, (prompt, want)) = (model(name), recorded(name));
        for layout in [KvLayout::Paged { page: 16 }, KvLayout::Paged { page: 5 }, KvLayout::Concatenated] {
            for chunk in [2048, 7] {
                let mut caches = m.decoder.caches_with(CacheOptions { layout, ..Default::default() }).unwrap();
                let n = if name.ends_with("bf16") { 2 } else { want.len() };
                assert_eq!(greedy(&m, &mut caches, &prompt, n, chunk), want[..n], "{name} {layout:?} {chunk}");
            }
        }
    }
}

fn step(m: &Model, caches: &mut Caches, ids: &[u32]) -> Vec<f32> {
    let ids = Array::from_slice(ids, [1, ids.len() as i32]);
    m.decoder.forward_last(&ids, caches).astype(Dtype::Float32).to_vec::<f32>().unwrap()
}

/// Guessed tokens are taken back and the sequence goes on as if they had never been: recurrent states, lists of caches,
/// rings that have turned, pages.
#[test]
fn snapshots_bring_every_kind_of_layer_back() {
    let _guard = beside_others();
    let paged = CacheOptions { layout: KvLayout::Paged { page: 8 }, ..Default::default() };
    let bounded = CacheOptions { max_size: Some(12), ..Default::default() };
    let plain = CacheOptions::default();
    for (name, options) in [
        ("qwen3_next", plain),
        ("falcon_h1", plain),
        ("falcon_h1", paged),
        ("mamba2", plain),
        ("lfm2", paged),
        ("qwen3", plain),
        ("qwen3", paged),
        ("qwen3", bounded),
        ("gemma3", plain),
        ("llama4", plain),
        ("deepseek_v3", plain),
        ("deepseek_v32", plain),
        ("deepseek_v41", plain),
        ("longcat_flash_ngram", plain),
    ] {
        let (m, (prompt, _)) = (model(name), recorded(name));
        let fresh = || m.decoder.caches_with(options).unwrap();
        let (first, rest) = prompt.split_at(prompt.len() - 6);
        let (mut straight, mut guessed) = (fresh(), fresh());
        step(&m, &mut straight, first);
        step(&m, &mut guessed, first);
        let at = snapshot(&guessed);
        for round in 0..2 {
            // several at once, then one by one: rings take both ways
            step(&m, &mut guessed, &[9, 8, 7]);
            step(&m, &mut guessed, &[1 + round]);
            restore(&mut guessed, &at).unwrap();
            assert_eq!(guessed.iter().map(|c| c.offset()).max(), straight.iter().map(|c| c.offset()).max());
        }
        for id in rest {
            let (a, b) = (step(&m, &mut straight, &[*id]), step(&m, &mut guessed, &[*id]));
            assert_eq!(a, b, "{name} {options:?}");
        }
        // another sequence may start from the same point
        let mut again = fresh();
        if restore(&mut again, &at).is_ok() {
            assert!(again.iter().all(|c| !c.is_trimmable()), "{name}: lengths alone are not a state");
        }
        assert!(restore(&mut Vec::new(), &at).is_err());
    }
}

/// Windows, pooled rows, a group that is still open, the last ids of n-grams: what lies in files is the whole state.
#[test]
fn a_saved_prompt_goes_on_where_it_stood() {
    let _guard = beside_others();
    for name in ["deepseek_v32", "deepseek_v41", "longcat_flash_ngram"] {
        let (m, (prompt, _)) = (model(name), recorded(name));
        // the last group of four tokens is not full, or has just been filled
        for cut in [prompt.len() - 6, prompt.len() - 4, 2] {
            let (first, rest) = prompt.split_at(cut);
            let mut caches = m.decoder.caches().unwrap();
            step(&m, &mut caches, first);
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("prompt.safetensors");
            PromptCache::save(&file, &caches, &BTreeMap::new()).unwrap();
            let mut back = m.decoder.adopt_caches(PromptCache::load(&file).unwrap().caches).unwrap();
            for id in rest {
                assert_eq!(step(&m, &mut back, &[*id]), step(&m, &mut caches, &[*id]), "{name} after {cut}");
            }
        }
    }
}
