//! Kimi K3: Kimi Linear with one matrix for q, k, v, gated latent attention, experts in a narrower space, and sublayers
//! that attend over the residual sums of earlier blocks.

use super::deepseek_v3::split_kv_b;
use super::kimi_linear::{self, kda, plan, published_names};
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["kimi_k3"], blueprint, checkpoint };

fn read_dims(c: &Config) -> Result<Dims> {
    Ok(Dims { eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..dims(c)? })
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = read_dims(c)?;
    let act = activation(c)?;
    let (linear, latent): (Part, Part) = (Rc::new(k3_kda(c, &d)?), Rc::new(mla(c, &d)?));
    let dense: Part = Rc::new(Mlp::swiglu(d.hidden, d.inner).activation(act));
    let sparse: Part = if size_or(c, "num_experts", 0)? > 0 { Rc::new(moe(c, &d, act)?) } else { dense.clone() };
    let block = c.opt_usize("attn_res_block_size")?.map(|n| fit(c, "attn_res_block_size", n)).transpose()?;
    let layer = |(i, l): (usize, kimi_linear::LayerPlan)| {
        let (mixer, ffn) = (if l.linear { &linear } else { &latent }, if l.sparse { &sparse } else { &dense });
        match block {
            None => pre_norm_layer(&d, "self_attn", mixer, ffn),
            Some(n) => residual_layer(&d, mixer, ffn, i as i32 % n.max(1) == 0),
        }
    };
    let layers = plan(c, &d)?.into_iter().enumerate().map(layer).collect();
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers);
    b = b.paths("language_model.model.embed_tokens", "language_model.model.layers", "language_model.model.norm");
    b.head.path = "language_model.lm_head".into();
    b.prologue = block.map(|_| Rc::new(mix(&d, "language_model.model.output_attn_res")) as Part);
    Ok(b)
}

fn mix(d: &Dims, name: &str) -> ResidualMix {
    ResidualMix::new(d.hidden, d.eps, name)
}

fn residual_layer(d: &Dims, mixer: &Part, ffn: &Part, starts: bool) -> Layer {
    let branch = |norm: &str, name: &str, part: BranchPart| Branch::new(Some((norm.into(), rms(d))), name, part);
    Layer::custom(ResidualLayer(vec![
        ResidualBranch {
            mix: mix(d, "self_attention_res"),
            starts,
            branch: branch("input_layernorm", "self_attn", BranchPart::Mixer(mixer.clone())),
        },
        ResidualBranch {
            mix: mix(d, "mlp_res"),
            starts: false,
            branch: branch("post_attention_layernorm", "mlp", BranchPart::Ffn(ffn.clone())),
        },
    ]))
}

fn activation(c: &Config) -> Result<Activation> {
    let name = c.str_or("hidden_act", "situ")?;
    if name != "situ" {
        return Err(c.error("hidden_act", format!("{name} is not supported, only situ")));
    }
    let beta = c.opt_f32("activation_situ_beta")?.filter(|b| *b != 0.0).unwrap_or(1.0);
    Ok(Activation::Situ { beta, linear: c.opt_f32("activation_situ_linear_beta")? })
}

fn k3_kda(c: &Config, d: &Dims) -> Result<Kda> {
    let (linear, kda) = (c.sub("linear_attn_config")?, kda(c, d)?);
    Ok(Kda {
        qkv: QkvNames::Joined { projection: "qkv_proj".into(), conv: "qkv_conv.conv".into() },
        lower_bound: linear.opt_f32("gate_lower_bound")?,
        gate: if linear.flag_or("use_full_rank_gate", false)? { Projection::Full("g_proj".into()) } else { kda.gate },
        ..kda
    })
}

fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    if !c.flag_or("mla_use_nope", true)? {
        return Err(c.error("mla_use_nope", "latent attention with positions is not supported"));
    }
    Ok(Mla {
        q_rank: c.opt_usize("q_lora_rank")?.map(|r| fit(c, "q_lora_rank", r)).transpose()?,
        eps: Some(1e-6),
        gate: c.flag_or("mla_use_output_gate", false)?.then(|| OutputGate::Full { name: "g_proj".into() }),
        ..kimi_linear::mla(c, d)?
    })
}

fn moe(c: &Config, d: &Dims, act: Activation) -> Result<Moe> {
    let mut moe = kimi_linear::moe(c, d, 16, act)?;
    moe.body = Experts::Gated(act);
    moe.latent = match c.opt_usize("routed_expert_hidden_size")? {
        None => None,
        Some(width) => {
            let width = fit(c, "routed_expert_hidden_size", width)?;
            let normed = c.flag_or("latent_moe_use_norm", false)?;
            Some(Latent {
                width,
                down: "routed_expert_down_proj".into(),
                up: "routed_expert_up_proj".into(),
                bias: false,
                input_norm: None,
                expert_norm: None,
                norm: normed.then(|| ("routed_expert_norm".into(), Norm::rms(d.eps))),
            })
        }
    };
    Ok(moe)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = read_dims(c)?;
    let towers = ["vision_tower", "vision_model", "multi_modal_projector", "mm_projector"];
    t.drop_where(|n| towers.iter().any(|p| n.starts_with(p)));
    t.replace_prefix("language_model.", "")?;
    t.drop_where(|n| n.starts_with("model.mtp") || n.starts_with("mtp"));
    drop_extra_layers(t, d.layers);
    plain_checkpoint(c, t)?;
    published_names(c, t, &d)?;
    t.rename_all(|n| {
        let res = [("_res.proj_weight", "_res_proj.weight"), ("_res.norm_weight", "_res_norm.weight")];
        Some(res.iter().fold(n.to_string(), |n, (from, to)| n.replace(from, to)))
    })?;
    let (plan, heads) = (plan(c, &d)?, kda(c, &d)?.heads.value_heads);
    for (i, _) in plan.iter().enumerate().filter(|(_, l)| l.linear) {
        let at = format!("model.layers.{i}.self_attn");
        for leaf in ["proj.weight", "proj.scales", "proj.biases", "conv.conv.weight"] {
            t.join(&["q", "k", "v"].map(|p| format!("{at}.{p}_{leaf}")), &format!("{at}.qkv_{leaf}"))?;
        }
        // some checkpoints have room for more heads than there are
        t.flatten(&format!("{at}.A_log"), heads)?;
    }
    split_kv_b(&mla(c, &d)?, t, d.layers)?;
    t.rename_all(|n| Some(format!("language_model.{n}")))
}
