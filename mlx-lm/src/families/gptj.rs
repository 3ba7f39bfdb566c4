//! GPT-J: layer norm, attention and MLP in parallel, interleaved pairs in the first features of each head.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gptj"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = gpt_dims(c)?;
    let norm = Norm::layer(d.eps, true);
    let rotated = size_or(c, "rotary_dim", 64)?;
    let mixer = Attention::new(d.hidden, d.heads, d.heads, d.head_dim)
        .rope(Rope::plain(if rotated == 0 { d.head_dim } else { rotated }, 10_000.0).traditional(true))
        .output("out_proj");
    let mlp = Mlp::plain(d.hidden, d.inner, Activation::GeluTanh, "fc_in", "fc_out").bias(true);
    let layer = parallel(norm, ["ln_1", "attn", "mlp"], mixer, mlp);
    let mut b = alike(&d, norm, false, layer).paths("model.wte", "model.h", "model.ln_f");
    b.head.bias = true;
    Ok(b)
}

fn checkpoint(_: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.ends_with(".attn.bias") || n.ends_with(".attn.masked_bias"));
    t.replace_prefix("transformer.", "model.")
}
