//! Laguna: head counts per layer, softplus gates per head, rotary settings per layer type, sigmoid or sqrt-softplus router.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["laguna"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = Dims { head_dim: size_or(c, "head_dim", 128)?, ..dims(c)? };
    let slides = sliding_layers(c, d.layers, |_| false)?;
    let heads = c.opt_usizes("num_attention_heads_per_layer")?;
    let types = c.opt_strings("mlp_layer_types")?;
    let moe = moe(c, &d)?;
    try_decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let i = i as usize;
        let h = heads.as_ref().and_then(|l| l.get(i)).map_or(d.heads, |&h| h as i32);
        let mixer = mixer(c, &d, h, slides[i])?;
        let sparse = types.as_ref().map_or(i > 0, |t| t.get(i).is_some_and(|t| t == "sparse"));
        Ok(mixed_layer(&d, mixer, (sparse).then_some(&moe)))
    })
}

fn mixer(c: &Config, d: &Dims, heads: i32, slides: bool) -> Result<Attention> {
    let config = c.rope_for(if slides { "sliding_attention" } else { "full_attention" })?;
    let mut mixer = Attention::new(d.hidden, heads, d.kv_heads, d.head_dim)
        .rope(Rope::partial(&config, d.head_dim, 1.0, 10_000.0))
        .qk_norm(QkNormKind::PerHead, rms(d));
    (mixer.qkv_bias, mixer.o_bias) = (c.flag_or("qkv_bias", false)?, c.flag_or("attention_bias", false)?);
    if c.flag_or("gating", true)? {
        mixer.gate = Some(OutputGate::PerHead { name: "g_proj".into(), softplus: true });
    }
    Ok(if slides { mixer.sliding(size_or(c, "sliding_window", 512)?) } else { mixer })
}

fn moe(c: &Config, d: &Dims) -> Result<Moe> {
    let mut router = Router::noaux(None, true, c.f32_or("moe_routed_scaling_factor", 1f32)?);
    router.name = "gate.proj".into();
    router.softcap = c.opt_f32("moe_router_logit_softcapping")?.filter(|&cap| cap > 0.0);
    if c.str_or("moe_router_score_func", "sigmoid")? == "sqrtsoftplus" {
        router.scoring = Scoring::SqrtSoftplus;
    }
    let (inner, experts) = (size_or(c, "moe_intermediate_size", 512)?, size_or(c, "num_experts", 256)?);
    let shared = Mlp::swiglu(d.hidden, size_or(c, "shared_expert_intermediate_size", 512)?);
    let top_k = size_or(c, "num_experts_per_tok", 8)?;
    Ok(Moe::swiglu(d.hidden, inner, experts, top_k, router).shared("shared_expert", shared, None))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.replace_prefix("language_model.", "")?;
    plain_checkpoint(c, t)?;
    t.rename_all(|n| {
        let n = n.replace(".mlp.gate.weight", ".mlp.gate.proj.weight");
        Some(n.replace(".mlp.experts.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"))
    })?;
    let experts = size_or(c, "num_experts", 256)?;
    stack_experts(t, size(c, "num_hidden_layers")?, experts, "mlp.experts", "mlp.switch_mlp")
}
