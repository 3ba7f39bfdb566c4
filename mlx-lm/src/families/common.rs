//! Readings of a config that most families share.

use crate::Result;
use crate::blueprint::{Attention, Blueprint, Branch, GroupScore, Groups, Layer, Mlp, Moe, Norm, Rope, Router, Spec};
use crate::config::Config;
use crate::weights::Tensors;

/// A size as the array layer counts it.
pub fn size(c: &Config, key: &str) -> Result<i32> {
    fit(c, key, c.usize(key)?)
}

/// A size with a default.
pub fn size_or(c: &Config, key: &str, default: i32) -> Result<i32> {
    match c.opt_usize(key)? {
        Some(n) => fit(c, key, n),
        None => Ok(default),
    }
}

/// `n`, read under `key`, as the array layer counts it.
pub fn fit(c: &Config, key: &str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| c.error(key, format!("{n} is too large")))
}

/// Sizes that every decoder has.
#[derive(Debug, Clone, Copy)]
pub struct Dims {
    pub hidden: i32,
    pub layers: i32,
    pub vocab: i32,
    pub inner: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub eps: f32,
}

/// Reads [`Dims`] under their usual keys; `head_dim` defaults to hidden / heads, `num_key_value_heads` to heads.
pub fn dims(c: &Config) -> Result<Dims> {
    dims_with_layers(c, "num_hidden_layers")
}

/// As [`dims`], with the number of layers under another key.
pub fn dims_with_layers(c: &Config, layers: &str) -> Result<Dims> {
    Ok(Dims { inner: size(c, "intermediate_size")?, ..read_dims(c, layers)? })
}

/// As [`dims`] for models of experts only, whose configs have no width of a dense MLP: `inner` is then 0.
pub fn dims_of_experts(c: &Config) -> Result<Dims> {
    read_dims(c, "num_hidden_layers")
}

/// As [`dims_with_layers`]; `inner` is 0 where the config has no `intermediate_size`.
pub fn read_dims(c: &Config, layers: &str) -> Result<Dims> {
    let (hidden, heads) = (size(c, "hidden_size")?, size(c, "num_attention_heads")?);
    if heads == 0 {
        return Err(c.error("num_attention_heads", "must not be 0"));
    }
    let kv_heads = size_or(c, "num_key_value_heads", heads)?;
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(c.error("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads")));
    }
    Ok(Dims {
        hidden,
        layers: size(c, layers)?,
        vocab: size(c, "vocab_size")?,
        inner: size_or(c, "intermediate_size", 0)?,
        heads,
        kv_heads,
        head_dim: size_or(c, "head_dim", hidden / heads)?,
        eps: c.f32_or("rms_norm_eps", 1e-6f32)?,
    })
}

/// [`Dims`] under GPT-2's keys: `n_embd`, `n_layer`, `n_head`, `n_inner`; `eps` is `layer_norm_epsilon`.
pub fn gpt_dims(c: &Config) -> Result<Dims> {
    let (hidden, heads) = (size(c, "n_embd")?, size(c, "n_head")?);
    if heads == 0 || hidden % heads != 0 {
        return Err(c.error("n_head", format!("{heads} does not divide n_embd {hidden}")));
    }
    Ok(Dims {
        hidden,
        layers: size(c, "n_layer")?,
        vocab: size(c, "vocab_size")?,
        inner: size_or(c, "n_inner", 4 * hidden)?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        eps: c.f32_or("layer_norm_epsilon", 1e-5f32)?,
    })
}

/// `tie_word_embeddings`, with the family's default.
pub fn tied_or(c: &Config, default: bool) -> Result<bool> {
    Ok(c.tie_word_embeddings()?.unwrap_or(default))
}

/// As [`plain_checkpoint`], for families whose head is tied by default.
pub fn tied_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    if tied_or(c, true)? {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    plain_checkpoint(c, t)
}

/// Attention of the usual form, with the config's rotary embedding.
pub fn attention(c: &Config, d: &Dims) -> Result<Attention> {
    Ok(Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).rope(rope(c, d)?))
}

/// The config's rotary embedding over the whole head.
pub fn rope(c: &Config, d: &Dims) -> Result<Rope> {
    Ok(Rope::from_config(&c.rope()?, d.head_dim, 10_000.0).traditional(c.flag_or("rope_traditional", false)?))
}

/// SwiGLU of the config's width.
pub fn swiglu(d: &Dims) -> Mlp {
    Mlp::swiglu(d.hidden, d.inner)
}

/// The RMS norm of the config's eps.
pub fn rms(d: &Dims) -> Norm {
    Norm::rms(d.eps)
}

/// The llama shape: `input_layernorm`, `self_attn`, `post_attention_layernorm`, `mlp` in every layer.
pub fn llama_shape(d: &Dims, mixer: Attention, mlp: Mlp, tied: bool) -> Blueprint {
    let layer = llama_layer(d, mixer, mlp);
    Blueprint::new(d.vocab, d.hidden, rms(d), tied, vec![layer; d.layers as usize])
}

/// One layer of the llama shape.
pub fn llama_layer(d: &Dims, mixer: impl Spec, ffn: impl Spec) -> Layer {
    Layer::sequential([
        Branch::mixer("input_layernorm", rms(d), "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", rms(d), "mlp", ffn),
    ])
}

/// Nothing but what no model needs: rotary tables, and a head that is tied.
pub fn plain_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.ends_with("rotary_emb.inv_freq"));
    if c.tie_word_embeddings()?.unwrap_or(false) {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    Ok(())
}

