//! Tokenizers, detokenisers, chat templates, thinking and tool calls, against values recorded from Python.
#[path = "text/folders.rs"]
mod folders;
#[path = "text/from_gguf.rs"]
mod from_gguf;
#[path = "text/templates.rs"]
mod templates;
#[path = "text/tokenizers.rs"]
mod tokenizers;
#[path = "text/tools.rs"]
mod tools;

use serde_json::Value;

/// A file of `tests/data/text`.
fn data(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/text").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}
