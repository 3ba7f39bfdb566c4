//! DeltaNet (arXiv:2406.06484).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["delta_net"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let expand = (c.f64_or("expand_k", 1.0)?, c.f64_or("expand_v", 1.0)?);
    let mut heads = linear_heads(c, hidden, 16, expand, c.flag_or("use_short_conv", true)?)?;
    heads.kv_heads = heads.heads;
    let mut mixer = DeltaNet::published(heads, Norm::rms(eps(c)?));
    mixer.qk_activation = match c.str_or("qk_activation", "silu")? {
        "identity" => None,
        "silu" => Some(Activation::Silu),
        _ => feature_map(c, "qk_activation")?,
    };
    mixer.qk_norm = match c.str_or("qk_norm", "l2")? {
        "l2" => DeltaNorm::Unit,
        "sum" => DeltaNorm::Sum,
        other => return Err(c.error("qk_norm", format!("{other:?} is neither \"l2\" nor \"sum\""))),
    };
    mixer.beta = c.flag_or("use_beta", true)?;
    mixer.negative = c.flag("allow_neg_eigval")?;
    mixer.output.gate = c.flag("use_gate")?.then_some(HeadGate::Silu);
    fla_decoder(c, hidden, 24, mixer)
}
