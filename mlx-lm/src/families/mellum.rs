//! Mellum: qwen3_moe with sliding layers and a rotary embedding per layer type.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mellum"], blueprint, checkpoint: experts_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let base = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).qk_norm(QkNormKind::PerHead, rms(&d));
    let rotary = |kind: &str| -> Result<Rope> { Ok(Rope::from_config(&c.rope_for(kind)?, d.head_dim, 10_000.0)) };
    let window = size(c, "sliding_window")?;
    let local = base.clone().rope(rotary("sliding_attention")?).sliding(window);
    let full = base.rope(rotary("full_attention")?);
    let router = Router::softmax(c.flag_or("norm_topk_prob", false)?);
    let (inner, experts) = (size(c, "moe_intermediate_size")?, size(c, "num_experts")?);
    let moe = Moe::swiglu(d.hidden, inner, experts, size(c, "num_experts_per_tok")?, router);
    let layers = sliding_layers(c, d.layers, |_| false)?
        .into_iter()
        .take(d.layers as usize)
        .map(|slides| llama_layer(&d, if slides { local.clone() } else { full.clone() }, moe.clone()))
        .collect();
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers))
}
