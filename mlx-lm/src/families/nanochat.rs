//! nanochat: norms without weights, the opposite direction of rotation, norms on q and k after it.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nanochat"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_plain(1e-5);
    let head_dim = d.hidden / d.heads;
    let base = c.rope()?.theta_or(10_000.0);
    let backwards = (0..head_dim / 2).map(|i| -base.powf(2.0 * i as f64 / head_dim as f64) as f32).collect();
    let rope = Rope { scaling: RopeScaling::Wavelengths(backwards), ..Rope::plain(head_dim, base) };
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, head_dim)
        .rope(rope)
        .qk_norm_named(QkNormKind::PerHead, norm, "q_norm", "k_norm", true)
        .output("c_proj");
    mixer.projections = Projections::Separate { q: "c_q".into(), k: "c_k".into(), v: "c_v".into() };
    let layer = Layer::sequential([
        Branch::mixer("norm_1", norm, "attn", mixer),
        Branch::ffn("norm_2", norm, "mlp", Mlp::plain(d.hidden, d.inner, Activation::Relu2, "c_fc", "c_proj")),
    ]);
    let mut b = Blueprint::new(d.vocab, d.hidden, norm, false, vec![layer; d.layers as usize]).paths(
        "transformer.wte",
        "transformer.h",
        "transformer.norm",
    );
    b.embed.norm = Some(("transformer.embed_norm".into(), norm));
    b.head.softcap = Some(15.0);
    Ok(b)
}
