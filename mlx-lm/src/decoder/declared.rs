//! Layers that a config declares by kind become layers of parts: the checkpoint's own names say where a mixer's leaves lie.

use crate::blueprint::{Blueprint, Branch, BranchPart, Declared, Layer, LayerBody, Mlp, Norm};
use crate::parts::Registry;
use crate::weights::Leaves;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Sublayers that are no mixers.
const FFNS: [&str; 8] =
    ["mlp", "block_sparse_moe", "feed_forward", "ffn", "moe", "experts", "shared_experts", "shared_expert"];

/// Puts parts in place of every declared layer.
///
/// # Errors
/// Name the layer and its kind: no such kind, a leaf that is missing or misshapen, more than one place for the mixer.
pub(super) fn resolve(b: &mut Blueprint, r: &Registry, leaves: &Leaves) -> Result<()> {
    let hidden = b.hidden;
    for (i, layer) in b.layers.iter_mut().enumerate() {
        if let LayerBody::Declared(d) = &layer.body {
            let at = leaves.at(&b.layers_path).at(&i.to_string());
            *layer = parts(d, hidden, r, &at).map_err(|e| named(e, i, &d.kind))?;
        }
    }
    Ok(())
}

fn parts(d: &Declared, hidden: i32, r: &Registry, layer: &Leaves) -> Result<Layer> {
    let name = sublayer(layer)?;
    let mixer = BranchPart::Mixer(r.declared(d, &layer.at(&name))?);
    let norm = Norm::rms(d.eps);
    Ok(Layer::sequential([
        Branch::new(Some(("input_layernorm".into(), norm)), &name, mixer),
        Branch::ffn("post_attention_layernorm", norm, "mlp", Mlp::swiglu(hidden, d.inner)),
    ]))
}

/// Where the mixer's leaves lie: what comes first in names of three parts or more, empty for bare leaves.
fn sublayer(layer: &Leaves) -> Result<String> {
    let names = layer.names();
    let first = |n: &String| n.split('.').next().filter(|_| n.split('.').count() >= 3).map(String::from);
    let found: BTreeSet<String> = names.iter().filter_map(first).filter(|n| !FFNS.contains(&n.as_str())).collect();
    let mut all = found.iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(String::new()),
        (Some(one), None) => Ok(one.clone()),
        _ => {
            let list: Vec<&str> = found.iter().map(String::as_str).collect();
            Err(Error::tensor(layer.path(""), format!("the mixer could lie in any of {}", list.join(", "))))
        }
    }
}

fn named(e: Error, layer: usize, kind: &str) -> Error {
    let at = format!("layer {layer} ({kind})");
    match e {
        Error::Tensor { name, message } => Error::Tensor { name, message: format!("{message}, in {at}") },
        Error::Config { key, message } => Error::Config { key, message: format!("{message}, in {at}") },
        Error::Unsupported { what, name, message } => {
            Error::Unsupported { what, name, message: format!("layer {layer}: {message}") }
        }
        other => other,
    }
}
