//! Tasks that a model is measured on (what lm-eval's adapter of mlx-lm does, on local files): multiple choice through
//! [`loglikelihood`], exact match through [`generate_until`], and reports of both.

mod score;
mod task;

pub use score::{Completion, generate_until, loglikelihood};
pub use task::{EvaluateOptions, Item, Kind, Report, Task, run};
