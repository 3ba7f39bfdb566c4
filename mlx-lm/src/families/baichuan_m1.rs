//! Baichuan M1: a two-tap convolution over time on keys and values, sliding layers with heads of their own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["baichuan_m1"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let taps = size_or(c, "conv_window", 2)?;
    if taps != 2 {
        return Err(c.error("conv_window", format!("{taps} is not supported, only 2")));
    }
    let sliding = c.usizes("sliding_window_layers")?;
    let base = c.rope()?;
    try_decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let slides = sliding.contains(&(i as usize));
        let (mut heads, mut kv_heads) = (d.heads, d.kv_heads);
        if slides {
            heads = size_or(c, "num_swa_attention_heads", heads)?;
            kv_heads = size_or(c, "num_swa_key_value_heads", kv_heads)?;
        }
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || d.hidden % heads != 0 {
            return Err(c.error("num_swa_attention_heads", format!("{heads} heads, {kv_heads} kv heads")));
        }
        let head_dim = d.hidden / heads;
        let d = Dims { heads, kv_heads, head_dim, ..d };
        let mut mixer = Attention::new(d.hidden, heads, kv_heads, head_dim)
            .rope(Rope::from_config(&base, head_dim, 10_000.0))
            .fused("W_pack", FusedQkv::Blocks);
        if slides {
            mixer = mixer.sliding(size(c, "sliding_window")?);
        }
        mixer.kv_conv = Some(("conv_k".into(), "conv_v".into()));
        mixer.cache = CacheKind::List(vec![CacheKind::Slots(2), mixer.cache]);
        Ok(llama_layer(&d, mixer, swiglu(&d)))
    })
}

/// The head's rows have length 1 (a packed head is so already).
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    if t.has("lm_head.weight") && !t.has("lm_head.scales") { t.unit_rows("lm_head.weight", 1e-7) } else { Ok(()) }
}
