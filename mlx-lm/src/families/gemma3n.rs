//! Gemma 3n (text): four residual streams (AltUp), low-rank side branches (LAuReL), sparse GELU gates, per-layer inputs,
//! shared keys and values in the last layers.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gemma3n"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let [hidden, layers, vocab] = sizes(c, ["hidden_size", "num_hidden_layers", "vocab_size"])?;
    let [heads, kv_heads, head_dim] = sizes(c, ["num_attention_heads", "num_key_value_heads", "head_dim"])?;
    divides(c, "num_key_value_heads", kv_heads, heads)?;
    let eps = c.f32_or("rms_norm_eps", 1e-6f32)?;
    let d = Dims { hidden, layers, vocab, inner: 0, heads, kv_heads, head_dim, eps };
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
    b.prologue = Some(Rc::new(altup));
    Ok(b)
}

fn attention(c: &Config, d: &Dims, types: &[String], i: usize) -> Result<Attention> {
    let kind = &types[i];
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
    share_kv(c, &mut mixer, types, first_shared(c, 0)?, i)?;
    Ok(mixer)
}

fn mlp(c: &Config, d: &Dims, i: usize) -> Result<Mlp> {
    let inner = match c.get("intermediate_size").is_some_and(|v| v.is_array()) {
        false => size(c, "intermediate_size")?,
        true => match c.usizes("intermediate_size")?.get(i) {
            Some(&n) => fit(c, "intermediate_size", n)?,
            None => return Err(c.error("intermediate_size", format!("no entry for layer {i}"))),
        },
    };
    let sparsity = c.opt_f64s("activation_sparsity_pattern")?.and_then(|s| s.get(i).copied()).unwrap_or(0.0);
    let act = if sparsity > 0.0 { Activation::SparseGelu(sparsity as f32) } else { Activation::GeluTanh };
    Ok(Mlp::swiglu(d.hidden, inner).activation(act))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    t.drop_where(|n| n.starts_with("lm_head."));
    drop_shared_kv(t, first_shared(c, 0)?..size(c, "num_hidden_layers")?);
    Ok(())
}
