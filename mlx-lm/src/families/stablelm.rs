//! StableLM: layer norm, part of each head rotates; StableLM 2 12B runs its branches in parallel and norms q and k.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["stablelm"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::layer(c.f32_or("layer_norm_eps", 1e-5f32)?, true);
    let head_dim = d.hidden / d.heads;
    let rope = Rope::partial(&c.rope()?, head_dim, 0.25, 10_000.0);
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, head_dim).rope(rope);
    mixer.qkv_bias = c.flag_or("use_qkv_bias", false)?;
    mixer.f32_scores = true;
    if c.flag_or("qk_layernorm", false)? {
        let kind = QkNormKind::RowPerHead;
        mixer = mixer.qk_norm_named(kind, Norm::layer(norm.eps, false), "q_layernorm", "k_layernorm", false);
    }
    let layer = if c.flag_or("use_parallel_residual", false)? {
        parallel(norm, ["input_layernorm", "self_attn", "mlp"], mixer, swiglu(&d))
    } else {
        pre_norms(norm, ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, swiglu(&d))
    };
    Ok(alike(&d, norm, false, layer))
}

/// One norm per head becomes one with a row per head.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let heads = size(c, "num_attention_heads")?;
    let kv_heads = size_or(c, "num_key_value_heads", heads)?;
    for l in 0..size(c, "num_hidden_layers")? {
        for (name, heads) in [("q_layernorm", heads), ("k_layernorm", kv_heads)] {
            let at = format!("model.layers.{l}.self_attn.{name}");
            t.stack(heads, |h| format!("{at}.norms.{h}.weight"), format!("{at}.weight"))?;
        }
    }
    plain_checkpoint(c, t)
}
