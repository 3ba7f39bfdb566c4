//! Mixture of block attention (arXiv:2502.13189).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["moba"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads) = (size_or(c, "hidden_size", 2048)?, size_or(c, "num_heads", 32)?);
    let kv_heads = size_or(c, "num_kv_heads", heads)?;
    if heads == 0 || kv_heads == 0 || hidden % heads != 0 || heads % kv_heads != 0 {
        return Err(c.error("num_heads", format!("{heads} heads and {kv_heads} kv heads of {hidden} channels")));
    }
    if c.has("window_size") {
        return Err(c.error("window_size", "a window over cached blocks is not supported"));
    }
    let block = size_or(c, "moba_chunk_size", 256)?;
    if block == 0 {
        return Err(c.error("moba_chunk_size", "must not be 0"));
    }
    let mixer = Moba {
        hidden,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        bias: c.flag("qkv_bias")?,
        qk_norm: c.flag("qk_norm")?.then_some(Norm::rms(1e-5)),
        block,
        count: size_or(c, "moba_topk", 4)?,
        dense_decode: c.flag("dense_decode")?,
        rope: Some(Rope::plain(hidden / heads, c.f64_or("rope_theta", 10_000.0)?)),
        output: HeadOutput {
            norm: Some(("o_norm".into(), Norm::rms(1e-6))),
            gate: c.flag("use_output_gate")?.then_some(HeadGate::NarrowSigmoid),
        },
    };
    fla_decoder(c, hidden, 24, mixer)
}
