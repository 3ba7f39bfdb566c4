//! What most families share: readings of a config here, layers, experts and quirks of checkpoints beside it.

mod checkpoint;
mod experts;
mod fla;
mod gemma;
mod layers;
mod recurrent;

pub use checkpoint::*;
pub use experts::*;
pub use fla::*;
pub use gemma::*;
pub use layers::*;
pub use recurrent::*;

use crate::Result;
use crate::config::{Config, Section};

/// A size as the array layer counts it.
pub fn size(c: &Section, key: &str) -> Result<i32> {
    fit(c, key, c.usize(key)?)
}

/// A size with a default.
pub fn size_or(c: &Section, key: &str, default: i32) -> Result<i32> {
    match c.opt_usize(key)? {
        Some(n) => fit(c, key, n),
        None => Ok(default),
    }
}

/// Several sizes.
pub fn sizes<const N: usize>(c: &Section, keys: [&str; N]) -> Result<[i32; N]> {
    let mut all = [0; N];
    for (size, key) in all.iter_mut().zip(keys) {
        *size = self::size(c, key)?;
    }
    Ok(all)
}

/// `n`, read under `key`, as the array layer counts it.
pub fn fit(c: &Section, key: &str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| c.error(key, format!("{n} is too large")))
}

/// An error unless `n`, read under `key`, divides `whole`.
pub fn divides(c: &Section, key: &str, n: i32, whole: i32) -> Result<()> {
    if n > 0 && whole % n == 0 { Ok(()) } else { Err(c.error(key, format!("{n} does not divide {whole}"))) }
}

/// Sizes that every decoder has.
#[derive(Debug, Clone, Copy)]
pub struct Dims {
    pub hidden: i32,
    pub layers: i32,
    pub vocab: i32,
    pub inner: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub eps: f32,
}

/// Reads [`Dims`] under their usual keys; `head_dim` defaults to hidden / heads, `num_key_value_heads` to heads.
pub fn dims(c: &Config) -> Result<Dims> {
    dims_with_layers(c, "num_hidden_layers")
}

/// As [`dims`] for families that read no `head_dim`: heads share the width.
pub fn dims_shared(c: &Config) -> Result<Dims> {
    let d = dims(c)?;
    Ok(Dims { head_dim: d.hidden / d.heads, ..d })
}

/// As [`dims`], with the number of layers under another key.
pub fn dims_with_layers(c: &Config, layers: &str) -> Result<Dims> {
    Ok(Dims { inner: size(c, "intermediate_size")?, ..read_dims(c, layers)? })
}

/// As [`dims`] for models of experts only, whose configs have no width of a dense MLP: `inner` is then 0.
pub fn dims_of_experts(c: &Config) -> Result<Dims> {
    read_dims(c, "num_hidden_layers")
}

/// As [`dims_with_layers`]; `inner` is 0 where the config has no `intermediate_size`.
pub fn read_dims(c: &Config, layers: &str) -> Result<Dims> {
    let (hidden, heads) = (size(c, "hidden_size")?, size(c, "num_attention_heads")?);
    if heads == 0 {
        return Err(c.error("num_attention_heads", "must not be 0"));
    }
    let kv_heads = size_or(c, "num_key_value_heads", heads)?;
    // latent attention has no key heads that queries share
    if kv_heads == 0 || (heads % kv_heads != 0 && !c.has("kv_lora_rank")) {
        return Err(c.error("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads")));
    }
    Ok(Dims {
        hidden,
        layers: size(c, layers)?,
        vocab: size(c, "vocab_size")?,
        inner: size_or(c, "intermediate_size", 0)?,
        heads,
        kv_heads,
        head_dim: size_or(c, "head_dim", hidden / heads)?,
        eps: c.f32_or("rms_norm_eps", 1e-6f32)?,
    })
}

/// [`Dims`] under GPT-2's keys: `n_embd`, `n_layer`, `n_head`, `n_inner`; `eps` is `layer_norm_epsilon`.
pub fn gpt_dims(c: &Config) -> Result<Dims> {
    let (hidden, heads) = (size(c, "n_embd")?, size(c, "n_head")?);
    divides(c, "n_head", heads, hidden)?;
    Ok(Dims {
        hidden,
        layers: size(c, "n_layer")?,
        vocab: size(c, "vocab_size")?,
        inner: size_or(c, "n_inner", 4 * hidden)?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        eps: c.f32_or("layer_norm_epsilon", 1e-5f32)?,
    })
}

/// `tie_word_embeddings`, with the family's default.
pub fn tied_or(c: &Config, default: bool) -> Result<bool> {
    Ok(c.tie_word_embeddings()?.unwrap_or(default))
}
