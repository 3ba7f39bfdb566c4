//! Bare mixers by the name of their kind: what a layer of a composed config is, from its settings and the shapes of its
//! leaves.

use crate::blueprint::{
    Attention, Declared, DeltaHeads, DeltaNet, DeltaNorm, Forget, GatedDelta, GatedDeltaLayout, GatedNorm, Gla, Gsa,
    HeadOutput, Kda, Lightning, LinearHeads, Mamba2, Mla, Moba, Norm, Nsa, NsaBlocks, Part, Projection, QkNormKind,
    QkvNames, Retention, Rope, Rwkv7Bare, Skip, SlotOutput,
};
use crate::parts::Registry;
use crate::weights::Leaves;
use crate::{Error, Result};
use std::rc::Rc;

pub(super) fn register(r: &mut Registry) {
    r.kind("full_attention", full_attention);
    r.kind("mamba2", mamba2);
    r.kind("rwkv7", rwkv7);
    r.kind("gla", gla);
    r.kind("retnet", retnet);
    r.kind("deltanet", deltanet);
    r.kind("gsa", gsa);
    r.kind("nsa", nsa);
    r.kind("moba", moba);
    r.kind("gated_deltanet", gated_deltanet);
    r.kind("kda", kda);
    r.kind("mla", mla);
    r.kind("lightning", lightning);
}

/// Axis `axis` of a leaf.
fn dim(l: &Leaves, leaf: &str, axis: usize) -> Result<i32> {
    let shape = l.shape(leaf).ok_or_else(|| Error::tensor(l.path(leaf), "missing"))?;
    shape.get(axis).copied().ok_or_else(|| Error::tensor(l.path(leaf), format!("shape {shape:?} has no axis {axis}")))
}

/// Outputs of a projection, whatever form it is stored in.
fn rows(l: &Leaves, leaf: &str) -> Result<i32> {
    dim(l, &format!("{leaf}.weight"), 0)
}

/// Width of each of `n` parts of a projection's outputs; what the settings say under a key must agree.
fn width(l: &Leaves, leaf: &str, n: i32, (key, said): (&str, Option<i32>)) -> Result<i32> {
    let all = rows(l, leaf)?;
    if n < 1 || all % n != 0 || all < n || said.is_some_and(|s| s != all / n) {
        let by = said.map_or(String::new(), |s| format!(" of {key} {s}"));
        return Err(Error::tensor(l.path(&format!("{leaf}.weight")), format!("{all} rows are no {n} parts{by}")));
    }
    Ok(all / n)
}

fn setting(d: &Declared, key: &str) -> Result<Option<i32>> {
    match d.settings.opt_usize(key)? {
        None => Ok(None),
        Some(n) => i32::try_from(n).map(Some).map_err(|_| d.settings.error(key, format!("{n} is too large"))),
    }
}

fn setting_or(d: &Declared, key: &str, default: i32) -> Result<i32> {
    Ok(setting(d, key)?.unwrap_or(default))
}

fn positive(d: &Declared, key: &str, n: i32) -> Result<i32> {
    if n > 0 { Ok(n) } else { Err(d.settings.error(key, "must not be 0")) }
}

fn heads(d: &Declared) -> Result<i32> {
    positive(d, "H", setting_or(d, "H", d.heads)?)
}

/// Query heads, kv heads and width of a head of grouped attention.
fn grouped(d: &Declared, l: &Leaves) -> Result<(i32, i32, i32)> {
    let heads = heads(d)?;
    let head_dim = width(l, "q_proj", heads, ("K", setting(d, "K")?))?;
    let kv_heads = width(l, "k_proj", head_dim, ("HK", setting(d, "HK")?))?;
    match heads % kv_heads {
        0 => Ok((heads, kv_heads, head_dim)),
        _ => Err(Error::tensor(l.path("k_proj.weight"), format!("{kv_heads} kv heads do not divide {heads} heads"))),
    }
}

/// As many key and value heads as queries, each as wide as the leaves say.
fn linear(d: &Declared, l: &Leaves) -> Result<LinearHeads> {
    let h = heads(d)?;
    Ok(LinearHeads::bare(
        d.hidden,
        h,
        width(l, "k_proj", h, ("K", setting(d, "K")?))?,
        width(l, "v_proj", h, ("V", setting(d, "V")?))?,
    ))
}

