//! DeepSeek-V3.2 and GLM-5: DeepSeek-V3 whose attention sees the keys that a lightning indexer chooses.

use super::prelude::*;
use super::{Family, deepseek_v3};

pub const FAMILY: Family =
    Family { model_types: &["deepseek_v32", "glm_moe_dsa"], blueprint, checkpoint: deepseek_v3::checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mla = deepseek_v3::mla(c, &d)?;
    if mla.q_rank.is_none() {
        return Err(c.error("q_lora_rank", "the indexer reads low-rank queries"));
    }
    let interleaved = c.flag_or("indexer_rope_interleave", c.model_type() == "glm_moe_dsa")?;
    let indexer = Indexer {
        heads: size_or(c, "index_n_heads", 64)?,
        head_dim: size_or(c, "index_head_dim", 128)?,
        top_k: size_or(c, "index_topk", 2048)?,
        rope: Rope::from_config(&c.rope()?, mla.rope_dim, 10_000.0).traditional(interleaved),
    };
    deepseek_v3::with_attention(c, Mla { indexer: Some(indexer), ..mla })
}
