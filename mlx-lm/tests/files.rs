//! Configs and checkpoint files: what they say, and that hostile ones are errors.
#[path = "files/config.rs"]
mod config;
#[path = "files/safetensors.rs"]
mod safetensors;
