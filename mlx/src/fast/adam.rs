//! One update of Adam as a single op, where a dozen small ones are bound by their launches. The plain form is
//! `optim::adam`.

use super::cuda;
use crate::{Array, Dtype};

/// What an update computes with, besides the arrays of its parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamStep<'a> {
    pub rate: &'a Array,
    /// With bias correction: rate / (1 - b1^t), 1 / sqrt(1 - b2^t).
    pub corrections: Option<(&'a Array, &'a Array)>,
    pub betas: [f64; 2],
    pub eps: f32,
    /// Weight decay (AdamW).
    pub decay: f32,
}

/// The new parameter, m and v for a gradient g; `None` where no single kernel does it.
pub(crate) fn adam_fused([g, p, m, v]: [&Array; 4], a: &AdamStep<'_>) -> Option<[Array; 3]> {
    let gpu = cuda::current_gpu()?;
    let (first, second) = a.corrections.unwrap_or((a.rate, a.rate));
    let scalars = [a.rate, first, second];
    let fits = [g, p, m, v].iter().all(|x| x.dtype() == Dtype::Float32 && x.shape() == p.shape())
        && scalars.iter().all(|x| x.dtype() == Dtype::Float32 && x.size() == 1);
    let traced = || [g, p, m, v].into_iter().chain(scalars).any(super::backend::is_traced);
    (fits && !traced()).then(|| cuda::adam::adam(gpu, [g, p, m, v], a))?
}
