//! SIMD CPU kernels for the operations that make up a language model: products with packed and dense matrices, attention, norms,
//! rotary embeddings, gated activations, embedding rows, linear recurrences, short
//! convolutions.
//!
//! Functions take borrowed buffers ([`Floats`], [`FloatsMut`], strided [`View4`]) and check every size before anything runs, so safe
//! arguments cannot make them read or write outside; buffers from raw pointers come through `unsafe` constructors with their
//! contract. Each kernel is written once over vectors of an instruction set and chosen by what the processor has ([`Isa`]);
//! [`plain`] says in f64 loops what each computes and is what tests compare against. The crate's README says more.
//!
//! ```
//! use mlx_kernels::{Matrix, Quantized, matmul};
//! // two rows of 32 four-bit codes, all 3, scale 0.5, bias -1: every weight is 0.5
//! let (words, scales, biases) = (vec![0x33u8; 32], vec![0.5f32; 2], vec![-1f32; 2]);
//! let w: Matrix = Quantized::affine(4, 32, 2, 32, &words, (&scales).into(), (&biases).into())?.into();
//! let (x, mut y) = (vec![1f32; 32], vec![0f32; 2]);
//! matmul((&x).into(), 1, &w, None, (&mut y).into())?;
//! assert_eq!(y, [16.0, 16.0]);
//! # Ok::<(), mlx_kernels::Error>(())
//! ```

mod attention;
mod data;
mod decode;
mod error;
mod gemm;
mod gemv;
mod isa;
mod linear;
mod linear_scan;
mod matmul;
mod norm;
pub mod plain;
mod pointwise;
mod pool;
mod prepare;
mod quant;
mod rope;
mod scratch;
mod selective_scan;
mod short_conv;
mod simd;
mod step;
mod straight;
mod tiles;

pub use attention::{Attention, Mask, attention, attention_on};
pub use data::{DType, Floats, FloatsMut, View4, View4Mut};
pub use error::{Error, Result};
pub use isa::Isa;
pub use linear::{Linear, linear, linear_on};
pub use linear_scan::{LinearScan, Rule, linear_scan, linear_scan_on};
pub use matmul::{gather_matmul, gather_matmul_on, matmul, matmul_on, matmul_straight, matmul_straight_on};
pub use norm::{add_rms_norm, add_rms_norm_on, layer_norm, layer_norm_on, rms_norm, rms_norm_on, softmax, softmax_on};
pub use pointwise::{Gate, embed, embed_on, gated, gated_on, swiglu};
pub use pool::threads;
pub use quant::{Matrix, Mode, Quantized};
pub use rope::{Freqs, Rope, rope, rope_on};
pub use scratch::Between;
pub use selective_scan::{SelectiveScan, selective_scan, selective_scan_on};
pub use short_conv::{ShortConv, short_conv, short_conv_on};
pub use step::{DecodeStep, Rotation, decode_step, decode_step_on};
