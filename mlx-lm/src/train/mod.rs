//! Fine-tuning: datasets, batches, losses, adapters, the training loop, checkpoints that resume bit for bit, fusing.
//!
//! File formats, flags and defaults are Python mlx-lm's (`mlx_lm.lora`), so that adapters interchange.

mod adapters;
mod batches;
mod checkpoint;
mod config;
mod data;
mod fuse;
mod log;
mod loss;
mod optimizer;
mod peft;
mod plot;
mod resident;
mod shuffle;
mod step;
mod trainer;

pub use adapters::{AdapterConfig, attach, load_adapters, save_adapters};
pub use batches::{Batch, Batches, Packed};
pub use config::{BatchOrder, FineTune, LoraConfig, LoraParameters, OptimizerName, ScheduleConfig};
pub(crate) use data::each_record;
pub use data::{Dataset, Example};
pub use fuse::{FuseReport, fuse};
pub use log::Log;
pub use loss::{Loss, cross_entropy};
pub use optimizer::optimizer;
pub use peft::save_peft;
pub use plot::{html, svg};
pub use resident::Adapters;
pub use shuffle::Shuffle;
pub use step::Stepper;
pub use trainer::{Report, Tick, Trainer, evaluate, evaluate_while};
