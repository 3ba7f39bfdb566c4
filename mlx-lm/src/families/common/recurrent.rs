//! What the recurrent families share.

use crate::families::prelude::*;

/// The mixer, if its groups divide its heads; `key` is where the config says how many groups there are.
pub fn check_groups(c: &Config, key: &str, m: Mamba2) -> Result<Mamba2> {
    divides(c, key, m.groups, m.heads)?;
    Ok(m)
}

/// `time_step_limit`: the bounds of the time steps, with the family's default.
pub fn time_step_limit(c: &Config, default: (f32, f32)) -> Result<(f32, f32)> {
    limits(c, "time_step_limit", default)
}

/// Two bounds under `key`.
pub fn limits(c: &Config, key: &str, default: (f32, f32)) -> Result<(f32, f32)> {
    match c.opt_f64s(key)?.as_deref() {
        None => Ok(default),
        Some(&[low, high]) => Ok((low as f32, high as f32)),
        Some(_) => Err(c.error(key, "expected two numbers")),
    }
}

/// The heads, if their sizes go together; `key` is where the config says how many value heads there are.
pub fn check_heads(c: &Config, key: &str, h: DeltaHeads) -> Result<DeltaHeads> {
    if h.key_heads == 0 || h.value_heads == 0 || h.value_heads % h.key_heads != 0 {
        return Err(c.error(key, format!("{} value heads are no multiple of {} key heads", h.value_heads, h.key_heads)));
    }
    Ok(h)
}
