//! The decoder that all models of the linear-attention library (`fla`) share.

use crate::families::prelude::*;

/// `attn_norm`, `attn`, `mlp_norm`, `mlp` in every layer, around the family's mixer or, where `attn` lists the layer,
/// softmax attention.
pub fn fla_decoder(c: &Config, hidden: i32, layers: i32, mixer: impl Spec) -> Result<Blueprint> {
    fla_decoder_with(c, hidden, layers, 4, mixer)
}

/// As [`fla_decoder`], with another default of `hidden_ratio`.
pub fn fla_decoder_with(c: &Config, hidden: i32, layers: i32, ratio: i32, mixer: impl Spec) -> Result<Blueprint> {
    let block = residual_block(c)?;
    let layers = size_or(c, "num_hidden_layers", layers)?;
    let norm = Norm::rms(eps(c)?);
    let attention = hybrid_attention(c, hidden, layers)?;
    let (mixer, mlp): (Part, Part) = (Rc::new(mixer), Rc::new(mlp(c, hidden, ratio)?));
    let branch =
        |norm_name: &str, name: &str, part: BranchPart| Branch::new(Some((norm_name.into(), norm)), name, part);
    let layers = attention
        .into_iter()
        .enumerate()
        .map(|(i, attention)| {
            let attn = match attention {
                Some(a) => Rc::new(a),
                None => mixer.clone(),
            };
            let branches = [
                branch("attn_norm", "attn", BranchPart::Mixer(attn)),
                branch("mlp_norm", "mlp", BranchPart::Ffn(mlp.clone())),
            ];
            Ok(match block {
                None => Layer::sequential(branches),
                Some(n) => {
                    let numbered = branches.into_iter().zip(2 * i as i32..).zip(["attn_res", "mlp_res"]);
                    let mixed = numbered.map(|((branch, at), name)| ResidualBranch {
                        mix: ResidualMix::new(hidden, norm.eps, name),
                        starts: at % n == 0,
                        branch,
                    });
                    Layer::custom(ResidualLayer(mixed.collect()))
                }
            })
        })
        .collect::<Result<_>>()?;
    let b = Blueprint::new(size_or(c, "vocab_size", 32000)?, hidden, norm, tied_or(c, false)?, layers);
    let mut b = b.paths("model.embeddings", "model.layers", "model.norm");
    b.prologue = block.map(|_| Rc::new(ResidualMix::new(hidden, norm.eps, "model.res")) as Part);
    Ok(b)
}

/// Sublayers per block of attention over residuals, if there is any.
fn residual_block(c: &Config) -> Result<Option<i32>> {
    let Some(n) = c.opt_usize("attnres_block_size")? else { return Ok(None) };
    match fit(c, "attnres_block_size", n)? {
        n if n == 1 || (n > 0 && n % 2 == 0) => Ok(Some(n)),
        n => Err(c.error("attnres_block_size", format!("{n} is neither 1 nor even"))),
    }
}

/// SwiGLU, by default as wide as 2/3 `hidden_ratio` of the model, in steps of 256.
fn mlp(c: &Config, hidden: i32, ratio: i32) -> Result<Mlp> {
    let act = c.str_or("hidden_act", "swish")?;
    if act != "swish" {
        return Err(c.error("hidden_act", format!("{act} is not supported, only swish")));
    }
    let inner = match c.opt_usize("intermediate_size")? {
        Some(n) => fit(c, "intermediate_size", n)?,
        None => (i64::from(hidden) * i64::from(size_or(c, "hidden_ratio", ratio)?) * 2 / 3) as i32,
    };
    let inner = if c.has("intermediate_size") { inner } else { (inner + 255) / 256 * 256 };
    Ok(Mlp::swiglu(hidden, inner))
}

/// Softmax attention of the layers that `attn` lists: one object, or several for different layers.
fn hybrid_attention(c: &Config, hidden: i32, layers: i32) -> Result<Vec<Option<Attention>>> {
    let mut all = vec![None; layers as usize];
    for s in c.opt_objects("attn")? {
        let attention = attention(&s, hidden)?;
        for layer in s.opt_usizes("layers")?.unwrap_or_default() {
            match all.get_mut(layer) {
                None => return Err(s.error("layers", format!("{layer} is not one of {layers} layers"))),
                Some(Some(_)) => return Err(s.error("layers", format!("layer {layer} is listed twice"))),
                Some(place) => *place = Some(attention.clone()),
            }
        }
    }
    Ok(all)
}

