//! MiniMax M3, its text side: attention to blocks of keys that an index chooses, sigmoid-routed experts, clipped SwiGLU.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["minimax_m3_vl"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_of_experts(c)?;
    let norm = if c.flag_or("use_gemma_norm", true)? { Norm::rms_offset(d.eps, 1.0) } else { Norm::rms(d.eps) };
    let (alpha, limit) = (c.f32_or("swiglu_alpha", 1.702f32)?, c.f32_or("swiglu_limit", 7.0f32)?);
    let clip = Clip::Oai { alpha, limit };
    let mlp = |inner: i32| Mlp { limit: Some(clip), ..Mlp::swiglu(d.hidden, inner) };
    let mut router = Router::noaux(None, true, c.f32_or("routed_scaling_factor", 2.0f32)?);
    router.correction = Some("e_score_correction_bias".into());
    let (experts, top) = (size_or(c, "num_local_experts", 128)?, size_or(c, "num_experts_per_tok", 4)?);
    let mut moe = Moe::swiglu(d.hidden, d.inner, experts, top, router);
    moe.body = Experts::Clipped { activation: Activation::Silu, clip };
    let moe = moe.shared("shared_experts", mlp(size_or(c, "shared_intermediate_size", 3072)?), None);
    let dense = mlp(size_or(c, "dense_intermediate_size", 12288)?);
    let (full, sparse) = attention(c, &d, norm)?;

    let layer = |i: i32| {
        let (nested, freq) = (sparse_attention(c)?, "sparse_attention_freq");
        let chooses = sparse.is_some() && listed(c, "layer_types", i, |t| t != "full_attention", nested, freq)?;
        let mixer = sparse.as_ref().filter(|_| chooses).unwrap_or(&full);
        let ffn = match listed(c, "mlp_layer_types", i, |t| t == "sparse", None, "moe_layer_freq")? {
            true => Branch::ffn("post_attention_layernorm", norm, "block_sparse_moe", moe.clone()),
            false => Branch::ffn("post_attention_layernorm", norm, "mlp", dense.clone()),
        };
        Ok(Layer::sequential([Branch::mixer("input_layernorm", norm, "self_attn", mixer.clone()), ffn]))
    };
    let layers = (0..d.layers).map(layer).collect::<Result<Vec<_>>>()?;
    let at = |name: &str| format!("language_model.model.{name}");
    let b = Blueprint::new(d.vocab, d.hidden, norm, tied_or(c, false)?, layers);
    let mut b = b.paths(&at("embed_tokens"), &at("layers"), &at("norm"));
    b.head.path = "language_model.lm_head".into();
    Ok(b)
}

/// The settings of sparse attention where the published config nests them.
fn sparse_attention(c: &Config) -> Result<Option<Section>> {
    c.opt_sub("sparse_attention_config")
}

/// Layer i's entry: a name that `accepts` likes, else a flag under the older key (nested first), else yes.
fn listed(
    c: &Config,
    names: &str,
    i: i32,
    accepts: impl Fn(&str) -> bool,
    nested: Option<Section>,
    flags: &str,
) -> Result<bool> {
    let missing = |key: &str| c.error(key, format!("no entry for layer {i}"));
    if let Some(list) = c.opt_strings(names)? {
        return list.get(i as usize).map(|t| accepts(t)).ok_or_else(|| missing(names));
    }
    let nested = nested.map(|s| s.opt_i64s(flags)).transpose()?.flatten();
    let list = if nested.is_some() { nested } else { c.opt_i64s(flags)? };
    list.map_or(Ok(true), |l| l.get(i as usize).map(|&f| f != 0).ok_or_else(|| missing(flags)))
}