fn full_attention(d: &Declared, l: &Leaves) -> Result<Part> {
    let (heads, kv_heads, head_dim) = grouped(d, l)?;
    if d.head_dim.is_some_and(|said| said != head_dim) && setting(d, "K")?.is_none() {
        let rows = heads * head_dim;
        return Err(Error::tensor(
            l.path("q_proj.weight"),
            format!("{rows} rows contradict head_dim and {heads} heads"),
        ));
    }
    let rope = Rope::from_config(&d.rope, head_dim, 10_000.0);
    let mut a = Attention::new(d.hidden, heads, kv_heads, head_dim).rope(rope);
    (a.qkv_bias, a.o_bias) = (l.has("q_proj.bias"), l.has("o_proj.bias"));
    if l.has("q_norm.weight") {
        a = a.qk_norm(QkNormKind::PerHead, Norm::rms(d.eps));
    }
    Ok(Rc::new(a))
}

/// Sizes follow from A_log, the convolution and the input projection; groups are declared.
fn mamba2(d: &Declared, l: &Leaves) -> Result<Part> {
    let heads = dim(l, "A_log", 0)?;
    let (channels, kernel) = (dim(l, "conv1d.weight", 0)?, dim(l, "conv1d.weight", 1)?);
    let groups = positive(d, "G", setting_or(d, "G", 1)?)?;
    let inner = rows(l, "in_proj")? - channels - heads;
    let shared = channels - inner;
    let fits = heads > 0 && inner > 0 && inner % heads == 0 && shared > 0 && shared % (2 * groups) == 0;
    if !fits || heads % groups != 0 {
        return Err(Error::tensor(
            l.path("in_proj.weight"),
            format!("{heads} heads, {channels} convolved channels and {groups} groups leave {inner} inner channels"),
        ));
    }
    let m = Mamba2 {
        hidden: d.hidden,
        heads,
        head_dim: inner / heads,
        state: shared / (2 * groups),
        groups,
        kernel,
        bias: [l.has("in_proj.bias"), l.has("out_proj.bias")],
        conv_bias: l.has("conv1d.bias"),
        dt_limit: (0.0, f32::INFINITY),
        eps: d.eps,
        norm: if l.has("norm.weight") { GatedNorm::Whole } else { GatedNorm::None },
        gate_first: !d.settings.flag_or("norm_before_gate", true)?,
        skip: if l.has("D") { Skip::PerHead } else { Skip::None },
        dt_bias: l.has("dt_bias"),
    };
    for (key, is) in [("H", m.heads), ("P", m.head_dim), ("N", m.state), ("conv", m.kernel)] {
        if let Some(said) = setting(d, key)?.filter(|&said| said != is) {
            return Err(d.settings.error(key, format!("{said}, the leaves of {} say {is}", l.path(""))));
        }
    }
    Ok(Rc::new(m))
}

/// Keys and values as wide as each other, expanded head by head from a latent row; no norms, no rotation.
fn mla(d: &Declared, l: &Leaves) -> Result<Part> {
    let heads = heads(d)?;
    let said = setting(d, "K")?.map(|k| 2 * k);
    let both = width(l, "kv_b_proj", heads, ("K", said))?;
    if both % 2 != 0 {
        let message = format!("{both} rows of each head are no key and value of one width");
        return Err(Error::tensor(l.path("kv_b_proj.weight"), message));
    }
    let q_rank =
        if l.has("q_a_proj.weight") { Some(width(l, "q_a_proj", 1, ("q_rank", setting(d, "q_rank")?))?) } else { None };
    let rank = width(l, "kv_a_proj_with_mqa", 1, ("rank", setting(d, "rank")?))?;
    Ok(Rc::new(Mla::new(d.hidden, heads, q_rank, rank, [both / 2, 0, both / 2])))
}

fn rwkv7(d: &Declared, l: &Leaves) -> Result<Part> {
    let heads = heads(d)?;
    let (key_dim, value_dim) =
        (width(l, "receptance", heads, ("K", setting(d, "K")?))?, width(l, "value", heads, ("V", setting(d, "V")?))?);
    Ok(Rc::new(Rwkv7Bare { hidden: d.hidden, heads, key_dim, value_dim }))
}

fn gla(d: &Declared, l: &Leaves) -> Result<Part> {
    let normalizer = d.settings.f32_or("normalizer", 1.0f32)?;
    let (heads, output) = (linear(d, l)?, HeadOutput::bare());
    Ok(Rc::new(Gla { heads, forget: Forget::PerKey, normalizer, clamp_min: None, feature_map: None, output }))
}

/// Heads as wide in values as in keys, with the decays of the first layer of a published model unless `rate` says more.
fn lightning(d: &Declared, l: &Leaves) -> Result<Part> {
    let heads = heads(d)?;
    let head_dim = width(l, "q_proj", heads, ("K", setting(d, "K")?))?;
    let rate = d.settings.f32_or("rate", 1.0f32)?;
    Ok(Rc::new(Lightning { rate, ..Lightning::bare(d.hidden, heads, head_dim) }))
}

