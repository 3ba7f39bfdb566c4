//! RecurrentGemma (Griffin): two recurrent blocks to one of attention within a window.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["recurrent_gemma"], blueprint, checkpoint };

/// As in Python mlx-lm, whatever `conv1d_width`, `rope_theta`, `num_key_value_heads` say: four taps, base 10,000, one head of
/// keys and values; the norms within layers have an eps of their own.
fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    divides(c, "num_attention_heads", d.heads, d.hidden)?;
    let head_dim = d.hidden / d.heads;
    let norm = Norm::rms_offset(1e-5, 1.0);
    let window = size(c, "attention_window_size")?;
    let mut attention =
        Attention::new(d.hidden, d.heads, 1, head_dim).rope(Rope::plain(head_dim / 2, 10_000.0)).sliding(window);
    attention.o_bias = true;
    let recurrent = RgLru { hidden: d.hidden, inner: d.hidden, heads: d.heads, kernel: 4 };
    let mlp = Mlp::swiglu(d.hidden, d.inner / 2).activation(Activation::GeluTanh).bias(true);
    let types = c.strings(if c.has("block_types") { "block_types" } else { "_block_types" })?;
    let layer = |i: i32| {
        let mixer = match types.get(i as usize % types.len().max(1)).map(String::as_str) {
            Some("recurrent") => Branch::mixer("temporal_pre_norm", norm, "temporal_block", recurrent.clone()),
            Some("attention") => Branch::mixer("temporal_pre_norm", norm, "temporal_block", attention.clone()),
            other => return Err(c.error("block_types", format!("layer {i} has {other:?}"))),
        };
        Ok(Layer::sequential([mixer, Branch::ffn("channel_pre_norm", norm, "mlp_block", mlp.clone())]))
    };
    let layers = (0..d.layers).map(layer).collect::<Result<Vec<_>>>()?;
    let mut b = Blueprint::new(d.vocab, d.hidden, Norm::rms_offset(d.eps, 1.0), false, layers);
    b = b.paths("model.embed_tokens", "model.layers", "model.final_norm");
    if c.flag_or("embeddings_scale_by_sqrt_dim", true)? {
        b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: false });
    }
    b.head.tied = Tied::IfAbsent;
    b.head.softcap = c.opt_f32("logits_soft_cap")?.filter(|&cap| cap != 0.0);
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    t.conv_last("conv_1d.weight")
}
