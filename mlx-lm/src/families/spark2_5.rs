//! Spark 2.5: fused projections, a sigmoid gate per head, three sliding layers to one full, an exact-GELU gate.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["spark2_5"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let types = c.opt_strings("layer_types")?;
    let window = size_or(c, "sliding_window", 4096)?;
    let mut b = try_decoder(&d, rms(&d), tied_or(c, true)?, |i| {
        let i = i as usize;
        let sliding = match types.as_ref().and_then(|t| t.get(i)) {
            Some(kind) => kind == "sliding_attention",
            None => i % 4 != 3,
        };
        let rope = c.rope_for(if sliding { "sliding_attention" } else { "full_attention" })?;
        let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
            .rope(Rope::partial(&rope, d.head_dim, 1.0, 10_000.0))
            .fused("q_k_v_proj", FusedQkv::Blocks)
            .output("out_proj")
            .bias(c.flag_or("attention_bias", false)?);
        mixer.gate = Some(OutputGate::PerHead { name: "g_proj".into(), softplus: false });
        if sliding {
            mixer = mixer.sliding(window);
        }
        let mlp = swiglu(&d).activation(Activation::Gelu).bias(c.flag_or("mlp_bias", false)?);
        Ok(pre_norms(rms(&d), ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, mlp))
    })?;
    b.embed.path = "model.embedding".into();
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.replace_prefix("model.embed_tokens.", "model.embedding.")?;
    tied_checkpoint(c, t)
}
