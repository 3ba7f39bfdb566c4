//! Trinity (afmoe): norms before and after both branches, gated attention, sliding layers rotate, full ones do not.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["afmoe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = Dims { head_dim: size_or(c, "head_dim", 64)?, eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..dims(c)? };
    let mut full = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).qk_norm(QkNormKind::PerHead, rms(&d));
    full.gate = Some(OutputGate::Full { name: "gate_proj".into() });
    let local = full.clone().rope(rope(c, &d)?).sliding(size_or(c, "sliding_window", 2048)?);
    let groups = groups(c, size_or(c, "num_experts", 128)?)?;
    let top_k = size_or(c, "num_experts_per_tok", 8)?;
    let renormalise = top_k > 1 && c.flag_or("route_norm", true)?;
    let mut router = Router::noaux(Some(groups), renormalise, c.f32_or("route_scale", 2.826f32)?);
    router.name = "router.gate".into();
    router.correction = Some("expert_bias".into());
    if c.str_or("score_func", "sigmoid")? != "sigmoid" {
        router.scoring = Scoring::Softmax;
    }
    let inner = size_or(c, "moe_intermediate_size", 1024)?;
    let mut moe = Moe::swiglu(d.hidden, inner, size_or(c, "num_experts", 128)?, top_k, router);
    moe.experts_name = "experts".into();
    let moe = moe.shared_experts(inner * size_or(c, "num_shared_experts", 1)?);
    let dense = size_or(c, "num_dense_layers", 2)?;
    let names = ["input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"];
    let layers = (0..)
        .zip(sliding_layers(c, d.layers, |_| false)?)
        .map(|(i, slides)| {
            let mixer = if slides { local.clone() } else { full.clone() };
            match i < dense {
                true => sandwich_layer(names, rms(&d), mixer, swiglu(&d)),
                false => sandwich_layer(names, rms(&d), mixer, moe.clone()),
            }
        })
        .collect();
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers);
    if c.flag_or("mup_enabled", true)? {
        b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: false });
    }
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    stack_experts(t, size(c, "num_hidden_layers")?, size_or(c, "num_experts", 128)?, "mlp.experts", "mlp.experts")
}
