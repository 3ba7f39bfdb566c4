//! Qwen3.5 in 2 bits, with weights in a Hadamard-rotated basis; a manifest lists the packed modules and their blocks.

use super::prelude::*;
use super::qwen3_next;
use crate::config::{QuantConfig, QuantParams, Quantization};
use std::collections::BTreeSet;

pub const FAMILY: Family = Family { model_types: &["prism_hadamard_qwen35"], blueprint, checkpoint };

const BLOCKS: [usize; 6] = [0, 512, 1024, 2048, 4096, 8192];

fn blueprint(c: &Config) -> Result<crate::blueprint::Blueprint> {
    let namespace = c.str_or("tensor_namespace", "")?;
    let expected = match c.usize_or("schema_version", 2)? {
        1 => "mlx-lm-text",
        2 => "mlx-vlm-qwen3_5",
        n => return Err(c.error("schema_version", format!("{n} is unknown"))),
    };
    if namespace != expected {
        return Err(
            c.error("tensor_namespace", format!("{namespace:?}, expected {expected:?} for this schema_version"))
        );
    }
    if c.str_or("gdn_activation_layout", "grouped")? != "grouped" {
        return Err(c.error("gdn_activation_layout", "only grouped is supported"));
    }
    if c.quantization()? != Quantization::Mlx(QuantConfig::new(QuantParams::affine(128, 2))) {
        return Err(c.error("quantization", "expected affine 2-bit weights of group size 128"));
    }
    qwen3_next::blueprint(c)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    qwen3_next::checkpoint(c, t)?;
    let modules = c.opt_objects("modules")?;
    if modules.is_empty() {
        return Err(c.error("modules", "missing: the manifest of packed modules"));
    }
    let mut seen = BTreeSet::new();
    for m in &modules {
        let (path, block) = (m.str("path")?, m.usize("block")?);
        let here = |leaf: &str| format!("{path}.{leaf}");
        if !seen.insert(path) {
            return Err(m.error("path", format!("{path} is listed twice")));
        }
        if !t.has(&here("scales")) {
            return Err(Error::tensor(here("scales"), format!("missing in {}, the manifest lists it", t.origin())));
        }
        if m.flag("embedding")? != path.ends_with("embed_tokens") {
            return Err(m.error("embedding", format!("does not fit {path}")));
        }
        if m.str("dtype")? != "float16" || t.has(&here("bias")) {
            return Err(m.error("dtype", format!("{path}: only float16 without a bias is supported")));
        }
        let width = t.shape(&here("signs")).and_then(|s| s.first()).map_or(0, |n| *n as usize);
        match block {
            0 => continue,
            _ if width == 0 => return Err(Error::tensor(here("signs"), format!("missing in {}", t.origin()))),
            b if !BLOCKS.contains(&b) || !width.is_multiple_of(b) => {
                return Err(m.error("block", format!("{b} is no block of {width} inputs")));
            }
            b => t.unflatten_rows(&here("signs"), (width / b) as i32, &here("signs"))?,
        }
    }
    Ok(())
}
