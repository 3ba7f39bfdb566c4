//! Fine-tuning: datasets, batches, losses, adapters, the training loop, checkpoints that resume bit for bit, fusing.
//!
//! File formats, flags and defaults are Python mlx-lm's (`mlx_lm.lora`), so that adapters interchange.

mod adapters;
mod batches;
mod checkpoint;
mod config;
mod data;
mod fuse;
mod loss;
mod shuffle;
mod trainer;

pub use adapters::{AdapterConfig, attach, load_adapters, save_adapters};
pub use batches::{Batch, Batches};
pub use config::{FineTune, LoraConfig, LoraParameters, OptimizerName, ScheduleConfig};
pub use data::{Dataset, Example};
pub use fuse::{FuseReport, fuse};
pub use loss::{Loss, cross_entropy};
pub use shuffle::Shuffle;
pub use trainer::{Report, Trainer, evaluate};
