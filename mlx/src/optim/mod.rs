//! Optimizers (`mlx.optimizers`): their state is arrays with Python's names, so that it can be saved, compiled and
//! exchanged.
//!
//! ```
//! use mlx::{array, nn::{self, Linear}, optim::{Adam, Optimizer}};
//! let mut model = Linear::init(2, 1, true);
//! let mut opt = Adam { betas: [0.9, 0.95], ..Adam::new(1e-2) };
//! let step = nn::value_and_grad(|m: &Linear, x: &mlx::Array| (m.forward(x) - 1.0).square().sum(()));
//! for _ in 0..3 {
//!     let (loss, grads) = step(&mut model, &array!([[1.0, 2.0]]));
//!     opt.update(&mut model, &grads);
//!     mlx::eval(opt.state().values().chain([&loss]))?;
//! }
//! assert_eq!(opt.step().item::<u64>()?, 3);
//! # Ok::<(), mlx::Error>(())
//! ```

mod adafactor;
mod adam;
mod base;
mod clip;
mod multi;
mod muon;
pub mod schedule;
mod sgd;
mod simple;

pub use adafactor::Adafactor;
pub use adam::{Adam, AdamW, Adamax};
pub use base::{Base, Optimizer, Rate, Slots};
pub use clip::clip_grad_norm;
pub use multi::MultiOptimizer;
pub use muon::Muon;
pub use schedule::*;
pub use sgd::SGD;
pub use simple::{AdaDelta, Adagrad, Lion, RMSprop};
