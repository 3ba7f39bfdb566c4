//! Configs and checkpoint files: what they say, and that hostile ones are errors.
#[path = "files/config.rs"]
mod config;
#[path = "files/gguf.rs"]
mod gguf;
#[path = "files/gguf_file.rs"]
mod gguf_file;
#[path = "files/gguf_hostile.rs"]
mod gguf_hostile;
#[path = "files/hub.rs"]
mod hub;
#[path = "files/inspect.rs"]
mod inspect;
#[path = "files/random.rs"]
mod random;
#[path = "files/safetensors.rs"]
mod safetensors;
