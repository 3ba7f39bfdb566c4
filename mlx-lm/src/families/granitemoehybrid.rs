//! Granite 4: granite's multipliers around mamba-2 and attention layers, with experts beside a shared MLP, or dense.

use super::granite::scale_branches;
use super::granitemoe::split_experts;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["granitemoehybrid"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixers = c.strings("layer_types")?;
    let (attention, mamba) =
        (attention(c, &d)?, if mixers.iter().any(|t| t == "mamba") { Some(mamba(c, &d)?) } else { None });
    let moe = moe(c, &d)?;
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    let layers = mixers
        .iter()
        .map(|t| {
            let mixer = match (t.as_str(), &mamba) {
                ("mamba", Some(m)) => Branch::mixer("input_layernorm", rms(&d), "mamba", m.clone()),
                ("attention", _) => Branch::mixer("input_layernorm", rms(&d), "self_attn", attention.clone()),
                _ => return Err(c.error("layer_types", format!("{t} is neither mamba nor attention"))),
            };
            let ffn = match &moe {
                Some(m) => Branch::ffn("post_attention_layernorm", rms(&d), "", m.clone()),
                None => Branch::ffn("post_attention_layernorm", rms(&d), "mlp", mlp.clone()),
            };
            Ok(Layer::sequential([mixer, ffn]))
        })
        .collect::<Result<_>>()?;
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, true)?, layers);
    scale_branches(&mut b, c.f32("residual_multiplier")?);
    b.embed.scale = Some(EmbedScale { value: c.f32("embedding_multiplier")?, round_bf16: false });
    b.head.scale = 1.0 / c.f32("logits_scaling")?;
    Ok(b)
}

fn attention(c: &Config, d: &Dims) -> Result<Attention> {
    let head = d.hidden / d.heads;
    let mut a = Attention::new(d.hidden, d.heads, d.kv_heads, head)
        .bias(c.flag_or("attention_bias", false)?)
        .scale(c.f32("attention_multiplier")?);
    if c.opt_str("position_embedding_type")? != Some("nope") {
        a = a.rope(Rope::plain(head, c.rope()?.theta_or(10_000.0)));
    }
    Ok(a)
}

fn mamba(c: &Config, d: &Dims) -> Result<Mamba2> {
    let [heads, width, state] = sizes(c, ["mamba_n_heads", "mamba_d_head", "mamba_d_state"])?;
    let sizes = [heads, width, state, size_or(c, "mamba_n_groups", 1)?, size(c, "mamba_d_conv")?];
    let m = Mamba2 {
        bias: [c.flag_or("mamba_proj_bias", false)?; 2],
        conv_bias: c.flag_or("mamba_conv_bias", true)?,
        dt_limit: time_step_limit(c, (0.001, 100.0))?,
        ..Mamba2::new(d.hidden, sizes, d.eps)
    };
    check_groups(c, "mamba_n_groups", m)
}

/// The experts and the MLP beside them, whose leaves lie in the layer itself.
fn moe(c: &Config, d: &Dims) -> Result<Option<Moe>> {
    let experts = size_or(c, "num_local_experts", 0)?;
    if experts == 0 {
        return Ok(None);
    }
    let router = Router { name: "block_sparse_moe.router.layer".into(), ..Router::top_softmax() };
    let shared =
        Mlp::swiglu(d.hidden, size(c, "shared_intermediate_size")?).fused_gate_up("input_linear", "output_linear");
    let mut moe = Moe::swiglu(d.hidden, d.inner, experts, size(c, "num_experts_per_tok")?, router);
    moe.experts_name = "block_sparse_moe.switch_mlp".into();
    Ok(Some(moe.shared("shared_mlp", shared, None)))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    t.conv_last("conv1d.weight")?;
    if size_or(c, "num_local_experts", 0)? > 0 {
        return split_experts(c, t);
    }
    // the shared MLP of a dense model is its only one
    let inner = size(c, "intermediate_size")?;
    for name in t.select(|n| n.ends_with(".shared_mlp.input_linear.weight")) {
        let to = |part: &str| name.replace("shared_mlp.input_linear", &format!("mlp.{part}"));
        t.split(&name, 0, &[(inner, &to("gate_proj")), (inner, &to("up_proj"))])?;
    }
    t.rename_all(|n| Some(n.replace(".shared_mlp.output_linear.", ".mlp.down_proj.")))
}
