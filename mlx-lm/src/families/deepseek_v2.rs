//! DeepSeek-V2: latent attention, experts chosen by softmax, if the config says so from the best groups only.

use super::deepseek_v3;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["deepseek_v2"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mla = Mla { layout: MlaLayout::Joined, ..deepseek_v3::mla(c, &d)? };
    let experts = size_or(c, "n_routed_experts", 0)?;
    let (first, every) = (size_or(c, "first_k_dense_replace", 0)?, size_or(c, "moe_layer_freq", 1)?.max(1));
    let moe = if experts > 0 { Some(moe(c, d.hidden, experts)?) } else { None };
    let sparse = |i| moe.as_ref().filter(|_| i >= first && i % every == 0);
    Ok(decoder(&d, rms(&d), false, |i| mixed_layer(&d, mla.clone(), sparse(i))))
}

fn moe(c: &Config, hidden: i32, experts: i32) -> Result<Moe> {
    let grouped = c.opt_str("topk_method")?.is_some_and(|m| m == "group_limited_greedy");
    let groups = match grouped {
        true => Some(Groups { score: GroupScore::Max, ..groups(c, experts)? }),
        false => None,
    };
    let router = Router {
        groups: groups.filter(|g| g.count > 1),
        scale: c.f32_or("routed_scaling_factor", 1.0f32)?,
        bare: true,
        ..Router::softmax(false)
    };
    let (inner, top_k) = (size(c, "moe_intermediate_size")?, size(c, "num_experts_per_tok")?);
    let moe = Moe::swiglu(hidden, inner, experts, top_k, router);
    Ok(moe.shared_experts(inner * size_or(c, "n_shared_experts", 0)?))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    t.drop_where(|n| n.ends_with("rotary_emb.inv_freq"));
    let experts = size_or(c, "n_routed_experts", 0)?;
    if experts > 0 {
        stack_experts(t, d.layers, experts, "mlp.experts", "mlp.switch_mlp")?;
    }
    Ok(())
}
