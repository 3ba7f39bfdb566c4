//! nanochat: norms without weights, the opposite direction of rotation, norms on q and k after it.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nanochat"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_plain(1e-5);
    let head_dim = d.hidden / d.heads;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, head_dim)
        .rope(Rope::backwards(head_dim, c.rope()?.theta_or(10_000.0)))
        .qk_norm_named(QkNormKind::PerHead, norm, "q_norm", "k_norm", true)
        .output("c_proj");
    mixer.projections = Projections::Separate { q: "c_q".into(), k: "c_k".into(), v: "c_v".into() };
    let mlp = Mlp::plain(d.hidden, d.inner, Activation::Relu2, "c_fc", "c_proj");
    let layer = pre_norms(norm, ["norm_1", "attn", "norm_2", "mlp"], mixer, mlp);
    let mut b = alike(&d, norm, false, layer).paths("transformer.wte", "transformer.h", "transformer.norm");
    b.embed.norm = Some(("transformer.embed_norm".into(), norm));
    b.head.softcap = Some(15.0);
    Ok(b)
}
