//! Gemma 3n (text): four residual streams (AltUp), low-rank side branches (LAuReL), sparse GELU gates, per-layer inputs,
//! shared keys and values in the last layers.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gemma3n"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let heads = size(c, "num_attention_heads")?;
    let hidden = size(c, "hidden_size")?;
    let d = Dims {
        hidden,
        layers: size(c, "num_hidden_layers")?,
        vocab: size(c, "vocab_size")?,
        inner: 0,
        heads,
        kv_heads: size(c, "num_key_value_heads")?,
        head_dim: size(c, "head_dim")?,
        eps: c.f32_or("rms_norm_eps", 1e-6f32)?,
    };
    if d.kv_heads == 0 || heads % d.kv_heads != 0 {
        return Err(c.error("num_key_value_heads", format!("{} does not divide {heads} heads", d.kv_heads)));
    }
    let types = c.strings("layer_types")?;
    if types.len() != d.layers as usize {
        return Err(c.error("layer_types", format!("{} types for {} layers", types.len(), d.layers)));
    }
    let width = size(c, "hidden_size_per_layer_input")?;
    let altup = AltUp {
        inputs: PerLayerInputs {
            path: "model".into(),
            hidden,
            layers: d.layers,
            width,
            vocab: size(c, "vocab_size_per_layer_input")?,
            eps: d.eps,
        },
        streams: size_or(c, "altup_num_inputs", 4)?,
        active: size_or(c, "altup_active_idx", 0)?,
        coef_clip: c.opt_f32("altup_coef_clip")?,
        correct_scale: c.flag_or("altup_correct_scale", true)?,
    };
    if altup.active >= altup.streams {
        return Err(c.error("altup_active_idx", format!("{} of {} streams", altup.active, altup.streams)));
    }
    let layers = (0..d.layers)
        .map(|i| {
            Ok(Layer::custom(AltUpLayer {
                altup: altup.clone(),
                attention: attention(c, &d, &types, i as usize)?,
                mlp: mlp(c, &d, i as usize)?,
                laurel_rank: size(c, "laurel_rank")?,
                index: i,
            }))
        })
        .collect::<Result<_>>()?;
    let mut b = Blueprint::new(d.vocab, hidden, Norm::rms(d.eps), true, layers);
    b.embed.scale = Some(EmbedScale { value: (hidden as f32).sqrt(), round_bf16: false });
    b.head.softcap = c.opt_f32("final_logit_softcapping")?;
    b.prologue = Some(std::rc::Rc::new(altup));
    Ok(b)
}

fn first_shared(c: &Config) -> Result<i32> {
    let (layers, shared) = (size(c, "num_hidden_layers")?, size_or(c, "num_kv_shared_layers", 0)?);
    if shared > layers {
        return Err(c.error("num_kv_shared_layers", format!("{shared} of {layers} layers")));
    }
    Ok(layers - shared)
}

fn attention(c: &Config, d: &Dims, types: &[String], i: usize) -> Result<Attention> {
    let (kind, first) = (&types[i], first_shared(c)? as usize);
    let norm = Norm::rms(d.eps);
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).scale(1.0);
    mixer = mixer.qk_norm(QkNormKind::PerHead, norm);
    mixer.v_norm = Some(Norm::rms_plain(d.eps));
    if kind == "sliding_attention" {
        let local = c.f64_or("rope_local_base_freq", 10_000f64)?;
        mixer = mixer.rope(Rope::plain(d.head_dim, local)).sliding(size(c, "sliding_window")?);
    } else {
        let theta = c.rope_for("full_attention")?.theta_or(1_000_000.0);
        mixer = mixer.rope(Rope::plain(d.head_dim, theta));
    }
    let last = types[..first].iter().rposition(|t| t == kind);
    mixer.share = match (i >= first, last) {
        (true, None) => return Err(c.error("num_kv_shared_layers", format!("no {kind} layer to share with"))),
        (true, Some(_)) => KvShare::Take(kind.clone()),
        (false, Some(last)) if last == i && first < types.len() => KvShare::Leave(kind.clone()),
        (false, _) => KvShare::None,
    };
    if i >= first {
        (mixer.projections, mixer.cache) = (Projections::Query { q: "q_proj".into() }, CacheKind::None);
    }
    Ok(mixer)
}

fn mlp(c: &Config, d: &Dims, i: usize) -> Result<Mlp> {
    let inner = match c.get("intermediate_size").is_some_and(|v| v.is_array()) {
        false => size(c, "intermediate_size")?,
        true => match c.usizes("intermediate_size")?.get(i) {
            Some(&n) => super::common::fit(c, "intermediate_size", n)?,
            None => return Err(c.error("intermediate_size", format!("no entry for layer {i}"))),
        },
    };
    let sparsity = c.opt_f64s("activation_sparsity_pattern")?.and_then(|s| s.get(i).copied()).unwrap_or(0.0);
    let act = if sparsity > 0.0 { Activation::SparseGelu(sparsity as f32) } else { Activation::GeluTanh };
    Ok(Mlp::swiglu(d.hidden, inner).activation(act))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.replace_prefix("model.language_model.", "model.")?;
    t.drop_where(|n| {
        ["model.vision_tower.", "model.audio_tower.", "model.embed_audio.", "model.embed_vision.", "lm_head."]
            .iter()
            .any(|p| n.starts_with(p))
    });
    for l in first_shared(c)?..size(c, "num_hidden_layers")? {
        let at = format!("model.layers.{l}.self_attn.");
        t.drop_where(|n| {
            n.strip_prefix(&at).is_some_and(|n| ["k_proj.", "v_proj.", "k_norm."].iter().any(|p| n.starts_with(p)))
        });
    }
    Ok(())
}
