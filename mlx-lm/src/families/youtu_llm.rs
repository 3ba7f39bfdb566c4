//! Youtu-LLM: the llama shape with latent attention.

use super::Family;
use super::common::{Dims, dims, llama_layer, rms, size_or, tied_checkpoint, tied_or};
use super::deepseek_v3::split_kv_b;
use crate::Result;
use crate::blueprint::{Blueprint, Mla, Mlp, Rope};
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["youtu_llm"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mlp = Mlp { bias: c.flag_or("mlp_bias", false)?, ..Mlp::swiglu(d.hidden, d.inner) };
    let layers = vec![llama_layer(&d, mla(c, &d)?, mlp); d.layers as usize];
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, true)?, layers))
}

fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let (nope_dim, rope_dim) = (size_or(c, "qk_nope_head_dim", 128)?, size_or(c, "qk_rope_head_dim", 64)?);
    let traditional = c.flag_or("rope_traditional", true)?;
    Ok(Mla {
        hidden: d.hidden,
        heads: d.heads,
        q_rank: match c.is_null("q_lora_rank") {
            true => None,
            false => Some(size_or(c, "q_lora_rank", 1536)?),
        },
        kv_rank: size_or(c, "kv_lora_rank", 512)?,
        nope_dim,
        rope_dim,
        v_dim: size_or(c, "v_head_dim", 128)?,
        bias: c.flag_or("attention_bias", false)?,
        eps: d.eps,
        scale: ((nope_dim + rope_dim) as f32).powf(-0.5),
        rope: Some(Rope::from_config(&c.rope()?, rope_dim, 1_600_000.0).traditional(traditional)),
    })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    tied_checkpoint(c, t)?;
    split_kv_b(&mla(c, &d)?, t, d.layers)
}
