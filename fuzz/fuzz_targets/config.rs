//! Any text as `config.json`.
#![no_main]
use libfuzzer_sys::fuzz_target;
use mlx_lm::config::{Config, parse_json};

fuzz_target!(|text: &str| {
    let Ok(value) = parse_json(text) else { return };
    let Ok(config) = Config::from_json(value, "config.json") else { return };
    let _ = config.quantization().map(|q| q.mlx());
    for layer in ["full_attention", "sliding_attention"] {
        let _ = config.rope_for(layer);
    }
    let _ = (config.rope(), config.dtype(), config.tie_word_embeddings(), config.bos_token_id());
    for key in config.map().keys() {
        let _ = (config.usize(key), config.f64(key), config.flag(key), config.strings(key), config.sub(key));
    }
});
