//! Muse Glimmer: sandwich norms stored as weight - 1, norms without weights on q, k and embeddings, a sigmoid gate on the
//! attention output; full layers have no rotary embedding.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["muse_glimmer"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let eps = c.f32_or("rms_norm_eps", 1e-5f32)?;
    let (pre, post) = (Norm::rms_offset(eps, 1.0), Norm::rms_offset(c.f32_or("post_norm_eps", 1e-8f32)?, 1.0));
    let types = c.opt_strings("layer_types")?;
    let thetas = c.opt_f64s("layer_rope_theta")?;
    let rope = c.rope()?;
    let mut b = try_decoder(&d, Norm::rms(eps), tied_or(c, false)?, |i| {
        let i = i as usize;
        let sliding = match types.as_ref().and_then(|t| t.get(i)) {
            Some(kind) => kind == "sliding_attention",
            None => i % 4 != 3,
        };
        let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
            .qk_norm(QkNormKind::PerHead, Norm::rms_plain(eps));
        mixer.scale *= c.f32_or("qk_scale_factor", 3.87f32)?;
        mixer.gate = Some(OutputGate::Full { name: "gate_proj".into() });
        if thetas.as_ref().and_then(|t| t.get(i)).map_or(sliding, |&t| t != 0.0) {
            mixer = mixer.rope(Rope::plain(d.head_dim, rope.theta_or(500_000.0)));
        }
        if sliding {
            mixer = mixer.sliding(size_or(c, "sliding_window", 2048)?);
        }
        Ok(Layer::sequential([
            Branch::mixer("input_layernorm", pre, "self_attn", mixer).post_norm("post_attention_layernorm", post),
            Branch::ffn("pre_feedforward_layernorm", pre, "mlp", swiglu(&d))
                .post_norm("post_feedforward_layernorm", post),
        ]))
    })?;
    b.embed.norm = Some(("model.embed_norm".into(), Norm::rms_plain(eps)));
    b.head.scale = c.f32_or("output_multiplier", 0.196_116_14f32)?;
    b.head.softcap = Some(c.f32_or("final_logit_softcapping", 20f32)?);
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    plain_checkpoint(c, t)
}
