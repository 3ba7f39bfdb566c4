//! What the mamba-2 families share.

use crate::Result;
use crate::blueprint::Mamba2;
use crate::config::Config;

/// The mixer, if its groups divide its heads; `key` is where the config says how many groups there are.
pub fn check_groups(c: &Config, key: &str, m: Mamba2) -> Result<Mamba2> {
    if m.groups == 0 || m.heads % m.groups != 0 {
        return Err(c.error(key, format!("{} does not divide {} heads", m.groups, m.heads)));
    }
    Ok(m)
}

/// `time_step_limit`: the bounds of the time steps, with the family's default.
pub fn time_step_limit(c: &Config, default: (f32, f32)) -> Result<(f32, f32)> {
    match c.opt_f64s("time_step_limit")?.as_deref() {
        None => Ok(default),
        Some(&[low, high]) => Ok((low as f32, high as f32)),
        Some(_) => Err(c.error("time_step_limit", "expected two numbers")),
    }
}
