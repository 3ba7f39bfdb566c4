//! SIMD CPU kernels for the operations that make up a language model.

mod attention;
mod data;
mod decode;
mod error;
mod gemm;
mod gemv;
mod isa;
mod matmul;
mod norm;
pub mod plain;
mod pointwise;
mod pool;
mod quant;
mod rope;
mod scratch;
mod simd;
mod straight;
mod tiles;

pub use attention::{Attention, Mask, attention, attention_on};
pub use data::{DType, Floats, FloatsMut, View4, View4Mut};
pub use error::{Error, Result};
pub use isa::Isa;
pub use matmul::{gather_matmul, gather_matmul_on, matmul, matmul_on, matmul_straight, matmul_straight_on};
pub use norm::{add_rms_norm, add_rms_norm_on, layer_norm, layer_norm_on, rms_norm, rms_norm_on, softmax, softmax_on};
pub use pointwise::{Gate, embed, embed_on, gated, gated_on, swiglu};
pub use pool::threads;
pub use quant::{Matrix, Mode, Quantized};
pub use rope::{Freqs, Rope, rope, rope_on};
