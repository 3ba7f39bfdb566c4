//! Prompt-cache files between here and Python, by running Python: `MLX_LM_PYTHON` names one that has mlx-lm.

use crate::{beside_others, case};
use mlx_lm::Model;
use mlx_lm::cache::{CacheOptions, Caches, KvQuant, PromptCache};
use mlx_lm::generate::{TokenOptions, Tokens};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn python(args: &[&str]) -> String {
    let program = std::env::var("MLX_LM_PYTHON").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cache/interchange.py");
    let out = Command::new(program).arg(script).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn prompts_saved_here_go_on_in_python_and_the_other_way_round() {
    if std::env::var_os("MLX_LM_PYTHON").is_none() {
        println!("skipped: MLX_LM_PYTHON names no Python with mlx-lm");
        return;
    }
    let _guard = beside_others();
    for (name, bits, max) in [
        ("qwen3", 0, 0),
        ("qwen3.hd32", 8, 0),
        ("qwen3", 0, 12),
        ("gemma3", 0, 0),
        ("falcon_h1", 0, 0),
        ("qwen3_next", 0, 0),
        ("mamba2", 0, 0),
        ("lfm2", 0, 0),
        ("deepseek_v3", 0, 0),
        ("deepseek_v32", 0, 0),
        ("longcat_flash_ngram", 0, 0),
        ("gemma3n", 0, 0),
        ("nemotron_h", 0, 0),
        ("llama4", 0, 0),
        ("afm7", 0, 0),
        ("baichuan_m1", 0, 0),
        ("iquestloopcoder", 0, 0),
    ] {
        let c = case::all("families").into_iter().find(|c| c["case"] == name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        case::write(dir.path(), &c["config"], &case::tensors(&c));
        let m = Model::load(dir.path()).unwrap();
        let prompt: Vec<u32> = case::ints(&c["prompt"]).into_iter().map(|i| i as u32).collect();
        let (first, rest) = prompt.split_at(prompt.len() - 3);
        let options = CacheOptions { max_size: (max > 0).then_some(max), ..Default::default() };
        let quant = (bits > 0).then(|| KvQuant::new(bits, 32));
        let run = |caches: &mut Caches, ids: &[u32], n: usize| -> Vec<u32> {
            let options = TokenOptions { max_tokens: Some(n), kv_quant: quant, ..TokenOptions::default() };
            Tokens::new(&m.decoder, ids, caches, options).unwrap().map(|t| t.unwrap().id).collect()
        };
        let (path, bits, max) = (dir.path().to_str().unwrap(), bits.to_string(), max.to_string());
        let (ours, theirs) = (dir.path().join("ours.safetensors"), dir.path().join("theirs.safetensors"));
        let mut caches = m.decoder.caches_with(options).unwrap();
        run(&mut caches, first, 0);
        PromptCache::save(&ours, &caches, &BTreeMap::new()).unwrap();
        let want = list(&run(&mut caches, rest, 8));
        let got = python(&["go_on", path, ours.to_str().unwrap(), &bits, "8", &list(rest)]);
        assert_eq!(got, want, "{name}: Python goes on from here");
        python(&["save", path, theirs.to_str().unwrap(), &bits, &max, &list(first)]);
        let mut caches = m.decoder.adopt_caches(PromptCache::load(&theirs).unwrap().caches).unwrap();
        assert_eq!(list(&run(&mut caches, rest, 8)), want, "{name}: from Python's file");
    }
}