fn attention(s: &Section, hidden: i32) -> Result<Attention> {
    let heads = size(s, "num_heads")?;
    divides(s, "num_heads", heads, hidden)?;
    let kv_heads = size_or(s, "num_kv_heads", heads)?;
    divides(s, "num_kv_heads", kv_heads, heads)?;
    let rope = Rope::plain(hidden / heads, s.f64_or("rope_theta", 10_000.0)?);
    let mut a = Attention::new(hidden, heads, kv_heads, hidden / heads).rope(rope);
    a.qkv_bias = s.flag_or("qkv_bias", false)?;
    Ok(match s.opt_usize("window_size")? {
        Some(w) => a.sliding(fit(s, "window_size", w)?),
        None => a,
    })
}

/// The heads of a gated delta rule; values are `expand_v` times as wide as keys.
pub fn delta_heads(c: &Config, hidden: i32, heads: i32, key_dim: i32, expand: f64) -> Result<DeltaHeads> {
    let (key_heads, key_dim) = (size_or(c, "num_heads", heads)?, size_or(c, "head_dim", key_dim)?);
    let wide = f64::from(key_dim) * c.f64_or("expand_v", expand)?;
    if wide.fract() != 0.0 || !(1.0..1e6).contains(&wide) {
        return Err(c.error("expand_v", format!("it makes value heads {wide} wide")));
    }
    let short = c.flag_or("use_short_conv", true)?;
    let heads = [key_heads, size_or(c, "num_v_heads", key_heads)?];
    let mut h = DeltaHeads::new(hidden, heads, [key_dim, wide as i32], size_or(c, "conv_size", 4)?, eps(c)?);
    h.conv = h.conv.filter(|_| short);
    h.negative_eigenvalues = c.flag_or("allow_neg_eigval", false)?;
    check_heads(c, "num_v_heads", h)
}

/// `norm_eps`.
pub fn eps(c: &Config) -> Result<f32> {
    c.f32_or("norm_eps", 1e-6f32)
}

/// Heads of `hidden` channels times `expand_k` and `expand_v`.
pub fn linear_heads(c: &Config, hidden: i32, heads: i32, expand: (f64, f64), conv: bool) -> Result<LinearHeads> {
    let heads = size_or(c, "num_heads", heads)?;
    let kv_heads = size_or(c, "num_kv_heads", heads)?;
    divides(c, "num_kv_heads", kv_heads, heads)?;
    divides(c, "num_heads", heads, heads)?;
    let width = |key: &str, by: f64| {
        let all = (f64::from(hidden) * by).round();
        match all as i32 % heads {
            0 if all >= 1.0 => Ok(all as i32 / heads),
            _ => Err(c.error(key, format!("{all} channels do not divide into {heads} heads"))),
        }
    };
    let conv = if conv { Some(ShortConvs { taps: size_or(c, "conv_size", 4)?, bias: false }) } else { None };
    let (key_dim, value_dim) = (width("expand_k", expand.0)?, width("expand_v", expand.1)?);
    Ok(LinearHeads { hidden, heads, kv_heads, key_dim, value_dim, conv })
}

/// `elementwise_affine` decides whether a norm has a weight.
pub fn affine(c: &Config, eps: f32) -> Result<Norm> {
    Ok(if c.flag_or("elementwise_affine", true)? { Norm::rms(eps) } else { Norm::rms_plain(eps) })
}

/// An activation under `key`.
pub fn feature_map(c: &Config, key: &str) -> Result<Option<Activation>> {
    let Some(name) = c.opt_str(key)? else { return Ok(None) };
    match Activation::from_fla(name) {
        Some(a) => Ok(Some(a)),
        None => Err(c.error(key, format!("{name:?} is not supported"))),
    }
}

/// Convolutions as this crate stores them. Older checkpoints hold gate and up in one matrix, `mlp.gate_proj`.
pub fn fla_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    t.conv_last("_conv1d.weight")?;
    for gate in t.select(|n| n.ends_with(".mlp.gate_proj.weight")) {
        let up = gate.replace("gate_proj", "up_proj");
        if t.has(&up) {
            continue;
        }
        let rows = t.shape(&gate).and_then(|s| s.first().copied()).unwrap_or(0);
        if rows % 2 != 0 {
            return Err(Error::tensor(gate, format!("{rows} rows are no gate and up together, and {up} is missing")));
        }
        t.split(&gate, 0, &[(rows / 2, &gate), (rows / 2, &up)])?;
    }
    Ok(())
}
