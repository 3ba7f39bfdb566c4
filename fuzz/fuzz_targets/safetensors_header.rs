//! Any bytes as a safetensors file.
#![no_main]
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mlx_lm::weights::Bytes;
use mlx_lm::weights::safetensors::File;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = File::from_bytes(Bytes::from(bytes.to_vec()), Path::new("model.safetensors")) else { return };
    for info in &file.header().tensors {
        assert_eq!(file.bytes(&info.name).map(<[u8]>::len), Some(info.nbytes()), "{}", info.name);
    }
});
