//! Merging adapters into the weights they adapt.

use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::nn::{Module, Path as Names};
use mlx::{self as mx, Array, Dtype};

/// What [`fuse`] did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct FuseReport {
    /// Paths of the layers that took an adapter.
    pub fused: Vec<String>,
    /// Quantised layers of whose update less than half is left after packing: it is below a quantisation step.
    pub lost: Vec<String>,
}

/// Adds every adapter to its weight. A quantised weight is dequantised, added to and packed again in its own form, or left
/// dense with `dequantize`.
///
/// # Errors
/// No layer has an adapter.
pub fn fuse(decoder: &mut Decoder, dequantize: bool) -> Result<FuseReport> {
    let mut report = FuseReport::default();
    let mut failed = None;
    decoder.layers_mut(&mut Names::new(), &mut |path, mut layer| {
        if layer.adapter().is_none() || failed.is_some() {
            return;
        }
        report.fused.push(path.to_string());
        let (before, quant) = (layer.dense_weight(), layer.quant());
        layer.fuse(true);
        if let Some(q) = quant.filter(|_| !dequantize) {
            let wanted = layer.dense_weight() - &before;
            layer.quantize(q);
            match kept(&wanted, &(layer.dense_weight() - before)) {
                Ok(share) if share < 0.5 => report.lost.push(path.to_string()),
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
        }
    });
    if let Some(e) = failed {
        return Err(e.into());
    }
    if report.fused.is_empty() {
        return Err(Error::Request("no layer has an adapter: nothing to fuse".into()));
    }
    Ok(report)
}

/// How much of an update is in what came of it: their inner product over the square of the update.
fn kept(wanted: &Array, got: &Array) -> mx::Result<f32> {
    let (w, g) = (wanted.astype(Dtype::Float32), got.astype(Dtype::Float32));
    let square = w.square().sum(()).item::<f32>()?;
    if square == 0.0 { Ok(1.0) } else { Ok((w * g).sum(()).item::<f32>()? / square) }
}
