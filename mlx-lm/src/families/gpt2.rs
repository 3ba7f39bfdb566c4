//! GPT-2: learned positions, layer norm, biases everywhere; published matrices are stored [in, out].

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gpt2"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = gpt_dims(c)?;
    let norm = Norm::layer(d.eps, true);
    let mixer = Attention::new(d.hidden, d.heads, d.heads, d.head_dim)
        .fused("c_attn", FusedQkv::Blocks)
        .output("c_proj")
        .bias(true);
    let mlp = Mlp::plain(d.hidden, d.inner, Activation::GeluTanh, "c_fc", "c_proj").bias(true);
    let layer = pre_norms(norm, ["ln_1", "attn", "ln_2", "mlp"], mixer, mlp);
    let mut b = alike(&d, norm, true, layer).paths("model.wte", "model.h", "model.ln_f");
    b.embed.positions = Some(("model.wpe".into(), size_or(c, "n_positions", 1024)?));
    Ok(b)
}

fn checkpoint(_: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.ends_with(".attn.bias") || n.ends_with(".attn.masked_bias") || n.starts_with("lm_head."));
    t.replace_prefix("transformer.", "")?;
    // names without the prefix are as published
    t.transpose_where(|n| {
        n.starts_with("h.")
            && (n.ends_with("c_attn.weight") || n.ends_with("c_proj.weight") || n.ends_with("c_fc.weight"))
    })?;
    t.rename_all(|n| Some(if n.starts_with("model.") { n.to_string() } else { format!("model.{n}") }))
}
