//! What is minimised.

use super::batches::Batch;
use crate::Result;
use crate::decoder::Decoder;
use mlx::{self as mx, Array};

/// A loss: (mean over learned tokens, number of them), both 0-d.
pub type Loss = dyn Fn(&Decoder, &Batch) -> Result<(Array, Array)>;

/// Mean cross entropy of the tokens from each row's offset to its length (`default_loss`).
///
/// As in Python the mask reaches one position past the end of a padded row. In packed rows it does not, and examples do
/// not see each other.
pub fn cross_entropy(decoder: &Decoder, batch: &Batch) -> Result<(Array, Array)> {
    let t = batch.ids.dim(1);
    let inputs = batch.ids.slice_axis(1, 0..t - 1);
    let targets = batch.ids.slice_axis(1, 1..t);
    let (logits, mask) = match &batch.packed {
        Some(p) => (decoder.forward_packed(&inputs, &p.segments)?, p.learned.clone()),
        None => {
            let steps = mx::arange(1, t, 1, None);
            let column = |i: i32| batch.lengths.slice_axis(1, i..i + 1);
            let mask = steps.ge(column(0)).logical_and(steps.le(column(1)));
            (decoder.forward_direct(&inputs)?, mask)
        }
    };
    // on CUDA one kernel each way, without a copy of the logits
    let ce = mx::fast::cross_entropy(&logits, &targets) * &mask;
    let tokens = mask.sum(());
    Ok((ce.sum(()) / &tokens, tokens))
}
