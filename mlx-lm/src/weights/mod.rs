//! Checkpoints as bytes: which tensors there are, of what type and shape, and where their bytes lie.
//!
//! Lives here: safetensors and GGUF files (read from memory maps, distrusting every number in them), sharded
//! checkpoints, writing shards, inspection by headers; on top of them the tensors being loaded ([`Tensors`]) and what a
//! mixer sees of them ([`Leaves`]). No knowledge of families.
mod bytes;
mod checkpoint;
mod codebook;
mod compressed;
mod dtype;
pub mod foreign;
pub mod gguf;
mod gptq;
mod inspect;
mod jang;
pub(crate) mod jangtq;
mod leaves;
mod packed;
mod random;
pub mod safetensors;
mod save;
mod tensors;

pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, Format, GgufOptions};
pub use dtype::Dtype;
pub use inspect::{Inspection, QuantCount, inspect, inspect_checkpoint};
pub use jang::Jang;
pub use leaves::{Leaves, mode};
pub use packed::geometry;
pub use random::RandomWeights;
pub use safetensors::TensorInfo;
pub use save::{MAX_SHARD_BYTES, Saved, Tensor, save_shards, write_atomic};
pub use tensors::Tensors;
