//! Configs and checkpoint files: what they say, and that hostile ones are errors.
#[path = "files/codebook.rs"]
mod codebook;
#[path = "files/compressed.rs"]
mod compressed;
#[path = "files/config.rs"]
mod config;
#[path = "files/gguf.rs"]
mod gguf;
#[path = "files/gguf_archs.rs"]
mod gguf_archs;
#[path = "files/gguf_file.rs"]
mod gguf_file;
#[path = "files/gguf_hostile.rs"]
mod gguf_hostile;
#[path = "files/gguf_models.rs"]
mod gguf_models;
#[path = "goldens/case.rs"]
#[allow(dead_code)]
mod goldens;
#[path = "files/hub.rs"]
mod hub;
#[path = "files/inspect.rs"]
mod inspect;
#[path = "files/jang.rs"]
mod jang;
#[path = "files/jangtq.rs"]
mod jangtq;
#[path = "files/pack.rs"]
mod pack;
#[path = "files/random.rs"]
mod random;
#[path = "goldens/rule.rs"]
#[allow(dead_code)]
mod rule;
#[path = "files/safetensors.rs"]
mod safetensors;
#[path = "files/scaffold.rs"]
mod scaffold;
