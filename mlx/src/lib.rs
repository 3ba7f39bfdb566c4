//! Apple's MLX array framework in Rust.
//!
//! Names are Python's: `mx.softmax(x, axis=-1)` is `mx::softmax(&x, -1)` or `x.softmax(-1)`.
//!
//! ```
//! use mlx::{self as mx, Array, Dtype};
//! let x = mx::arange(0, 6, 1, None).astype(Dtype::Float32).reshape([2, 3]);
//! let y = (&x * 2.0 + 1.0).softmax(-1);
//! assert_eq!(y.shape(), [2, 3]);
//! y.eval()?;
//! # Ok::<(), mx::Error>(())
//! ```
//!
//! Three rules carry the crate:
//! - **Ops panic, the world returns `Result`.** Building a graph from wrong shapes is a programming error and panics
//!   with the op's name and shapes; [`catch`] turns it into an error. Evaluation, reading, files return [`Result`].
//! - **Arrays stay on their thread.** MLX changes graph nodes while it evaluates them.
//! - **Numbers are weak.** `x * 2.0` keeps the dtype of a floating `x`, as in Python.

// so that the derives' `::mlx` paths work inside the crate
extern crate self as mlx;

mod array;
mod cpu;
mod device;
pub mod distributed;
mod dtype;
mod error;
pub mod fast;
mod ffi;
pub mod fft;
mod frozen;
mod graph;
pub mod indexing;
pub mod io;
pub mod linalg;
mod loaded;
pub mod memory;
pub mod metal;
mod nested;
pub mod nn;
mod ops;
pub mod optim;
mod pending;
pub mod plain;
mod promote;
pub mod random;
mod scalar;
mod shape;
mod stream;
mod transforms;
mod tree;

pub use array::{Array, Literal};
pub use device::{Device, DeviceFact, cuda_is_available, metal_is_available};
pub use dtype::{Complex32, Dtype, Element};
pub use error::{Error, Result, catch, try_catch};
pub use frozen::{Frozen, freeze};
pub use graph::graph_ops;
pub use indexing::{ELLIPSIS, Index, IntoIndices, NEW_AXIS, step};
pub use io::{load, save, save_gguf, save_safetensors, savez, savez_compressed};
pub use loaded::{loaded_blas, loaded_library, version};
pub use nested::Nested;
pub use nn::Module;
pub use ops::*;
pub use promote::*;
pub use scalar::{Arg, Operand, Scalar};
pub use shape::{Axes, Shape};
pub use stream::{
    Stream, default_device, default_stream, set_default_device, set_default_stream, synchronize, with_device,
    with_stream,
};
pub use transforms::*;
pub use tree::{Freeze, Tree};
