//! Nanbeige: llama whose layers run several times, each time with caches of their own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nanbeige"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    for key in ["enable_double_loop_split", "loop_share_kv", "enable_depth_attention"] {
        if c.flag(key)? {
            return Err(c.error(key, "not supported"));
        }
    }
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    mixer.rope = mixer.rope.map(|r| r.traditional(false));
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    let mut b = llama_shape(&d, mixer, mlp, tied_or(c, false)?);
    // checkpoints trained with losses per loop have one weight for each loop after the first
    let again = match c.opt_f64s("loop_loss_weights")? {
        Some(weights) if !weights.is_empty() => weights.len(),
        _ => c.usize_or("num_loops", 1usize)?.saturating_sub(1),
    };
    b.again = vec![Pass { norm_first: !c.flag("skip_loop_final_norm")?, cache: None }; again];
    Ok(b)
}
