//! InternLM 2: llama with one matrix for q, k and v, in groups of one kv head, and names of its own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["internlm2"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.fused("wqkv", FusedQkv::PerKvGroup).output("wo").bias(c.flag_or("bias", true)?);
    let mlp = swiglu(&d).gated_as("w1", "w3", "w2");
    let layer = pre_norms(rms(&d), ["attention_norm", "attention", "ffn_norm", "feed_forward"], mixer, mlp);
    let mut b = alike(&d, rms(&d), tied_or(c, false)?, layer);
    b.embed.path = "model.tok_embeddings".into();
    b.head.path = "output".into();
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.contains("attention.rope.inv_freq"));
    if tied_or(c, false)? {
        t.drop_where(|n| n.starts_with("output."));
    }
    Ok(())
}
