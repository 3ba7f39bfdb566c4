//! DeepSeek-V4.1: hyper-connected layers of experts; attention over a window and chosen pooled rows, which some layers
//! make and others take.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["deepseek_v41"], blueprint, checkpoint };

fn sizes(c: &Config) -> Result<Dims> {
    Ok(Dims {
        head_dim: size_or(c, "head_dim", 512)?,
        eps: c.f32_or("rms_norm_eps", 1e-20f32)?,
        ..read_dims(c, "num_hidden_layers")?
    })
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    if c.opt_usizes("engram_layer_ids")?.is_some_and(|l| !l.is_empty()) {
        return Err(c.error("engram_layer_ids", "engram memory is not supported"));
    }
    let d = sizes(c)?;
    let (streams, moe) = (size_or(c, "hc_mult", 4)?, Rc::new(moe(c, &d)?));
    let mut b = try_decoder(&d, Norm::rms(d.eps), false, |i| {
        Ok(Layer::custom(HyperLayer {
            hidden: d.hidden,
            streams,
            norm: Norm::rms(d.eps),
            mixer: Rc::new(attention(c, &d, i)?),
            ffn: moe.clone(),
            rounds: size_or(c, "hc_sinkhorn_iters", 20)?,
            eps: c.f32_or("hc_eps", 1e-6f32)?,
        }))
    })?;
    b.prologue = Some(Rc::new(HyperStreams { streams }));
    Ok(b)
}

fn attention(c: &Config, d: &Dims, layer: i32) -> Result<CompressedAttention> {
    let pool = pool(c, layer)?;
    let (rope_dim, out_groups) = (size_or(c, "qk_rope_head_dim", 64)?, size_or(c, "o_groups", 8)?);
    let (heads, window) = (d.heads, size_or(c, "sliding_window", 128)?);
    if window == 0 || rope_dim > d.head_dim {
        return Err(
            c.error("sliding_window", format!("a window of {window}, {rope_dim} of {} features turn", d.head_dim))
        );
    }
    // a group takes features, of a part of a head too
    divides(c, "o_groups", out_groups, heads * d.head_dim)?;
    let rope = rotation(c, rope_dim, pool.is_some())?;
    Ok(CompressedAttention {
        hidden: d.hidden,
        heads,
        head_dim: d.head_dim,
        q_rank: size_or(c, "q_lora_rank", 1280)?,
        rope: rope.traditional(true),
        eps: d.eps,
        window,
        out_groups,
        out_rank: size_or(c, "o_lora_rank", 1024)?,
        pool,
    })
}

/// YaRN without a factor on features, over a base of its own where rows are pooled. Where they are not it stretches
/// nothing: Python takes its formula there too, whose last bits decide how a row rounds to 8 bits.
fn rotation(c: &Config, dims: i32, pooled: bool) -> Result<Rope> {
    let base = if pooled { c.f64_or("compress_rope_theta", 160_000.0)? } else { c.f64_or("rope_theta", 10_000.0)? };
    let s = c.opt_sub("rope_scaling")?.filter(|_| pooled);
    let number = |key: &str, default: f64| s.as_ref().map_or(Ok(default), |s| s.f64_or(key, default));
    let trained = if pooled { size_or(c, "max_position_embeddings", 1 << 20)? } else { 4096 };
    let scaling = RopeScaling::Yarn {
        factor: number("factor", 1.0)?,
        original: number("original_max_position_embeddings", trained.into())?,
        beta_fast: number("beta_fast", 32.0)?.trunc(),
        beta_slow: number("beta_slow", 1.0)?.trunc(),
        mscale: 0.0,
        mscale_all_dim: 0.0,
    };
    Ok(Rope { scaling, ..Rope::plain(dims, base) })
}

fn pool(c: &Config, layer: i32) -> Result<Option<Pool>> {
    let layer = layer as usize;
    let ratios = c.opt_usizes("compress_ratios")?.unwrap_or_default();
    let Some(&ratio) = ratios.get(layer).filter(|r| **r > 0) else { return Ok(None) };
    let listed = |key: &str| Ok::<_, crate::Error>(c.opt_usizes(key)?.unwrap_or_default().contains(&layer));
    let blocks = (size_or(c, "candidate_topk_blocks", 2048)?, size_or(c, "candidate_block_size", 8)?.max(1));
    let source = c.opt_i64("candidate_source_layer_id")?.unwrap_or(-1) == layer as i64;
    let chooses = match listed("index_source_layer_ids")? {
        false => None,
        true => Some(PoolIndexer {
            heads: size_or(c, "index_n_heads", 32)?,
            head_dim: size_or(c, "index_head_dim", 128)?,
            top_k: size_or(c, "index_topk", 512)?,
            candidates: Some(blocks).filter(|b| source && b.0 > 0),
        }),
    };
    let ratio = super::common::fit(c, "compress_ratios", ratio)?;
    Ok(Some(Pool { ratio, makes: listed("kv_source_layer_ids")?, chooses }))
}

