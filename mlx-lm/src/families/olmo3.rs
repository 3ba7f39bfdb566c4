//! OLMo 3: olmo2 with three sliding layers to one full; only the full ones scale their rotary embedding.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["olmo3"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let full = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).qk_norm(QkNormKind::FullWidth, rms(&d));
    let window = size(c, "sliding_window")?;
    let local = Rope::plain(d.head_dim, c.rope()?.theta_or(10_000.0));
    let norms = ["", "post_attention_layernorm", "", "post_feedforward_layernorm"];
    let layers = sliding_layers(c, d.layers, |i| (i + 1) % 4 != 0)?
        .into_iter()
        .take(d.layers as usize)
        .map(|slides| {
            let mixer = if slides { full.clone().rope(local.clone()).sliding(window) } else { full.clone() };
            sandwich_layer(norms, rms(&d), mixer, swiglu(&d))
        })
        .collect();
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers))
}