/// Attention to all keys, and, if the config has an index, to the blocks that it chooses.
fn attention(c: &Config, d: &Dims, norm: Norm) -> Result<(Attention, Option<Attention>)> {
    let rope = c.rope()?;
    let share = rope.partial_rotary_factor.unwrap_or(0.5);
    let rotated = size_or(c, "rotary_dim", (d.head_dim as f64 * share) as i32)?;
    let rope = |dims: i32| Rope::from_config(&rope, dims, 5_000_000.0);
    let mut full = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).rope(rope(rotated));
    if c.flag_or("use_qk_norm", true)? {
        full = full.qk_norm(QkNormKind::PerHead, norm);
    }
    full.cache = CacheKind::List(vec![CacheKind::Kv]);
    let nested = sparse_attention(c)?;
    let read = |inner: &str, outer: &str| match &nested {
        Some(s) if s.has(inner) => s.usize(inner).map(|n| n as i32),
        _ => size(c, outer),
    };
    if !c.has("index_block_size") && !nested.as_ref().is_some_and(|s| s.has("sparse_block_size")) {
        return Ok((full, None));
    }
    let has_local = c.has("index_local_blocks") || nested.as_ref().is_some_and(|s| s.has("sparse_local_block"));
    let head_dim = read("sparse_index_dim", "index_head_dim")?;
    let index = BlockIndex {
        heads: read("sparse_num_index_heads", "index_n_heads")?,
        head_dim,
        size: read("sparse_block_size", "index_block_size")?,
        top: read("sparse_topk_blocks", "index_topk_blocks")?,
        local: if has_local { read("sparse_local_block", "index_local_blocks")? } else { 1 },
        norm,
        rope: rope(rotated.min(head_dim)),
    };
    if index.heads < 1 || d.heads % index.heads != 0 || index.size < 1 || index.top < 1 {
        return Err(c.error("sparse_attention_config", format!("does not fit {} heads: {index:?}", d.heads)));
    }
    let cache = CacheKind::List(vec![CacheKind::Kv, CacheKind::Kv]);
    Ok((full.clone(), Some(Attention { index: Some(index), cache, ..full })))
}

/// Published experts are one by one. Exports differ: the MLP of dense layers may lie under the experts' name, gate and up
/// in one tensor, the shared expert behind the others.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let towers = ["vision_tower.", "multi_modal_projector.", "patch_merge_mlp."];
    t.drop_where(|n| towers.iter().any(|p| n.starts_with(p)));
    t.replace_prefix("language_model.", "")?;
    let d = dims_of_experts(c)?;
    let experts = size_or(c, "num_local_experts", 128)?;
    mixtral_checkpoint(c, t)?;
    for l in 0..d.layers {
        let moe = format!("model.layers.{l}.block_sparse_moe");
        for part in ["weight", "scales", "biases"] {
            for proj in ["gate_proj", "up_proj", "down_proj"] {
                let dense = format!("{moe}.{proj}.{part}");
                if t.has(&dense) {
                    t.rename(&dense, format!("model.layers.{l}.mlp.{proj}.{part}"))?;
                }
            }
            for proj in ["gate_up_proj", "gate_proj", "up_proj", "down_proj"] {
                let routed = format!("{moe}.switch_mlp.{proj}.{part}");
                if t.shape(&routed).is_some_and(|s| s.first() == Some(&(experts + 1))) {
                    let shared = format!("{moe}.shared_experts.{proj}.{part}");
                    t.split(&routed, 0, &[(experts, &routed), (1, &shared)])?;
                    t.squeeze_first(&shared)?;
                }
            }
            for (owner, inner) in
                [("switch_mlp", d.inner), ("shared_experts", size_or(c, "shared_intermediate_size", 3072)?)]
            {
                let [joined, gate, up] = ["gate_up", "gate", "up"].map(|p| format!("{moe}.{owner}.{p}_proj.{part}"));
                if t.has(&joined) {
                    t.split(&joined, -2, &[(inner, &gate), (inner, &up)])?;
                }
            }
        }
    }
    t.rename_all(|n| Some(format!("language_model.{n}")))
}
