//! Checkpoints as bytes: which tensors there are, of what type and shape, and where their bytes lie.
//!
//! Lives here: safetensors and GGUF files (read from memory maps, distrusting every number in them), sharded
//! checkpoints, writing shards, inspection by headers. No arrays here, and no knowledge of families: a tensor is a
//! name, a [`Dtype`], a shape and [`Bytes`].
mod bytes;
mod checkpoint;
mod dtype;
pub mod gguf;
mod inspect;
mod packed;
pub mod safetensors;
mod save;

pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, Format, GgufOptions};
pub use dtype::Dtype;
pub use inspect::{Inspection, QuantCount, inspect};
pub use packed::geometry;
pub use safetensors::TensorInfo;
pub use save::{MAX_SHARD_BYTES, Saved, Tensor, save_shards, write_atomic};
