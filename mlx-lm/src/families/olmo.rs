//! OLMo 1: layer norms without weights, fused projections, the up half of the MLP before its gate.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["olmo"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads) = (size(c, "d_model")?, size(c, "n_heads")?);
    divides(c, "n_heads", heads, hidden)?;
    let norm = Norm::layer_plain(1e-5);
    let rope = Rope::from_config(&c.rope()?, hidden / heads, 10_000.0);
    let mixer = Attention::new(hidden, heads, heads, hidden / heads)
        .rope(rope.traditional(c.flag_or("rope_traditional", false)?))
        .fused("att_proj", FusedQkv::Blocks)
        .output("attn_out");
    let wide = size_or(c, "mlp_hidden_size", size_or(c, "mlp_ratio", 4)? * hidden)?;
    let names = MlpNames::FusedUpGate { up_gate: "ff_proj".into(), down: "ff_out".into() };
    let layer = pre_norms(norm, ["att_norm", "", "ff_norm", ""], mixer, Mlp::swiglu(hidden, wide / 2).named(names));
    let (rows, tied) = (size_or(c, "embedding_size", size(c, "vocab_size")?)?, c.flag_or("weight_tying", false)?);
    let b = Blueprint::new(rows, hidden, norm, tied, vec![layer; size(c, "n_layers")? as usize]);
    let mut b = b.paths("model.transformer.wte", "model.transformer.blocks", "model.transformer.norm");
    b.head.path = "model.transformer.ff_out".into();
    Ok(b)
}
