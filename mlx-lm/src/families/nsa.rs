//! Native sparse attention (arXiv:2502.11089).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nsa"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let (heads, head_dim) = (size_or(c, "num_heads", 64)?, size_or(c, "head_dim", 32)?);
    let kv_heads = size_or(c, "num_kv_heads", if c.is_null("num_kv_heads") { heads } else { 4 })?;
    divides(c, "num_kv_heads", kv_heads, heads)?;
    let window = size_or(c, "window_size", if c.is_null("window_size") { 0 } else { 512 })?;
    let blocks = NsaBlocks {
        size: size_or(c, "block_size", 64)?,
        count: size_or(c, "block_counts", 16)?,
        window: (window > 0).then_some(window),
    };
    if blocks.size == 0 || blocks.count == 0 {
        return Err(c.error("block_size", "blocks and their number must not be 0"));
    }
    let mixer = Nsa {
        hidden,
        heads,
        kv_heads,
        head_dim,
        v_head_dim: head_dim,
        bias: c.flag("qkv_bias")?,
        blocks,
        rope: Some(Rope::plain(head_dim, c.f64_or("rope_theta", 10_000.0)?)),
    };
    fla_decoder(c, hidden, 24, mixer)
}
