//! AFM 7: keys and values rounded to 8 bits, norms after the rotation; the last layers use the keys and values of the last
//! one that has its own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["afm7"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads, kv_heads) = (size(c, "hidden_dim")?, size(c, "num_heads")?, size(c, "num_kv_heads")?);
    divides(c, "num_heads", heads, hidden)?;
    divides(c, "num_kv_heads", kv_heads, heads)?;
    let d = Dims {
        hidden,
        layers: size(c, "num_layers")?,
        vocab: size(c, "vocab_size")?,
        inner: (hidden as f64 * c.f64_or("hidden_dim_scale_factor", 3.25f64)?) as i32,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        eps: c.f32_or("rms_norm_eps", 1e-5f32)?,
    };
    let own = own_layers(c)?;
    let rope = Rope::from_config(&c.rope()?, d.head_dim, 50_000.0).traditional(true);
    let b = decoder(&d, rms(&d), true, |i| {
        let mut mixer = Attention::new(hidden, heads, kv_heads, d.head_dim)
            .rope(rope.clone())
            .qk_norm_named(QkNormKind::PerHead, Norm::rms(1e-5), "q_norm", "k_norm", true)
            .output("out_proj");
        if i < own {
            mixer = mixer.fused("qkv_proj", FusedQkv::Blocks);
            mixer.kv_rounding = Some(("quant_key_scale".into(), "quant_value_scale".into()));
            mixer.share = if i == own - 1 { KvShare::Leave("last".into()) } else { KvShare::None };
        } else {
            mixer.projections = Projections::Query { q: "q_proj".into() };
            (mixer.share, mixer.cache) = (KvShare::Take("last".into()), CacheKind::None);
        }
        llama_layer(&d, mixer, swiglu(&d))
    });
    Ok(b.paths("model.embedding", "model.layers", "model.output_norm"))
}

/// How many layers have keys and values of their own.
fn own_layers(c: &Config) -> Result<i32> {
    let (layers, reuse) = (size(c, "num_layers")?, size(c, "num_kv_reuse_layers")?);
    if reuse >= layers {
        return Err(c.error("num_kv_reuse_layers", format!("{reuse} of {layers} layers")));
    }
    Ok(layers - reuse)
}

/// Layers without keys and values of their own are a list by themselves.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let own = own_layers(c)?;
    for l in own..size(c, "num_layers")? {
        t.replace_prefix(&format!("model.kv_reuse_layers.{}.", l - own), &format!("model.layers.{l}."))?;
    }
    Ok(())
}
