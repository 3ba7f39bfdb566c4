//! Text side of Llama 4: three layers of attention within chunks to one over everything without rotation, whose queries
//! grow with the position; every few layers one chosen and one shared expert.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["llama4"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let chunk = size(c, "attention_chunk_size")?;
    if chunk == 0 {
        return Err(c.error("attention_chunk_size", "must not be 0"));
    }
    let base = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    let mut local = base.clone();
    local.rope = local.rope.map(|r| r.traditional(true));
    local.cache = CacheKind::Chunked { size: chunk };
    if c.flag_or("use_qk_norm", true)? {
        local = local.qk_norm_named(QkNormKind::PerHead, Norm::rms_plain(1e-6), "q_norm", "k_norm", true);
    }
    let mut global = base;
    global.rope = None;
    if tunes_temperature(c)? {
        global = global.query_scale(c.f32_or("attn_scale", 0.1f32)?, c.f32_or("floor_scale", 8192f32)?, 1.0);
    }
    let moe = experts(c, &d)?;
    let mlp = Mlp::swiglu(d.hidden, size(c, "intermediate_size_mlp")?);
    let every = size_or(c, "interleave_moe_layer_step", 1)?.max(1);
    Ok(decoder(&d, rms(&d), false, |i| {
        let mixer = if (i + 1) % 4 == 0 { global.clone() } else { local.clone() };
        let ffn = match i % every == every - 1 {
            true => BranchPart::Ffn(Rc::new(moe.clone())),
            false => BranchPart::Ffn(Rc::new(mlp.clone())),
        };
        let norm = Some(("post_attention_layernorm".into(), rms(&d)));
        Layer::sequential([
            Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
            Branch::new(norm, "feed_forward", ffn),
        ])
    }))
}

/// On unless the config says 0 or false.
fn tunes_temperature(c: &Config) -> Result<bool> {
    match c.get("attn_temperature_tuning").is_some_and(|v| v.is_boolean()) {
        true => c.flag("attn_temperature_tuning"),
        false => Ok(c.i64_or("attn_temperature_tuning", 4i64)? != 0),
    }
}

fn experts(c: &Config, d: &Dims) -> Result<Moe> {
    let top_k = size(c, "num_experts_per_tok")?;
    if top_k != 1 {
        return Err(c.error("num_experts_per_tok", format!("{top_k} experts per token, only 1 is known")));
    }
    let weights = RouterWeights::Sigmoid;
    let router = Router { name: "router".into(), f32: true, weights, ..Router::top_softmax() };
    let mut moe = Moe::swiglu(d.hidden, d.inner, size(c, "num_local_experts")?, top_k, router);
    moe.experts_name = "experts".into();
    moe.weigh_input = true;
    Ok(moe.shared("shared_expert", Mlp::swiglu(d.hidden, d.inner), None))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    split_joined_experts(t, size(c, "intermediate_size")?, ".feed_forward.experts", ".feed_forward.experts")
}
