//! How keys and values lie in buffers: as they are, or packed to a few bits.

use super::{Attend, attention_weights};
use crate::{Error, Result};
use mlx::fast::KvBuffers;
use mlx::{self as mx, Array, Dtype, Quant};
use std::ops::Range;

/// The form of keys and values in a buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Dense,
    Packed { keys: Quant, values: Quant },
}

/// Arrays [B, Hkv, T, _]: keys and values, or words, scales and biases of the keys and then of the values.
#[derive(Debug, Clone)]
pub(super) struct Parts(Vec<Array>);

fn pack(dense: &Array, q: Quant) -> [Array; 3] {
    let (words, scales, biases) = mx::quantize(dense, q);
    let biases = biases.unwrap_or_else(|| mx::zeros_like(&scales));
    [words, scales, biases]
}

impl Form {
    /// Packed in groups along the head dimension.
    pub fn packed(group_size: i32, key_bits: i32, value_bits: i32) -> Result<Form> {
        let quant = |bits: i32| match Quant::affine(group_size, bits) {
            q if q.is_valid() => Ok(q),
            _ => Err(Error::Request(format!("KV cache: {bits} bits in groups of {group_size} are not supported"))),
        };
        Ok(Form::Packed { keys: quant(key_bits)?, values: quant(value_bits)? })
    }

    /// Refuses head dimensions that do not divide into groups.
    pub fn check(&self, k: &Array, v: &Array) -> Result<()> {
        let Form::Packed { keys: q, .. } = self else { return Ok(()) };
        for (name, d) in [("key", k.dim(-1)), ("value", v.dim(-1))] {
            if d % q.group_size != 0 {
                let group = q.group_size;
                return Err(Error::Request(format!(
                    "KV cache: {name} width {d} is not a multiple of the group {group}"
                )));
            }
        }
        Ok(())
    }

    /// k and v [B, Hkv, L, D] in this form.
    pub fn store(&self, k: Array, v: Array) -> Parts {
        Parts(match *self {
            Form::Dense => vec![k, v],
            Form::Packed { keys, values } => [pack(&k, keys), pack(&v, values)].concat(),
        })
    }

    /// The dense form of what is stored.
    pub fn dense(&self, p: &Parts, dtype: Dtype) -> (Array, Array) {
        match (self, &p.0[..]) {
            (Form::Packed { keys, values }, [kw, ks, kb, vw, vs, vb]) => (
                mx::dequantize(kw, ks, Some(kb), *keys, Some(dtype)),
                mx::dequantize(vw, vs, Some(vb), *values, Some(dtype)),
            ),
            (_, parts) => (parts[0].clone(), parts[1].clone()),
        }
    }

    /// Attention of q [B, H, L, D] over what is stored. One token multiplies packed sides as they are; for more, their
    /// dense form costs less than weights of L x T.
    pub fn attend(&self, q: &Array, p: &Parts, dtype: Dtype, a: Attend<'_>) -> Array {
        let [b, h, l, d] = q.dims();
        let (Form::Packed { keys, values }, None, None, 1) = (self, a.sinks, a.softcap, l) else {
            let (k, v) = self.dense(p, dtype);
            return super::sdpa(q, &k, &v, a);
        };
        let groups = p.0[0].dim(1);
        let q = (q * a.scale).reshape([b, groups, h / groups, l, d]);
        let side: Vec<Array> = p.0.iter().map(|a| a.expand_dims(2)).collect();
        let scores = mx::quantized_matmul(&q, &side[0], &side[1], Some(&side[2]), true, *keys);
        let weights = attention_weights(scores, a.mask);
        mx::quantized_matmul(&weights, &side[3], &side[4], Some(&side[5]), false, *values).reshape([b, h, l, -1])
    }
}

impl Parts {
    /// The same for steps of one kernel.
    pub fn live(&self, form: Form) -> Option<KvBuffers> {
        match (&self.0[..], form) {
            ([k, v], Form::Dense) => Some(KvBuffers::new(k.clone(), v.clone())),
            ([a, b, c, d, e, f], Form::Packed { keys, values }) => {
                let [k, v] = [[a, b, c], [d, e, f]].map(|side| side.map(Array::clone));
                Some(KvBuffers::packed(k, v, [keys, values]))
            }
            _ => None,
        }
    }
    /// What such steps have left, for reading.
    pub fn of(live: &KvBuffers) -> Parts {
        Parts(live.all().into_vec())
    }
    /// And for writing.
    pub fn from_live(live: KvBuffers) -> Parts {
        Parts(live.into_all().into_vec())
    }
    /// Tokens in the buffers.
    pub fn len(&self) -> i32 {
        self.0[0].dim(2)
    }
    pub fn arrays(&self) -> &[Array] {
        &self.0
    }
    pub fn map(self, f: impl Fn(Array) -> Array) -> Parts {
        Parts(self.0.into_iter().map(f).collect())
    }
    /// Each array with its partner in `other`.
    pub fn zip(&self, other: &Parts, f: impl Fn(&Array, &Array) -> Array) -> Parts {
        Parts(self.0.iter().zip(&other.0).map(|(a, b)| f(a, b)).collect())
    }
    /// The tokens of a range; the same buffers when that is all.
    pub fn slice(&self, r: Range<i32>) -> Parts {
        if r == (0..self.len()) { self.clone() } else { self.clone().map(|a| a.slice_axis(2, r.clone())) }
    }
    /// Zeros for `n` tokens.
    pub fn zeros(&self, n: i32) -> Parts {
        self.clone().map(|a| {
            let [b, h, _, d] = a.dims();
            mx::zeros([b, h, n, d], a.dtype())
        })
    }
    /// This, then `more`.
    pub fn then(&self, more: &Parts) -> Parts {
        self.zip(more, |a, b| mx::concatenate(&[a, b], 2))
    }
    /// Writes `new` in place, from token `at` on.
    pub fn write(&mut self, at: i32, new: &Parts) {
        let range = at..at + new.len();
        self.0.iter_mut().zip(&new.0).for_each(|(old, new)| old.update_axis(2, range.clone(), new));
    }
    /// Two arrays, or six; `None` for others.
    pub fn from_arrays(arrays: Vec<Array>, form: &Form) -> Option<Parts> {
        let n = if *form == Form::Dense { 2 } else { 6 };
        let len = arrays.first().filter(|a| a.ndim() == 4)?.dim(2);
        (arrays.len() == n && arrays.iter().all(|a| a.ndim() == 4 && a.dim(2) == len)).then_some(Parts(arrays))
    }
}
