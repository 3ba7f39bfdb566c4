//! Mistral 4: latent attention whose queries grow with the position, experts chosen by softmax.

use super::deepseek_v3;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mistral4"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mla = mla(c, &d)?;
    let first = size(c, "first_k_dense_replace")?;
    let moe = match size_or(c, "n_routed_experts", 0)? {
        0 => None,
        experts => Some(moe(c, &d, experts)?),
    };
    let sparse = |i| moe.as_ref().filter(|_| i >= first);
    Ok(decoder(&d, rms(&d), tied_or(c, false)?, |i| mixed_layer(&d, mla.clone(), sparse(i))))
}

fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let (m, rope) = (deepseek_v3::mla(c, d)?, c.rope()?);
    let scale = QueryScale {
        beta: rope.raw.f32("llama_4_scaling_beta")?,
        every: rope.raw.f32("original_max_position_embeddings")?,
        shift: 0.0,
    };
    let turned = Rope::from_config(&rope, m.rope_dim, 100_000.0).traditional(c.flag_or("rope_interleave", true)?);
    Ok(Mla { query_scale: Some(scale), rope: Some(turned), ..m })
}

fn moe(c: &Config, d: &Dims, experts: i32) -> Result<Moe> {
    let router = Router {
        f32: true,
        groups: Some(groups(c, experts)?).filter(|g| g.count > 1),
        weights: match c.flag("norm_topk_prob")? {
            true => RouterWeights::Normalised { eps: 1e-20 },
            false => RouterWeights::Scores,
        },
        scale: c.f32("routed_scaling_factor")?,
        ..Router::softmax(false)
    };
    let (inner, top_k) = (size(c, "moe_intermediate_size")?, size(c, "num_experts_per_tok")?);
    let moe = Moe::swiglu(d.hidden, inner, experts, top_k, router);
    Ok(moe.shared_experts(inner * size_or(c, "n_shared_experts", 0)?))
}

pub fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    plain_checkpoint(c, t)?;
    // scales of activations, which stay in 16 or 32 bits here
    t.drop_where(|n| n.ends_with("activation_scale"));
    let experts = size_or(c, "n_routed_experts", 0)?;
    if experts > 0 {
        split_fused_experts(t, size(c, "moe_intermediate_size")?, "mlp.experts", "mlp.switch_mlp")?;
        stack_experts(t, d.layers, experts, "mlp.experts", "mlp.switch_mlp")?;
    }
    deepseek_v3::split_kv_b(&mla(c, &d)?, t, d.layers)
}
