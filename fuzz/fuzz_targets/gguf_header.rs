//! Any bytes as a GGUF file, up to the bytes of its tensors.
#![no_main]
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mlx_lm::config::Config;
use mlx_lm::weights::gguf::Gguf;
use mlx_lm::weights::gguf::model::GgufModel;
use mlx_lm::weights::{Bytes, GgufOptions};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(Bytes::from(bytes.to_vec()), Path::new("model.gguf")) else { return };
    let Ok(model) = GgufModel::new(vec![gguf], GgufOptions::default()) else { return };
    for info in model.infos() {
        if let Ok(bytes) = model.bytes(&info.name) {
            assert_eq!(bytes.len(), info.nbytes(), "{}", info.name);
        }
    }
    if let Ok(config) = Config::from_json(model.config().clone(), "model.gguf") {
        let _ = (config.rope(), config.quantization(), config.eos_token_ids());
    }
});
