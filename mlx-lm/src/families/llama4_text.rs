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
    let layers = (0..d.layers as usize)
        .map(|i| {
            let on = rotates.get(i).is_none_or(|&r| r != 0);
            let mixer = if on { base.clone().rope(rope.clone()) } else { base.clone() };
            Layer::sequential([
                Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
                Branch::ffn("post_attention_layernorm", rms(&d), "feed_forward", mlp.clone()),
            ])
        })
        .collect();
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers);
    b.head.path = "output".into();
    Ok(b)
}
