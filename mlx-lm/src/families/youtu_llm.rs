//! Youtu-LLM: the llama shape with latent attention.

use super::deepseek_v3;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["youtu_llm"], blueprint, checkpoint: tied_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mlp = Mlp { bias: c.flag_or("mlp_bias", false)?, ..Mlp::swiglu(d.hidden, d.inner) };
    let layers = vec![llama_layer(&d, mla(c, &d)?, mlp); d.layers as usize];
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, true)?, layers))
}

/// DeepSeek's attention with the model's own eps and rotation, and no factor in its scale.
fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let m = deepseek_v3::mla(c, d)?;
    let rope = Rope::from_config(&c.rope()?, m.rope_dim, 1_600_000.0);
    Ok(Mla {
        eps: Some(d.eps),
        scale: ((m.nope_dim + m.rope_dim) as f32).powf(-0.5),
        rope: Some(rope.traditional(c.flag_or("rope_traditional", true)?)),
        layout: MlaLayout::Joined,
        ..m
    })
}
