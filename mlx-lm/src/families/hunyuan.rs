//! Hunyuan: per-head norms after the rotation, projected keys and values shared by neighbouring layers, a shared MLP
//! beside the experts, always a tied head.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["hunyuan"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = shape(c)?;
    let mut full = attention(c, &d)?.bias(c.flag("attention_bias")?);
    if c.flag("use_qk_norm")? {
        full = full.qk_norm_named(QkNormKind::PerHead, rms(&d), "query_layernorm", "key_layernorm", true);
    }
    let share = if c.flag("use_cla")? { c.usize_or("cla_share_factor", 2usize)?.max(1) } else { 1 };
    try_decoder(&d, rms(&d), true, |i| {
        let i = i as usize;
        let mut mixer = full.clone();
        if !i.is_multiple_of(share) {
            mixer.share = KvShare::TakeProjected;
            mixer.projections = Projections::Query { q: "q_proj".into() };
        } else if share > 1 {
            mixer.share = KvShare::LeaveProjected;
        }
        Ok(match size(c, "num_experts")? {
            1 => llama_layer(&d, mixer, swiglu(&d)),
            _ => llama_layer(&d, mixer, experts(c, &d, i)?),
        })
    })
}

fn shape(c: &Config) -> Result<Dims> {
    let d = dims(c)?;
    Ok(Dims { head_dim: d.hidden / d.heads, ..d })
}

/// A size for all layers, or a list with one per layer.
fn per_layer(c: &Config, key: &str, layer: usize) -> Result<Option<i32>> {
    if !c.get(key).is_some_and(|v| v.is_array()) {
        return c.opt_usize(key)?.map(|n| fit(c, key, n)).transpose();
    }
    match c.usizes(key)?.get(layer) {
        Some(&n) => fit(c, key, n).map(Some),
        None => Err(c.error(key, format!("no entry for layer {layer}"))),
    }
}

fn experts(c: &Config, d: &Dims, layer: usize) -> Result<Moe> {
    let top_k = per_layer(c, "moe_topk", layer)?.ok_or_else(|| c.error("moe_topk", "missing"))?;
    let inner = per_layer(c, "moe_intermediate_size", layer)?.unwrap_or(d.inner);
    let router = Router { name: "gate.wg".into(), ..Router::softmax(false) };
    let moe = Moe::swiglu(d.hidden, inner, size(c, "num_experts")?, top_k, router);
    if !c.flag("use_mixed_mlp_moe")? {
        return Ok(moe);
    }
    let shared = per_layer(c, "num_shared_expert", layer)?.unwrap_or(1);
    Ok(moe.shared("shared_mlp", Mlp::swiglu(d.hidden, d.inner * shared), None))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = shape(c)?;
    plain_checkpoint(c, t)?;
    t.drop_where(|n| n.starts_with("lm_head."));
    for name in t.select(|n| n.contains(".qkv_proj.")) {
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|part| name.replace("qkv_proj", part));
        let group = d.heads / d.kv_heads * d.head_dim;
        t.split_groups(&name, d.kv_heads, &[(group, &q), (d.head_dim, &k), (d.head_dim, &v)])?;
    }
    for name in t.select(|n| n.contains(".gate_and_up_proj.")) {
        // up comes first
        let [up, gate] = ["up_proj", "gate_proj"].map(|part| name.replace("gate_and_up_proj", part));
        let half = t.shape(&name).and_then(|s| s.first()).map_or(0, |rows| rows / 2);
        t.split(&name, 0, &[(half, &up), (half, &gate)])?;
    }
    stack_experts(t, d.layers, size(c, "num_experts")?, "mlp.experts", "mlp.switch_mlp")
}
