//! gpt-oss: attention sinks, every other layer sliding, biases everywhere, clipped SwiGLU experts, mxfp4 blocks.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gpt_oss"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: size_or(c, "head_dim", 64)?, eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..d };
    let mut full = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&c.rope()?, d.head_dim, 150_000.0))
        .bias(true);
    full.sinks = Some("sinks".into());
    let window = size_or(c, "sliding_window", 128)?;
    let router = Router { name: "router".into(), bias: true, ..Router::top_softmax() };
    let (experts, top_k) = (size_or(c, "num_local_experts", 128)?, size_or(c, "num_experts_per_tok", 4)?);
    let mut moe = Moe::swiglu(d.hidden, d.inner, experts, top_k, router);
    moe.experts_name = "experts".into();
    moe.body = Experts::Clipped { activation: Activation::Silu, clip: Clip::Oai { alpha: 1.702, limit: 7.0 } };
    moe.bias = true;
    let layers = sliding_layers(c, d.layers, |i| i % 2 == 0)?
        .into_iter()
        .take(d.layers as usize)
        .map(|slides| {
            let mixer = if slides { full.clone().sliding(window) } else { full.clone() };
            llama_layer(&d, mixer, moe.clone())
        })
        .collect();
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), false, layers))
}

fn checkpoint(_: &Config, t: &mut Tensors) -> Result<()> {
    for name in t.select(|n| n.ends_with("_blocks")) {
        // 4-bit codes in bytes [.., groups, 16] are words [.., groups * 4]
        let to = format!("{}.weight", name.trim_end_matches("_blocks"));
        t.bytes_to_words(&name, &to)?;
    }
    for (from, to) in [("_proj_scales", "_proj.scales"), ("_proj_bias", "_proj.bias")] {
        for name in t.select(|n| n.ends_with(from)) {
            t.rename(&name, name.replace(from, to))?;
        }
    }
    for name in t.select(|n| n.ends_with(".gate_up_proj") || n.ends_with(".down_proj")) {
        t.rename(&name, format!("{name}.weight"))?;
    }
    for name in t.select(|n| n.contains(".gate_up_proj.")) {
        let axis = if name.ends_with(".bias") { -1 } else { -2 };
        let to = |part: &str| name.replace("gate_up_proj", part);
        t.split_alternating(&name, axis, &to("gate_proj"), &to("up_proj"))?;
    }
    Ok(())
}