fn retnet(d: &Declared, l: &Leaves) -> Result<Part> {
    Ok(Rc::new(Retention { heads: linear(d, l)?, feature_map: None, rope: None, output: HeadOutput::bare() }))
}

fn deltanet(d: &Declared, l: &Leaves) -> Result<Part> {
    let qk_norm = if d.settings.flag("q_l2")? { DeltaNorm::Unit } else { DeltaNorm::UnitKeys };
    Ok(Rc::new(DeltaNet {
        heads: linear(d, l)?,
        qk_activation: None,
        silu_values: false,
        qk_norm,
        beta: true,
        negative: false,
        output: HeadOutput::bare(),
    }))
}

fn gsa(d: &Declared, l: &Leaves) -> Result<Part> {
    let heads = linear(d, l)?;
    let slots = width(l, "f_proj", heads.heads, ("M", setting(d, "M")?))?;
    Ok(Rc::new(Gsa {
        slots,
        normalizer: d.settings.f32_or("normalizer", slots as f32)?,
        scale: d.settings.f32_or("scale", 1.0f32)?,
        feature_map: None,
        output: SlotOutput::Gated,
        heads,
    }))
}

fn nsa(d: &Declared, l: &Leaves) -> Result<Part> {
    let (heads, kv_heads, head_dim) = grouped(d, l)?;
    let window = setting_or(d, "window", 512)?;
    let blocks = NsaBlocks {
        size: positive(d, "block_size", setting_or(d, "block_size", 64)?)?,
        count: positive(d, "block_counts", setting_or(d, "block_counts", 16)?)?,
        window: (window > 0).then_some(window),
    };
    let v_head_dim = width(l, "v_proj", kv_heads, ("V", setting(d, "V")?))?;
    Ok(Rc::new(Nsa { hidden: d.hidden, heads, kv_heads, head_dim, v_head_dim, bias: false, blocks, rope: None }))
}

fn moba(d: &Declared, l: &Leaves) -> Result<Part> {
    let (heads, kv_heads, head_dim) = grouped(d, l)?;
    Ok(Rc::new(Moba {
        hidden: d.hidden,
        heads,
        kv_heads,
        head_dim,
        bias: false,
        qk_norm: None,
        block: positive(d, "block_size", setting_or(d, "block_size", 64)?)?,
        count: setting_or(d, "topk", 4)?,
        dense_decode: false,
        rope: None,
        output: HeadOutput::bare(),
    }))
}

/// The heads of a published delta rule; value heads are counted by `b_proj`.
fn delta_heads(d: &Declared, l: &Leaves) -> Result<DeltaHeads> {
    let (key_heads, value_heads) = (heads(d)?, rows(l, "b_proj")?);
    if value_heads < 1 || value_heads % key_heads != 0 {
        let message = format!("{value_heads} value heads are no multiple of {key_heads} key heads");
        return Err(Error::tensor(l.path("b_proj.weight"), message));
    }
    Ok(DeltaHeads {
        hidden: d.hidden,
        key_heads,
        value_heads,
        key_dim: width(l, "k_proj", key_heads, ("K", setting(d, "K")?))?,
        value_dim: width(l, "v_proj", value_heads, ("V", setting(d, "V")?))?,
        conv: if l.has("q_conv1d.weight") { Some(dim(l, "q_conv1d.weight", 1)?) } else { None },
        conv_bias: l.has("q_conv1d.bias"),
        negative_eigenvalues: d.settings.flag("allow_neg_eigval")?,
        eps: d.eps,
    })
}

fn gated_deltanet(d: &Declared, l: &Leaves) -> Result<Part> {
    let gate = l.has("g_proj.weight");
    Ok(Rc::new(GatedDelta { heads: delta_heads(d, l)?, layout: GatedDeltaLayout::Separate, gate }))
}

fn kda(d: &Declared, l: &Leaves) -> Result<Part> {
    let narrow = |name: &str| {
        let [first, second] = ["0", "1"].map(|i| format!("{name}.{i}"));
        let (rank, bias) = (rows(l, &first)?, l.has(&format!("{second}.bias")));
        Ok::<_, Error>(Projection::LowRank { first, second, rank, bias })
    };
    Ok(Rc::new(Kda {
        heads: delta_heads(d, l)?,
        qkv: QkvNames::separate(),
        lower_bound: d.settings.opt_f32("lower_bound")?,
        decay: narrow("f_proj")?,
        gate: narrow("g_proj")?,
    }))
}
