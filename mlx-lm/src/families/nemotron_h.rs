//! Nemotron-H: one sublayer per layer, mamba-2, attention without positions, relu^2 MLPs or experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nemotron_h"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, eps) = (size(c, "hidden_size")?, c.f32("layer_norm_epsilon")?);
    let norm = Norm::rms(eps);
    let layers = pattern(c)?
        .chars()
        .map(|kind| {
            Ok(Layer::sequential([match kind {
                'M' => Branch::mixer("norm", norm, "mixer", mamba(c, hidden, eps)?),
                '*' => Branch::mixer("norm", norm, "mixer", attention(c, hidden)?),
                '-' => Branch::ffn("norm", norm, "mixer", mlp(c, hidden, size(c, "intermediate_size")?)?),
                'E' => Branch::ffn("norm", norm, "mixer", moe(c, hidden)?),
                other => return Err(c.error("hybrid_override_pattern", format!("unknown kind of layer {other:?}"))),
            }]))
        })
        .collect::<Result<_>>()?;
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, norm, false, layers);
    Ok(b.paths("backbone.embeddings", "backbone.layers", "backbone.norm_f"))
}

/// One letter per layer, from the pattern (a string or a list) or from the types that newer configs list.
fn pattern(c: &Config) -> Result<String> {
    const KEY: &str = "hybrid_override_pattern";
    if let Ok(Some(letters)) = c.opt_str(KEY) {
        return Ok(letters.into());
    }
    if let Some(letters) = c.opt_strings(KEY)? {
        return Ok(letters.concat());
    }
    let key = if c.has("layers_block_type") { "layers_block_type" } else { "layer_types" };
    let kinds = c.strings(key)?;
    let letter = |kind: &String| match kind.as_str() {
        "full_attention" | "attention" => Ok('*'),
        "linear_attention" | "mamba" | "conv" => Ok('M'),
        "moe" => Ok('E'),
        "mlp" => Ok('-'),
        other => Err(c.error(key, format!("unknown kind of layer {other}"))),
    };
    kinds.iter().map(letter).collect()
}

fn mamba(c: &Config, hidden: i32, eps: f32) -> Result<Mamba2> {
    let keys = ["mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"];
    let m = Mamba2 {
        bias: [c.flag("mamba_proj_bias")?; 2],
        conv_bias: c.flag("use_conv_bias")?,
        dt_limit: time_step_limit(c, (0.0, f32::INFINITY))?,
        norm: GatedNorm::PerGroup,
        ..Mamba2::new(hidden, sizes(c, keys)?, eps)
    };
    check_groups(c, "n_groups", m)
}

fn attention(c: &Config, hidden: i32) -> Result<Attention> {
    let heads = size(c, "num_attention_heads")?;
    let head_dim = size_or(c, "head_dim", hidden / heads.max(1))?;
    Ok(Attention::new(hidden, heads, size(c, "num_key_value_heads")?, head_dim).bias(c.flag("attention_bias")?))
}

fn mlp(c: &Config, hidden: i32, inner: i32) -> Result<Mlp> {
    Ok(Mlp::plain(hidden, inner, Activation::Relu2, "up_proj", "down_proj").bias(c.flag("mlp_bias")?))
}

fn moe(c: &Config, hidden: i32) -> Result<Moe> {
    let groups = groups(c, size(c, "n_routed_experts")?)?;
    let top_k = size(c, "num_experts_per_tok")?;
    let renormalise = top_k > 1 && c.flag_or("norm_topk_prob", false)?;
    let router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 1.0f32)?);
    let mut moe = Moe::swiglu(hidden, size(c, "moe_intermediate_size")?, size(c, "n_routed_experts")?, top_k, router);
    moe.body = Experts::Plain { activation: Activation::Relu2, up: "fc1".into(), down: "fc2".into() };
    if let Some(width) = c.opt_usize("moe_latent_size")? {
        let (width, bias) = (fit(c, "moe_latent_size", width)?, c.flag("mlp_bias")?);
        let [down, up] = ["fc1_latent_proj", "fc2_latent_proj"].map(String::from);
        moe.latent = Some(Latent { width, down, up, bias, input_norm: None, expert_norm: None, norm: None });
    }
    if c.has("n_shared_experts") {
        let shared = mlp(c, hidden, size(c, "moe_shared_expert_intermediate_size")?)?;
        moe = moe.shared("shared_experts", shared, None);
    }
    Ok(moe)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.starts_with("mtp."));
    t.conv_last("conv1d.weight")?;
    let experts = size_or(c, "n_routed_experts", 0)?;
    for l in 0..pattern(c)?.chars().count() {
        let at = format!("backbone.layers.{l}.mixer");
        for (old, new) in [("up_proj", "fc1"), ("down_proj", "fc2")] {
            stack_matrices(t, experts, |e| format!("{at}.experts.{e}.{old}"), &format!("{at}.switch_mlp.{new}"))?;
        }
    }
    Ok(())
}
