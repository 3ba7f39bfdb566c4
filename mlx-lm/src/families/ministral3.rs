//! Ministral 3: llama whose queries grow with the position, some layers sliding.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["ministral3"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let rope = c.rope()?;
    let (beta, every) = (rope.raw.f32("llama_4_scaling_beta")?, rope.raw.f32("original_max_position_embeddings")?);
    let full = attention(c, &d)?.query_scale(beta, every, 0.0);
    let layers = sliding_layers(c, d.layers, |_| false)?
        .into_iter()
        .map(|slides| {
            let mixer = if slides { full.clone().sliding(size(c, "sliding_window")?) } else { full.clone() };
            Ok(llama_layer(&d, mixer, swiglu(&d)))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, true)?, layers))
}
