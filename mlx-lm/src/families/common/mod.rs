//! What most families share: readings of a config here, layers, experts and quirks of checkpoints beside it.

mod checkpoint;
mod experts;
mod fla;
mod layers;
mod recurrent;

pub use checkpoint::{drop_extra_layers, plain_checkpoint, text_names, tied_checkpoint};
pub use experts::{
    groups, groups_at, noaux_moe, shared_width, split_fused_experts, split_joined_experts, stack_experts,
    stack_experts_named, stack_matrices,
};
pub use fla::{affine, delta_heads, eps, feature_map, fla_checkpoint, fla_decoder, fla_decoder_with, linear_heads};
pub use layers::{
    attention, llama_layer, llama_shape, pre_norm_layer, rms, rope, sandwich_layer, sliding_layers, swiglu,
};
pub use recurrent::{check_groups, check_heads, limits, time_step_limit};

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

/// `n`, read under `key`, as the array layer counts it.
pub fn fit(c: &Section, key: &str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| c.error(key, format!("{n} is too large")))
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
    if heads == 0 || hidden % heads != 0 {
        return Err(c.error("n_head", format!("{heads} does not divide n_embd {hidden}")));
    }
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
