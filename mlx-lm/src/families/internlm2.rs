//! InternLM 2: llama with one matrix for q, k and v, in groups of one kv head, and names of its own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["internlm2"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.fused("wqkv", FusedQkv::PerKvGroup).output("wo").bias(c.flag_or("bias", true)?);
    let layer = Layer::sequential([
        Branch::mixer("attention_norm", rms(&d), "attention", mixer),
        Branch::ffn("ffn_norm", rms(&d), "feed_forward", swiglu(&d).gated_as("w1", "w3", "w2")),
    ]);
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, vec![layer; d.layers as usize]);
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
