//! Lille 130M: llama with the norms inside attention and MLP, interleaved rotary pairs.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["lille-130m"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = gpt_dims(c)?;
    let kv_heads = size_or(c, "n_kv_heads", d.heads)?;
    if kv_heads == 0 || d.heads % kv_heads != 0 {
        return Err(c.error("n_kv_heads", format!("{kv_heads} does not divide {} heads", d.heads)));
    }
    let d = Dims { kv_heads, eps: c.f32_or("layer_norm_eps", 1e-5f32)?, ..d };
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&c.rope()?, d.head_dim, 10_000.0).traditional(true))
        .fused("qkv_proj", FusedQkv::Blocks)
        .output("out_proj");
    let inner = 256 * ((8 * d.hidden / 3) as f64 / 256.0).round_ties_even() as i32;
    let layer = Layer::sequential([
        Branch::mixer("attention.norm", rms(&d), "attention", mixer),
        Branch::ffn("feed_forward.norm", rms(&d), "feed_forward", Mlp::swiglu(d.hidden, inner)),
    ]);
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), true, vec![layer; d.layers as usize]).paths(
        "transformer.tok_embeddings",
        "transformer.layers",
        "transformer.norm",
    ))
}
