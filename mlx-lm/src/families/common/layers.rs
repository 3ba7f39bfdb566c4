//! Attention, norms and layers of the usual forms.

use crate::families::prelude::*;

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

/// A decoder of the config's sizes whose layer i is `layer(i)`.
pub fn decoder(d: &Dims, norm: Norm, tied: bool, layer: impl Fn(i32) -> Layer) -> Blueprint {
    Blueprint::new(d.vocab, d.hidden, norm, tied, (0..d.layers).map(layer).collect())
}

/// As [`decoder`], of layers that may be refused.
pub fn try_decoder(d: &Dims, norm: Norm, tied: bool, layer: impl Fn(i32) -> Result<Layer>) -> Result<Blueprint> {
    let layers = (0..d.layers).map(layer).collect::<Result<_>>()?;
    Ok(Blueprint::new(d.vocab, d.hidden, norm, tied, layers))
}

/// As [`decoder`], of equal layers.
pub fn alike(d: &Dims, norm: Norm, tied: bool, layer: Layer) -> Blueprint {
    decoder(d, norm, tied, |_| layer.clone())
}

/// The llama shape: `input_layernorm`, `self_attn`, `post_attention_layernorm`, `mlp` in every layer.
pub fn llama_shape(d: &Dims, mixer: Attention, mlp: Mlp, tied: bool) -> Blueprint {
    alike(d, rms(d), tied, llama_layer(d, mixer, mlp))
}

/// One layer of the llama shape.
pub fn llama_layer(d: &Dims, mixer: impl Spec, ffn: impl Spec) -> Layer {
    pre_norms(rms(d), ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, ffn)
}

/// One layer of the llama shape with experts, or without them SwiGLU of the config's width.
pub fn mixed_layer(d: &Dims, mixer: impl Spec, experts: Option<&Moe>) -> Layer {
    match experts {
        Some(moe) => llama_layer(d, mixer, moe.clone()),
        None => llama_layer(d, mixer, swiglu(d)),
    }
}

/// A norm before each branch: the names of norm, mixer, norm, ffn.
pub fn pre_norms(norm: Norm, names: [&str; 4], mixer: impl Spec, ffn: impl Spec) -> Layer {
    let [before, at, between, then] = names;
    Layer::sequential([Branch::mixer(before, norm, at, mixer), Branch::ffn(between, norm, then, ffn)])
}

/// As [`llama_layer`], of parts that layers share, with the mixer's leaves under `name`.
pub fn pre_norm_layer(d: &Dims, name: &str, mixer: &Part, ffn: &Part) -> Layer {
    let norm = |n: &str| Some((n.to_string(), rms(d)));
    Layer::sequential([
        Branch::new(norm("input_layernorm"), name, BranchPart::Mixer(mixer.clone())),
        Branch::new(norm("post_attention_layernorm"), "mlp", BranchPart::Ffn(ffn.clone())),
    ])
}

/// One norm, then both branches beside each other: the names of norm, mixer, ffn.
pub fn parallel(norm: Norm, [before, at, then]: [&str; 3], mixer: impl Spec, ffn: impl Spec) -> Layer {
    let branches = [Branch::mixer("", norm, at, mixer).no_norm(), Branch::ffn("", norm, then, ffn).no_norm()];
    Layer::parallel(Some((before.into(), norm)), branches)
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