/// Stacks published per-expert tensors of all layers: `model.layers.L.{from}.E.{leaf}` become
/// `model.layers.L.{to}.{leaf}`, for weights, scales and biases of gate, up and down.
pub fn stack_experts(t: &mut Tensors, layers: i32, experts: i32, from: &str, to: &str) -> Result<()> {
    let leaves = [("gate_proj", "gate_proj"), ("up_proj", "up_proj"), ("down_proj", "down_proj")];
    stack_experts_named(t, layers, experts, from, to, &leaves)
}

/// As [`stack_experts`], with the published leaf names and what they become (mixtral's w1, w3, w2).
pub fn stack_experts_named(
    t: &mut Tensors,
    layers: i32,
    experts: i32,
    from: &str,
    to: &str,
    names: &[(&str, &str)],
) -> Result<()> {
    for l in 0..layers {
        let layer = format!("model.layers.{l}");
        for (old, new) in names {
            for leaf in ["weight", "scales", "biases", "bias"] {
                t.stack(experts, |e| format!("{layer}.{from}.{e}.{old}.{leaf}"), format!("{layer}.{to}.{new}.{leaf}"))?;
            }
        }
    }
    Ok(())
}

/// The text part of a multimodal checkpoint under plain names: towers are dropped, `language_model.` goes.
pub fn text_names(t: &mut Tensors) -> Result<()> {
    const TOWERS: [&str; 8] = [
        "vision_tower.",
        "vision_model.",
        "multi_modal_projector.",
        "visual.",
        "audio_tower.",
        "embed_audio.",
        "embed_vision.",
        "vision_embedder.",
    ];
    t.drop_where(|n| {
        let n = n.strip_prefix("model.").unwrap_or(n);
        TOWERS.iter().any(|p| n.starts_with(p))
    });
    t.replace_prefix("model.language_model.", "model.")?;
    t.replace_prefix("language_model.", "")
}

/// Drops layers that the config does not count (multi-token prediction).
pub fn drop_extra_layers(t: &mut Tensors, layers: i32) {
    t.drop_where(|n| {
        let layer =
            n.strip_prefix("model.layers.").and_then(|r| r.split('.').next()).and_then(|l| l.parse::<i32>().ok());
        layer.is_some_and(|l| l >= layers)
    });
}

/// Which layers slide: `layer_types`, or the family's rule for layer i.
pub fn sliding_layers(c: &Config, layers: i32, rule: impl Fn(i32) -> bool) -> Result<Vec<bool>> {
    match c.opt_strings("layer_types")? {
        Some(types) if types.len() < layers as usize => {
            Err(c.error("layer_types", format!("{} entries for {layers} layers", types.len())))
        }
        Some(types) => Ok(types.iter().map(|t| t == "sliding_attention").collect()),
        None => Ok((0..layers).map(rule).collect()),
    }
}

/// A layer with norms on the input and the output of both branches; an empty name leaves that norm out.
pub fn sandwich_layer(norms: [&str; 4], norm: Norm, mixer: impl Spec, ffn: impl Spec) -> Layer {
    let finish = |mut b: Branch, before: &str, after: &str| {
        if before.is_empty() {
            b = b.no_norm();
        }
        if after.is_empty() { b } else { b.post_norm(after, norm) }
    };
    let [a, b, e, f] = norms;
    Layer::sequential([
        finish(Branch::mixer(a, norm, "self_attn", mixer), a, b),
        finish(Branch::ffn(e, norm, "mlp", ffn), e, f),
    ])
}

/// Width of the shared experts, if the config has any (`n_shared_experts`).
pub fn shared_width(c: &Config) -> Result<Option<i32>> {
    Ok(match c.opt_usize("n_shared_experts")? {
        None | Some(0) => None,
        Some(n) => Some(size(c, "moe_intermediate_size")? * n as i32),
    })
}

/// Experts under DeepSeek-V3's keys: sigmoid scores, a correction bias, groups, shared experts.
pub fn noaux_moe(c: &Config, d: &Dims) -> Result<Moe> {
    let count = size_or(c, "n_group", 1)?;
    let groups = Groups { count, top: size_or(c, "topk_group", 1)?, score: GroupScore::TopTwo, fill: 0.0 };
    let top_k = size(c, "num_experts_per_tok")?;
    let renormalise = top_k > 1 && c.flag_or("norm_topk_prob", true)?;
    let router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 1f32)?);
    let moe = Moe::swiglu(d.hidden, size(c, "moe_intermediate_size")?, size(c, "n_routed_experts")?, top_k, router);
    Ok(match shared_width(c)? {
        Some(inner) => moe.shared("shared_experts", Mlp::swiglu(d.hidden, inner), None),
        None => moe,
    })
}

/// `{from}.gate_up_proj` [E, D, 2 I] and `{from}.down_proj` [E, I, D] become matrices [E, out, in] under `to`.
pub fn split_joined_experts(t: &mut Tensors, inner: i32, from: &str, to: &str) -> Result<()> {
    let (joined, outward) = (format!("{from}.gate_up_proj"), format!("{from}.down_proj"));
    for name in t.select(|n| n.ends_with(&joined)) {
        let layer = name.trim_end_matches(joined.as_str());
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|p| format!("{layer}{to}.{p}.weight"));
        t.split(&name, -1, &[(inner, &gate), (inner, &up)])?;
        t.rename(&format!("{layer}{outward}"), down.as_str())?;
        t.transpose_where(|n| [&gate, &up, &down].iter().any(|m| *m == n))?;
    }
    Ok(())
}
