//! Gemma 4 (text): sandwich norms, sliding and full layers of different head sizes, shared keys and values in the last
//! layers, per-layer inputs, in some sizes experts beside the MLP.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gemma4", "gemma4_text"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { kv_heads: size_or(c, "num_key_value_heads", 1)?, head_dim: size_or(c, "head_dim", 256)?, ..d };
    let types = layer_types(c, &d)?;
    let norm = Norm::rms(d.eps);
    let width = size_or(c, "hidden_size_per_layer_input", 256)?;
    let first = first_shared(c, 20)?;
    let double_wide = c.flag_or("use_double_wide_mlp", true)?;
    let experts = c.flag_or("enable_moe_block", false)?;
    let mut layers = Vec::new();
    for (i, kind) in types.iter().enumerate() {
        let shares = i as i32 >= first;
        let mut mixer = attention(c, &d, kind)?;
        share_kv(c, &mut mixer, &types, first, i)?;
        let inner = if shares && double_wide { 2 * d.inner } else { d.inner };
        let mlp = Mlp::swiglu(d.hidden, inner).activation(Activation::GeluTanh);
        let ffn = if experts {
            Branch::ffn("", norm, "", DualMoe { dense: mlp, moe: moe(c, &d)?, eps: d.eps }).no_norm()
        } else {
            Branch::ffn("pre_feedforward_layernorm", norm, "mlp", mlp)
        };
        let mut branches = vec![
            Branch::mixer("input_layernorm", norm, "self_attn", mixer).post_norm("post_attention_layernorm", norm),
            ffn.post_norm("post_feedforward_layernorm", norm),
        ];
        if width > 0 {
            let part = BranchPart::Ffn(Rc::new(LayerInput { hidden: d.hidden, width, index: i as i32 }));
            branches.push(Branch::new(None, "", part).post_norm("post_per_layer_input_norm", norm));
        }
        let mut layer = Layer::sequential(branches);
        layer.scalar = Some("layer_scalar".into());
        layers.push(layer);
    }
    let mut b = Blueprint::new(d.vocab, d.hidden, norm, tied_or(c, true)?, layers);
    b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: false });
    b.head.softcap = Some(c.f32_or("final_logit_softcapping", 30f32)?);
    if width > 0 {
        b.prologue = Some(Rc::new(PerLayerInputs {
            path: "model".into(),
            hidden: d.hidden,
            layers: d.layers,
            width,
            vocab: size_or(c, "vocab_size_per_layer_input", 262_144)?,
            eps: d.eps,
        }));
    }
    Ok(b)
}

/// Given, or a pattern of sliding layers with a full one at its end.
fn layer_types(c: &Config, d: &Dims) -> Result<Vec<String>> {
    let pattern = size_or(c, "sliding_window_pattern", 5)?.max(1);
    let types = c.opt_strings("layer_types")?.unwrap_or_else(|| {
        let kind = |i| if i % pattern == pattern - 1 { "full_attention" } else { "sliding_attention" };
        (0..d.layers).map(|i| kind(i).to_string()).collect()
    });
    if types.len() != d.layers as usize {
        return Err(c.error("layer_types", format!("{} types for {} layers", types.len(), d.layers)));
    }
    Ok(types)
}

fn attention(c: &Config, d: &Dims, kind: &str) -> Result<Attention> {
    let full = kind == "full_attention";
    let head_dim = if full { size_or(c, "global_head_dim", 512)? } else { d.head_dim };
    let key_is_value = full && c.flag_or("attention_k_eq_v", false)?;
    let kv_heads = if key_is_value { size_or(c, "num_global_key_value_heads", d.kv_heads)? } else { d.kv_heads };
    divides(c, "num_key_value_heads", kv_heads, d.heads)?;
    let norm = Norm::rms(d.eps);
    let mut mixer = Attention::new(d.hidden, d.heads, kv_heads, head_dim).scale(1.0).qk_norm(QkNormKind::PerHead, norm);
    mixer.v_norm = Some(Norm::rms_plain(d.eps));
    let mut rope = Rope::from_config(&c.rope_for(kind)?, head_dim, 10_000.0);
    if !c.has("rope_parameters") && full {
        let scaling = RopeScaling::Proportional { factor: 1.0, rotated: head_dim / 4 };
        rope = Rope { base: 1_000_000.0, scaling, ..rope };
    }
    mixer = mixer.rope(rope.traditional(c.flag_or("rope_traditional", false)?));
    if !full {
        mixer = mixer.sliding(size_or(c, "sliding_window", 512)?);
    }
    if key_is_value {
        mixer.projections = Projections::KeyIsValue { q: "q_proj".into(), k: "k_proj".into() };
    }
    Ok(mixer)
}

fn moe(c: &Config, d: &Dims) -> Result<Moe> {
    let (experts, top) = (size(c, "num_experts")?, size(c, "top_k_experts")?);
    let mut moe = Moe::swiglu(d.hidden, size(c, "moe_intermediate_size")?, experts, top, Router::top_softmax());
    moe.experts_name = "experts.switch_glu".into();
    moe.body = Experts::Gated(Activation::GeluTanh);
    Ok(moe)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    let calibration = ["self_attn.rotary_emb", "input_max", "input_min", "output_max", "output_min"];
    t.drop_where(|n| calibration.iter().any(|p| n.contains(p)));
    if tied_or(c, true)? {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    drop_shared_kv(t, first_shared(c, 20)?..size(c, "num_hidden_layers")?);
    split_fused_experts(t, size_or(c, "moe_intermediate_size", 0)?, "experts", "experts.switch_glu")
}
