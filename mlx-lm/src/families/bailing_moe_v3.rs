//! Ling 3 (bailing): KDA in all but the last layer of each group, which has latent attention with a gate per head.

use super::bailing_hybrid::{mla, split_kv_b};
use super::bailing_moe::is_global;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["bailing_moe_v3"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let gate = OutputGate::PerHead { name: "g_proj".into(), softplus: false };
    if !c.flag_or("rope_interleave", true)? {
        return Err(c.error("rope_interleave", "only true is supported"));
    }
    let full: Part = Rc::new(Mla { gate: Some(gate), ..mla(c, &d)? });
    let (linear, dense): (Part, Part) = (Rc::new(kda(c, &d)?), Rc::new(swiglu(&d)));
    let (sparse, first): (Part, _) = (Rc::new(moe(c, &d)?), size_or(c, "first_k_dense_replace", 1)?);
    let group = size_or(c, "layer_group_size", 4)?.max(1);
    let layer = |i: i32| {
        let mixer = if is_global(i, d.layers, group) { &full } else { &linear };
        pre_norm_layer(&d, "attention", mixer, if i < first { &dense } else { &sparse })
    };
    let b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, (0..d.layers).map(layer).collect());
    Ok(b.paths("model.word_embeddings", "model.layers", "model.norm"))
}

fn kda(c: &Config, d: &Dims) -> Result<Kda> {
    for key in ["kda_safe_gate", "no_kda_lora"] {
        if !c.flag_or(key, true)? {
            return Err(c.error(key, "only true is supported"));
        }
    }
    let conv = size_or(c, "short_conv_kernel_size", 4)?;
    let heads = DeltaHeads::new(d.hidden, [d.heads; 2], [d.head_dim; 2], conv, d.eps);
    Ok(Kda {
        heads: check_heads(c, "num_attention_heads", heads)?,
        qkv: QkvNames::separate(),
        lower_bound: Some(c.f32_or("kda_lower_bound", -5f32)?),
        decay: Projection::Full("f_proj".into()),
        gate: Projection::Full("g_proj".into()),
    })
}

fn moe(c: &Config, d: &Dims) -> Result<Moe> {
    let (experts, inner) = (size(c, "num_experts")?, size(c, "moe_intermediate_size")?);
    let groups = Groups { fill: f32::NEG_INFINITY, ..groups(c, experts)? };
    let mut router = Router::noaux(Some(groups), true, c.f32_or("routed_scaling_factor", 2.5f32)?);
    router.correction = Some("gate.expert_bias".into());
    let moe = Moe::swiglu(d.hidden, inner, experts, size(c, "num_experts_per_tok")?, router);
    let (one, shared) = (size_or(c, "moe_shared_expert_intermediate_size", 512)?, size_or(c, "num_shared_experts", 1)?);
    Ok(moe.shared_experts(one * shared))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    drop_extra_layers(t, d.layers);
    plain_checkpoint(c, t)?;
    stack_experts(t, d.layers, size(c, "num_experts")?, "mlp.experts", "mlp.switch_mlp")?;
    split_kv_b(&mla(c, &d)?, t, d.layers)?;
    t.conv_last("_conv1d.weight")
}
