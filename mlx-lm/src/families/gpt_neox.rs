//! GPT-NeoX and Pythia: layer norm, fused projections per head, part of each head rotates, parallel branches.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gpt_neox"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads) = (size(c, "hidden_size")?, size(c, "num_attention_heads")?);
    divides(c, "num_attention_heads", heads, hidden)?;
    let head_dim = hidden / heads;
    let norm = Norm::layer(c.f32_or("layer_norm_eps", 1e-5f32)?, true);
    let mixer = Attention::new(hidden, heads, heads, head_dim)
        .rope(Rope::partial(&c.rope()?, head_dim, 0.25, 10_000.0))
        .fused("query_key_value", FusedQkv::PerHead)
        .output("dense")
        .bias(true);
    let inner = size_or(c, "intermediate_size", 4 * hidden)?;
    let mlp = Mlp::plain(hidden, inner, Activation::GeluTanh, "dense_h_to_4h", "dense_4h_to_h").bias(true);
    let branches = [
        Branch::mixer("input_layernorm", norm, "attention", mixer),
        Branch::ffn("post_attention_layernorm", norm, "mlp", mlp),
    ];
    let layer = match c.flag_or("use_parallel_residual", true)? {
        true => Layer::parallel(None, branches),
        false => Layer::sequential(branches),
    };
    let layers = vec![layer; size(c, "num_hidden_layers")? as usize];
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, norm, false, layers);
    let mut b = b.paths("model.embed_in", "model.h", "model.final_layer_norm");
    b.head.path = "model.embed_out".into();
    Ok(b)
}

fn checkpoint(_: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| {
        [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| n.ends_with(end))
    });
    t.replace_prefix("gpt_neox.layers.", "model.h.")?;
    t.replace_prefix("gpt_neox.", "model.")?;
    t.replace_prefix("embed_out.", "model.embed_out.")
}
