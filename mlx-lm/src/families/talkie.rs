//! Talkie: norms without weights, the opposite direction of rotation, learned gains on queries, branches and logits, and the
//! embeddings added again by every layer.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["talkie"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_plain(c.f32_or("rms_norm_eps", f32::EPSILON)?);
    let mut mixer = Attention::new(d.hidden, d.heads, d.heads, d.head_dim)
        .rope(Rope::backwards(d.head_dim, c.rope()?.theta_or(1_000_000.0)))
        .qk_norm_named(QkNormKind::PerHead, norm, "q_norm", "k_norm", true)
        .output("attn_resid");
    mixer.projections = Projections::Separate { q: "attn_query".into(), k: "attn_key".into(), v: "attn_value".into() };
    mixer.q_gain = Some("head_gain.head_g".into());
    let mlp = Mlp::swiglu(d.hidden, d.inner).gated_as("mlp_gate", "mlp_linear", "mlp_resid");
    let skip = Branch::new(None, "", BranchPart::Ffn(Rc::new(EmbedSkip)));
    let layer = Layer::sequential([
        Branch::mixer("norm_1", norm, "attn", mixer).gain("attn_gain.a_g"),
        Branch::ffn("norm_2", norm, "mlp", mlp).gain("mlp_gain.a_g"),
        skip.gain("embed_skip.a_g"),
    ]);
    let mut b = alike(&d, norm, false, layer).paths("model.embed", "model.blocks", "model.norm");
    b.embed.norm = Some(("model.embed_norm".into(), norm));
    b.prologue = Some(Rc::new(KeepEmbeddings));
    b.head.gain = Some("lm_head_gain.w_g".into());
    Ok(b)
}

fn checkpoint(_: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.contains("rotary") || n.ends_with("cos") || n.ends_with("sin"));
    if t.has("lm_head") { t.rename("lm_head", "lm_head.weight") } else { Ok(()) }
}
