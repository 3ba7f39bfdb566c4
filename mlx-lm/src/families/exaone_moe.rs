//! EXAONE MoE: sliding layers rotate, full ones do not; sigmoid router with correction bias, shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["exaone_moe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let rotating =
        attention(c, &d)?.rope(Rope::from_config(&c.rope()?, d.head_dim, 1e6)).qk_norm(QkNormKind::PerHead, rms(&d));
    let slides = sliding_layers(c, d.layers, |_| false)?;
    let all_rotate = !slides.contains(&true);
    let groups = groups(c, size(c, "num_experts")?)?;
    let top_k = size(c, "num_experts_per_tok")?;
    let renormalise = top_k > 1 && c.flag_or("norm_topk_prob", true)?;
    let router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 2.5f32)?);
    let inner = size(c, "moe_intermediate_size")?;
    let moe = Moe::swiglu(d.hidden, inner, size(c, "num_experts")?, top_k, router)
        .shared_experts(inner * size_or(c, "num_shared_experts", 0)?);
    let sparse = c.opt_flags("is_moe_layer")?.unwrap_or_default();
    try_decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let i = i as usize;
        let mut mixer = rotating.clone();
        if slides[i] {
            mixer = mixer.sliding(size(c, "sliding_window")?);
        } else if !all_rotate {
            mixer.rope = None;
        }
        Ok(mixed_layer(&d, mixer, (sparse.get(i) == Some(&true)).then_some(&moe)))
    })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.starts_with("mtp."));
    for name in t.select(|n| n.ends_with(".mlp.e_score_correction_bias")) {
        t.rename(&name, name.replace(".mlp.e_score", ".mlp.gate.e_score"))?;
    }
    experts_checkpoint(c, t)
}
