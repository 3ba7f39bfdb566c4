//! Last layers that take keys and values of earlier ones (gemma3n, gemma4).

use crate::families::prelude::*;

/// The first layer that takes keys and values of an earlier one; `default`: how many do.
pub fn first_shared(c: &Config, default: i32) -> Result<i32> {
    let (layers, shared) = (size(c, "num_hidden_layers")?, size_or(c, "num_kv_shared_layers", default)?);
    if shared > layers {
        return Err(c.error("num_kv_shared_layers", format!("{shared} of {layers} layers")));
    }
    Ok(layers - shared)
}

/// Makes layer i leave its keys and values to those behind `first` of its type, or take them from the last before.
pub fn share_kv(c: &Config, mixer: &mut Attention, types: &[String], first: i32, i: usize) -> Result<()> {
    let (kind, first) = (&types[i], first as usize);
    let last = types[..first].iter().rposition(|t| t == kind);
    mixer.share = match (i >= first, last) {
        (true, None) => return Err(c.error("num_kv_shared_layers", format!("no {kind} layer to share with"))),
        (true, Some(_)) => KvShare::Take(kind.clone()),
        (false, Some(last)) if last == i && first < types.len() => KvShare::Leave(kind.clone()),
        (false, _) => KvShare::None,
    };
    if i >= first {
        (mixer.projections, mixer.cache) = (Projections::Query { q: "q_proj".into() }, CacheKind::None);
    }
    Ok(())
}

/// Drops what layers from `first` on do not compute: keys, values and their norm.
pub fn drop_shared_kv(t: &mut Tensors, layers: std::ops::Range<i32>) {
    for l in layers {
        let unused = ["k_proj.", "v_proj.", "k_norm."].map(|p| format!("model.layers.{l}.self_attn.{p}"));
        t.drop_where(|n| unused.iter().any(|p| n.starts_with(p)));
    }
}
