//! RWKV-7, as mlx-lm and the linear-attention library write it: time mixing and channel mixing, no attention.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["rwkv7"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let norm = Norm::layer(c.f32_or("norm_eps", 1e-5f32)?, c.flag_or("norm_bias", true)?);
    let (hidden, layers) = (size(c, "hidden_size")?, size(c, "num_hidden_layers")?);
    let hybrid = c.opt_sub("attn")?;
    let softmax = hybrid.as_ref().map(|a| a.usizes("layers")).transpose()?.unwrap_or_default();
    if softmax.contains(&0) {
        return Err(c.error("attn.layers", "layer 0 must be of rwkv7: later ones need its values"));
    }
    let layer = |i: i32| {
        let mix = |slot| channel_mix(c, hidden, slot).map(|m| Branch::mixer("ffn_norm", norm, "ffn", m));
        Ok(match &hybrid {
            Some(a) if softmax.contains(&(i as usize)) => {
                Layer::sequential([Branch::mixer("attn_norm", norm, "attn", attention(a, hidden)?), mix(0)?])
            }
            _ => Layer::sequential([Branch::mixer("attn_norm", norm, "attn", time_mix(c, hidden, i)?), mix(2)?])
                .sharing(CacheKind::Slots(3)),
        })
    };
    let layers = (0..layers).map(layer).collect::<Result<Vec<_>>>()?;
    let mut b = Blueprint::new(size(c, "vocab_size")?, hidden, norm, tied_or(c, false)?, layers);
    b = b.paths("model.embeddings", "model.layers", "model.norm");
    if c.flag_or("norm_first", true)? {
        b.embed.norm = Some(("model.layers.0.pre_norm".into(), norm));
    }
    Ok(b)
}

/// Heads by their width, or by their number.
fn heads(c: &Config, hidden: i32) -> Result<i32> {
    let (key, heads) = match c.opt_usize("head_dim")? {
        Some(width) => ("head_dim", hidden / (width as i32).max(1)),
        None => ("num_heads", size(c, "num_heads")?),
    };
    if heads < 1 || hidden % heads != 0 { Err(c.error(key, format!("does not divide {hidden}"))) } else { Ok(heads) }
}

fn time_mix(c: &Config, hidden: i32, layer: i32) -> Result<Rwkv7> {
    let heads = heads(c, hidden)?;
    let width = c.opt_usizes("value_dim")?.map(|v| v.get(layer as usize).copied().unwrap_or(0));
    let values = width.map_or(hidden, |w| w as i32);
    if values < 1 || values % heads != 0 {
        return Err(c.error("value_dim", format!("{values} in layer {layer} does not divide into {heads} heads")));
    }
    // the library's own config says how it computes norms; mlx-lm's form has fixed small numbers
    let (unit, eps) = match c.opt_flag("fuse_norm")? {
        None => (UnitNorm::AtLeast(1e-7), 64e-5),
        Some(fused) => {
            let eps = (hidden / heads) as f32 * c.f32_or("norm_eps", 1e-5f32)?;
            (if fused { UnitNorm::Root(1e-6) } else { UnitNorm::AtLeast(1e-12) }, eps)
        }
    };
    let ranks = Rwkv7Ranks {
        w: size(c, "decay_low_rank_dim")?,
        a: size(c, "a_low_rank_dim")?,
        v: size(c, "v_low_rank_dim")?,
        g: size(c, "gate_low_rank_dim")?,
    };
    Ok(Rwkv7 { hidden, heads, values, first: layer == 0, ranks, unit, eps })
}

fn channel_mix(c: &Config, hidden: i32, slot: usize) -> Result<ChannelMix> {
    let name = c.str_or("hidden_act", "sqrelu")?;
    let activation =
        Activation::from_name(name).ok_or_else(|| c.error("hidden_act", format!("{name} is not known")))?;
    // the library's default width: a multiple of 32
    let wide = (hidden as f32 * c.f32_or("hidden_ratio", 4.0f32)?) as i32;
    Ok(ChannelMix { hidden, inner: size_or(c, "intermediate_size", (wide + 31) / 32 * 32)?, activation, slot })
}

/// The softmax attention of hybrids.
fn attention(a: &Section, hidden: i32) -> Result<Attention> {
    let heads = a.usize("num_heads")? as i32;
    let kv_heads = a.usize_or("num_kv_heads", heads as usize)? as i32;
    if heads < 1 || hidden % heads != 0 || kv_heads < 1 || heads % kv_heads != 0 {
        return Err(a.error("num_heads", format!("{heads} heads, {kv_heads} of keys, do not fit a width of {hidden}")));
    }
    let mut m = Attention::new(hidden, heads, kv_heads, hidden / heads)
        .rope(Rope::plain(hidden / heads, a.f64_or("rope_theta", 10_000.0f64)?));
    m.qkv_bias = a.flag_or("qkv_bias", false)?;
    Ok(match a.opt_usize("window_size")? {
        Some(window) => m.sliding(window as i32),
        None => m,
    })
}

/// Vectors of heads are flat in published checkpoints; an older form joins the factors of the token shift.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let heads = heads(c, size(c, "hidden_size")?)?;
    let flat = ["attn.k_k", "attn.k_a", "attn.g_norm.weight", "attn.g_norm.bias"];
    for name in t.select(|n| flat.iter().any(|f| n.ends_with(f))) {
        if t.shape(&name).is_some_and(|s| s.len() == 1) {
            t.unflatten_rows(&name, heads, &name)?;
        }
    }
    for name in t.select(|n| n.ends_with("attn.x_x")) {
        let at = name.trim_end_matches("x_x");
        let parts = ["r", "w", "k", "v", "a", "g"].map(|p| format!("{at}x_{p}"));
        t.unflatten_rows(&name, 1, &name)?;
        t.split(&name, 1, &parts.each_ref().map(|p| (1, p.as_str())))?;
    }
    Ok(())
}
