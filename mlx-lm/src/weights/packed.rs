//! Quantisation parameters of a module from the shapes of its tensors, cross-checked with the config.
use super::{Checkpoint, Dtype, TensorInfo};
use crate::config::{QuantMode, QuantParams, Quantization};
use crate::{Error, Result};

impl Checkpoint {
    /// How the module at `path` (no `.weight`) is packed; `None`: it is not (no `.scales`, or a weight that is not U32).
    ///
    /// `columns` is the module's input width where the caller knows it: the shapes then decide alone, as in Python.
    /// Without it they only tell bits × group size, and the config decides between the pairs that fit.
    /// Errors: shapes that fit no mode, or that contradict what the config lists for this path.
    pub fn packed_as(&self, q: &Quantization, path: &str, columns: Option<usize>) -> Result<Option<QuantParams>> {
        let name = format!("{path}.weight");
        let fail = |message: String| Error::tensor(&name, message);
        let weight = self.need(&name)?;
        let (listed, default) = match q {
            Quantization::Mlx(q) => (q.listed(path), Some(q.default)),
            Quantization::Foreign(f) => (None, f.mlx()),
            Quantization::None => (None, None),
        };
        let Some(scales) = self.info(&format!("{path}.scales")) else {
            return match (weight.dtype, q) {
                (Dtype::U32, Quantization::Mlx(_)) => Err(fail("is packed, but has no scales".into())),
                _ => Ok(None),
            };
        };
        if weight.dtype != Dtype::U32 {
            return Ok(None);
        }
        let declared = match listed {
            Some(None) => return Err(fail("the config says it is not quantised, but it is packed".into())),
            Some(declared) => declared,
            None => None,
        };
        let biases = self.contains(&format!("{path}.biases"));
        let found = geometry(weight, scales, biases, columns, declared.or(default)).map_err(fail)?;
        match declared {
            Some(d) if d != found => Err(fail(format!("the config says {d}, the shapes say {found}"))),
            _ => Ok(Some(found)),
        }
    }
}

/// Group size, bits and mode from packed shapes.
///
/// Shapes alone give the product bits × group = 32 · words / groups; `columns` separates the two. Without it `hint`
/// wins if it fits, then its group size, then its bits, then the usual group sizes.
pub fn geometry(
    weight: &TensorInfo,
    scales: &TensorInfo,
    has_biases: bool,
    columns: Option<usize>,
    hint: Option<QuantParams>,
) -> Result<QuantParams, String> {
    let (Some((&words, rows)), Some((&groups, scale_rows))) = (weight.shape.split_last(), scales.shape.split_last())
    else {
        return Err("weight or scales have no dimensions".into());
    };
    if rows != scale_rows {
        return Err(format!("weight {:?} and scales {:?} have different rows", weight.shape, scales.shape));
    }
    let stream = words.checked_mul(32).filter(|s| groups > 0 && *s > 0 && s % groups == 0);
    let product = stream.ok_or_else(|| format!("{words} words do not divide into {groups} groups"))? / groups;
    let mut all: Vec<QuantParams> = match has_biases {
        true => [64, 32, 128].into_iter().map(|group| QuantParams::affine(group, product / group)).collect(),
        false => QuantMode::ALL.into_iter().filter(|m| *m != QuantMode::Affine).map(QuantMode::defaults).collect(),
    };
    all.retain(|p| p.group_size * p.bits == product && p.check().is_ok());
    if let Some(columns) = columns {
        all.retain(|p| p.group_size * groups == columns);
    }
    let hint =
        hint.filter(|h| all.first().is_some_and(|p| (p.mode == QuantMode::Affine) == (h.mode == QuantMode::Affine)));
    let like =
        |same: fn(&QuantParams, &QuantParams) -> bool| all.iter().copied().find(|p| hint.is_some_and(|h| same(p, &h)));
    let found = like(|p, h| p == h)
        .or_else(|| like(|p, h| p.group_size == h.group_size))
        .or_else(|| like(|p, h| p.bits == h.bits))
        .or(all.first().copied());
    found.ok_or_else(|| {
        let kind = if has_biases { "affine format" } else { "mode without biases" };
        let width = columns.map_or(String::new(), |c| format!(" over {c} columns"));
        format!("no {kind} has {product} bits per group{width} (weight {:?}, scales {:?})", weight.shape, scales.shape)
    })
}
