//! Merging adapters into the weights they adapt.

use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::nn::{LayerMut, Module, Path as Names};
use mlx::{self as mx, Array, Dtype};

/// What [`fuse`] did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct FuseReport {
    /// Paths of the layers that took an adapter.
    pub fused: Vec<String>,
    /// Quantised layers whose weights came out unchanged: the update is below a quantisation step.
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
    decoder.layers_mut(&mut Names::new(), &mut |path, layer| {
        let mut run = |before: &Array, after: &dyn Fn() -> Array, quantised: bool| {
            report.fused.push(path.to_string());
            if quantised && !dequantize {
                match mx::array_equal(before, after(), false).astype(Dtype::Uint8).item::<u8>() {
                    Ok(1) => report.lost.push(path.to_string()),
                    Ok(_) => {}
                    Err(e) => failed = Some(e),
                }
            }
        };
        match layer {
            LayerMut::Linear(l) if l.adapter().is_some() => {
                let (before, q) = (l.weight().clone(), l.quant().is_some());
                l.fuse(dequantize);
                run(&before, &|| l.weight().clone(), q);
            }
            LayerMut::Embedding(l) if l.adapter().is_some() => {
                let (before, q) = (l.weight().clone(), l.quant().is_some());
                l.fuse(dequantize);
                run(&before, &|| l.weight().clone(), q);
            }
            LayerMut::SwitchLinear(l) if l.adapter().is_some() => {
                let (before, q) = (l.weight().clone(), l.quant().is_some());
                l.fuse(dequantize);
                run(&before, &|| l.weight().clone(), q);
            }
            _ => {}
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
