//! DBRX: layer norms without bias, clipped fused projections, experts with renormalised softmax weights.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["dbrx"], blueprint, checkpoint };

/// Experts, how many a token goes to, width of one.
fn experts(c: &Config) -> Result<(i32, i32, i32)> {
    let f = c.sub("ffn_config")?;
    let read = |key: &str| fit(c, key, f.usize(key)?);
    Ok((read("moe_num_experts")?, read("moe_top_k")?, read("ffn_hidden_size")?))
}

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads) = (size(c, "d_model")?, size(c, "n_heads")?);
    let a = c.sub("attn_config")?;
    let kv_heads = fit(c, "kv_n_heads", a.usize("kv_n_heads")?)?;
    divides(c, "n_heads", heads, hidden)?;
    divides(&a, "kv_n_heads", kv_heads, heads)?;
    let norm = Norm::layer(1e-5, false);
    let mut mixer = Attention::new(hidden, heads, kv_heads, hidden / heads)
        .rope(Rope::plain(hidden / heads, a.f64_or("rope_theta", 10_000f64)?))
        .fused("Wqkv", FusedQkv::Blocks)
        .output("out_proj");
    mixer.clip_qkv = a.opt_f32("clip_qkv")?;
    let (count, top, inner) = experts(c)?;
    let router = Router { name: "router.layer".into(), f32: true, ..Router::softmax(true) };
    let mut moe = Moe::swiglu(hidden, inner, count, top, router);
    moe.experts_name = "experts".into();
    let layer =
        pre_norms(norm, ["norm_attn_norm.norm_1", "norm_attn_norm.attn", "norm_attn_norm.norm_2", "ffn"], mixer, moe);
    let layers = vec![layer; size(c, "n_layers")? as usize];
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, norm, false, layers);
    Ok(b.paths("transformer.wte", "transformer.blocks", "transformer.norm_f"))
}

/// Experts are published as one matrix of rows (the last one transposed), or one by one in MLX's own conversions.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let (count, ..) = experts(c)?;
    for l in 0..size(c, "n_layers")? {
        let at = format!("transformer.blocks.{l}.ffn.experts");
        for (old, new) in [("w1", "gate_proj"), ("v1", "up_proj"), ("w2", "down_proj")] {
            let (whole, to) = (format!("{at}.mlp.{old}"), format!("{at}.{new}.weight"));
            if t.has(&whole) {
                t.unflatten_rows(&whole, count, &to)?;
                if old == "w2" {
                    t.transpose_where(|n| n == to)?;
                }
            }
            stack_matrices(t, count, |e| format!("{at}.{e}.{old}"), &format!("{at}.{new}"))?;
        }
    }
    Ok(())
}
