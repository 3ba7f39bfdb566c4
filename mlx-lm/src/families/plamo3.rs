//! PLaMo 3: sandwich norms stored less an offset, fused projections, seven sliding layers to one full.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["plamo3"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: size_or(c, "head_dim", 128)?, ..d };
    let norm = |offset| Norm::rms_offset(d.eps, offset);
    let (pattern, window) = (size_or(c, "sliding_window_pattern", 8)?.max(1), size_or(c, "window_size", 2048)?);
    let window = size_or(c, "sliding_window", window)?;
    let (global, local) = (c.rope()?.theta_or(1_000_000.0), c.f64_or("rope_local_theta", 10_000f64)?);
    let mut b = decoder(&d, norm(1.0), tied_or(c, true)?, |i| {
        let full = (i + 1) % pattern == 0;
        let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
            .fused("qkv_proj", FusedQkv::Blocks)
            .rope(Rope::plain(d.head_dim, if full { global } else { local }))
            .qk_norm(QkNormKind::PerHead, norm(1.0));
        if !full {
            // a token sees `window` earlier ones besides itself; the cache keeps one less
            mixer.window = Some(window + 1);
            mixer.cache = CacheKind::Rotating { size: window, keep: 0 };
        }
        let mlp = Mlp::swiglu(d.hidden, d.inner).fused_gate_up("gate_up_proj", "down_proj");
        Layer::sequential([
            Branch::mixer("pre_mixer_norm", norm(1.0), "mixer", mixer).post_norm("post_mixer_norm", norm(0.2)),
            Branch::ffn("pre_mlp_norm", norm(1.0), "mlp", mlp).post_norm("post_mlp_norm", norm(5f32.powf(-1.5))),
        ])
    });
    b.layers_path = "model.layers.layers".into();
    Ok(b)
}