fn moe(c: &Config, d: &Dims) -> Result<Moe> {
    let (inner, top_k) = (size_or(c, "moe_intermediate_size", 2304)?, size_or(c, "num_experts_per_tok", 6)?);
    let router = Router {
        f32: true,
        scoring: match c.str_or("scoring_func", "sqrtsoftplus")? {
            "sigmoid" => Scoring::Sigmoid,
            "softmax" => Scoring::Softmax,
            "sqrtsoftplus" => Scoring::SqrtSoftplus,
            other => return Err(c.error("scoring_func", format!("{other:?} is not known"))),
        },
        temperature: c.f32_or("gate_temp", 1.0f32)?,
        correction: Some("gate.e_score_correction_bias".into()),
        weights: match top_k > 1 && c.flag_or("norm_topk_prob", true)? {
            true => RouterWeights::Normalised { eps: 1e-20 },
            false => RouterWeights::Scores,
        },
        scale: c.f32_or("routed_scaling_factor", 1.5f32)?,
        ..Router::softmax(false)
    };
    let limit = Some(c.f32_or("swiglu_limit", 10.0f32)?).filter(|l| *l > 0.0).map(Clip::Gate);
    let moe = Moe::swiglu(d.hidden, inner, size_or(c, "n_routed_experts", 384)?, top_k, router);
    let shared = Mlp { limit, ..Mlp::swiglu(d.hidden, inner) };
    let body =
        limit.map_or(Experts::Gated(Activation::Silu), |clip| Experts::Clipped { activation: Activation::Silu, clip });
    Ok(Moe { body, experts_name: "experts.switch_mlp".into(), ..moe }.shared("shared_experts", shared, None))
}

/// Published names, in the order in which they are replaced.
const NAMES: [(&str, &str); 22] = [
    (".attn.", ".self_attn."),
    (".ffn.", ".mlp."),
    (".attn_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".hc_attn_", ".attn_hc."),
    (".hc_ffn_", ".ffn_hc."),
    (".attn_sink", ".sinks"),
    (".wq_a.", ".q_a_proj."),
    (".wq_b.", ".q_b_proj."),
    (".wkv.", ".kv_proj."),
    (".wgate.", ".gate_proj."),
    (".wo_a.", ".o_a_proj."),
    (".wo_b.", ".o_b_proj."),
    (".q_norm.", ".q_a_norm."),
    (".compressor.norm.", ".compressor.kv_norm."),
    (".indexer.wk.", ".indexer.k_proj."),
    (".gate.bias", ".gate.e_score_correction_bias"),
    (".shared_experts.w1.", ".shared_experts.gate_proj."),
    (".shared_experts.w2.", ".shared_experts.down_proj."),
    (".shared_experts.w3.", ".shared_experts.up_proj."),
    ("model.head.", "lm_head."),
    ("model.embed.", "model.embed_tokens."),
];

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    if t.has_prefix("model.") {
        return Ok(());
    }
    // towers, further tokens, and a router for images
    t.drop_where(|n| {
        let apart = ["vision.", "aligner.", "image_", "mtp."];
        apart.iter().any(|p| n.starts_with(p)) || n.contains(".engram.") || n.ends_with(".gate.bias_vl")
    });
    foreign::repack_microscaled(t)?;
    t.rename_all(|n| Some(NAMES.iter().fold(format!("model.{n}"), |n, (from, to)| n.replace(from, to))))?;
    let (d, groups) = (sizes(c)?, size_or(c, "o_groups", 8)?);
    for name in t.select(|n| n.contains(".o_a_proj.")) {
        t.unflatten_rows(&name, groups, &name)?;
    }
    let leaves = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    let experts = size_or(c, "n_routed_experts", 384)?;
    stack_experts_named(t, d.layers, experts, "mlp.experts", "mlp.experts.switch_mlp", &leaves)
}
