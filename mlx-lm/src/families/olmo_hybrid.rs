//! OLMo hybrid: three pre-norm Gated DeltaNet layers to one of OLMo 2's attention layers, which norm their outputs.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["olmo_hybrid"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut full = attention(c, &d)?.bias(c.flag("attention_bias")?).qk_norm(QkNormKind::FullWidth, rms(&d));
    if c.is_null("rope_theta") {
        full.rope = None;
    }
    let heads = [size(c, "linear_num_key_heads")?, size(c, "linear_num_value_heads")?];
    let widths = [size(c, "linear_key_head_dim")?, size(c, "linear_value_head_dim")?];
    let (conv, eps) = (size(c, "linear_conv_kernel_dim")?, c.f32_or("layer_norm_epsilon", 1e-5f32)?);
    let mut heads = check_heads(c, "linear_num_value_heads", DeltaHeads::new(d.hidden, heads, widths, conv, eps))?;
    heads.negative_eigenvalues = c.flag("linear_allow_neg_eigval")?;
    let linear = GatedDelta { heads, layout: GatedDeltaLayout::Separate, gate: true };
    let linear =
        pre_norms(rms(&d), ["input_layernorm", "linear_attn", "post_attention_layernorm", "mlp"], linear, swiglu(&d));
    let norms = ["", "post_attention_layernorm", "", "post_feedforward_layernorm"];
    let full = sandwich_layer(norms, rms(&d), full, swiglu(&d));
    let types = match c.opt_strings("layer_types")? {
        Some(types) => types,
        None => (0..d.layers).map(|i| if i % 4 == 3 { "full_attention" } else { "linear_attention" }.into()).collect(),
    };
    let layers = types.iter().map(|t| if t == "linear_attention" { linear.clone() } else { full.clone() }).collect();
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    t.conv_last("conv1d.weight")
}
