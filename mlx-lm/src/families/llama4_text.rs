//! Llama 4 text, dense (MobileLLM): plain norms on q and k, some layers without rotation.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["llama4_text"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let rope = Rope::plain(d.head_dim, c.rope()?.theta_or(10_000.0)).traditional(true);
    let mut base = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim);
    if c.flag_or("use_qk_norm", true)? {
        base = base.qk_norm(QkNormKind::PerHead, Norm::rms_plain(d.eps));
    }
    let mlp = Mlp::swiglu(d.hidden, size(c, "intermediate_size_mlp")?);
    let rotates = c.usizes("no_rope_layers")?;
    let mut b = decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let i = i as usize;
        let on = rotates.get(i).is_none_or(|&r| r != 0);
        let mixer = if on { base.clone().rope(rope.clone()) } else { base.clone() };
        pre_norms(
            rms(&d),
            ["input_layernorm", "self_attn", "post_attention_layernorm", "feed_forward"],
            mixer,
            mlp.clone(),
        )
    });
    b.head.path = "output".into();
    Ok(b)
}
