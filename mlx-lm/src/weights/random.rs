//! Weights out of nothing: random values in the shapes that a model asks for, to time it without its checkpoint.

use crate::{Error, Result};
use mlx::{self as mx, Array, Dtype, Quant, QuantMode};
use std::cell::Cell;

/// Answers for any leaf, each with values of its own.
pub struct RandomWeights {
    dtype: Dtype,
    count: Cell<u64>,
}

impl RandomWeights {
    /// Values (and scales of packed weights) are of this floating type.
    pub fn new(dtype: Dtype) -> Self {
        RandomWeights { dtype, count: Cell::new(0) }
    }

    fn key(&self) -> Array {
        self.count.set(self.count.get() + 1);
        mx::random::key(self.count.get())
    }

    /// Matrices keep the size of what passes through them; vectors are around one, as norms are.
    pub(super) fn array(&self, name: &str, shape: &[i32]) -> Result<Array> {
        if shape.iter().any(|&d| d <= 0) {
            let message = format!("random weights cannot tell its shape from {shape:?}");
            return Err(Error::tensor(name, message));
        }
        let (low, high) = match shape {
            [] | [_] => (0.9, 1.1),
            [.., last] => {
                let bound = 1.0 / (*last as f64).sqrt();
                (-bound, bound)
            }
        };
        let key = self.key();
        Ok(mx::catch(|| mx::random::uniform(low, high, shape, self.dtype, Some(&key)))?)
    }

    /// Packed weights [..rows, input]: weight, scales, biases.
    pub(super) fn packed(
        &self,
        name: &str,
        rows: &[i32],
        input: i32,
        quant: Quant,
    ) -> Result<(Array, Array, Option<Array>)> {
        let shape = |last: i32| rows.iter().copied().chain([last]).collect::<Vec<_>>();
        if !quant.is_valid() || input * quant.bits % 32 != 0 {
            return Err(Error::tensor(name, format!("{quant:?} does not pack {input} inputs")));
        }
        if quant.mode != QuantMode::Affine {
            let dense = self.array(name, &shape(input))?;
            return Ok(mx::catch(|| mx::quantize(&dense, quant))?);
        }
        let key = self.key();
        // steps so small that the largest value is that of a dense weight
        let top = ((1i64 << quant.bits) - 1) as f32;
        let bound = 1.0 / (input as f32).sqrt();
        mx::catch(|| {
            let weight = mx::random::bits(shape(input * quant.bits / 32), 4, Some(&key));
            let groups = shape(input / quant.group_size);
            let scales = mx::full(groups.as_slice(), 2.0 * bound / top, Some(self.dtype));
            let biases = mx::full(groups.as_slice(), -bound, Some(self.dtype));
            (weight, scales, Some(biases))
        })
        .map_err(Error::from)
    }
}
