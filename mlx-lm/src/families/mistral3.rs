//! Text side of Mistral 3 and Pixtral: llama, ministral3 or mistral4 under `language_model`, the head untied by default.

use super::prelude::*;
use super::{llama, ministral3, mistral4};

pub const FAMILY: Family = Family { model_types: &["mistral3", "pixtral"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let mut b = (text(c)?.blueprint)(c)?;
    if c.model_type() == "pixtral" || c.tie_word_embeddings()?.is_none() {
        b.head.tied = Tied::No;
    }
    Ok(b)
}

fn text(c: &Config) -> Result<&'static Family> {
    match c.text_model_type() {
        Some("ministral3") => Ok(&ministral3::FAMILY),
        Some("mistral4") => Ok(&mistral4::FAMILY),
        None | Some("llama") => Ok(&llama::FAMILY),
        Some(other) => Err(c.error("text_config.model_type", format!("{other:?} is not served here"))),
    }
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    if c.text_model_type() == Some("mistral4") {
        return mistral4::checkpoint(c, t);
    }
    t.drop_where(|n| n.ends_with("rotary_emb.inv_freq"));
    Ok(())
}
