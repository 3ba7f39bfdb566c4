//! Phixtral: phi blocks with experts in place of the MLP.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["phixtral"], blueprint, checkpoint };

const EXPERTS: i32 = 4;

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads) = (size_or(c, "model_dim", 2560)?, size_or(c, "num_heads", 32)?);
    divides(c, "num_heads", heads, hidden)?;
    let norm = Norm::layer(1e-5, true);
    let mut mixer = Attention::new(hidden, heads, heads, hidden / heads)
        .rope(Rope::plain(size_or(c, "rotary_dim", 32)?, 10_000.0))
        .fused("Wqkv", FusedQkv::Blocks)
        .output("out_proj")
        .bias(true);
    mixer.f32_scores = true;
    let (experts, top) = (size_or(c, "num_local_experts", EXPERTS)?, size_or(c, "num_experts_per_tok", 2)?);
    let mut moe = Moe::swiglu(hidden, 4 * hidden, experts, top, Router::top_softmax());
    moe.body = Experts::Plain { activation: Activation::GeluTanh, up: "fc1".into(), down: "fc2".into() };
    moe.bias = true;
    let layer = parallel(norm, ["ln", "mixer", "moe"], mixer, moe);
    let layers = vec![layer; size_or(c, "num_layers", 32)? as usize];
    let b = Blueprint::new(size_or(c, "num_vocab", 51_200)?, hidden, norm, false, layers);
    let mut b = b.paths("transformer.embd.wte", "transformer.h", "lm_head.ln");
    (b.head.path, b.head.bias) = ("lm_head.linear".into(), true);
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let experts = size_or(c, "num_local_experts", EXPERTS)?;
    for l in 0..size_or(c, "num_layers", 32)? {
        let at = format!("transformer.h.{l}.moe");
        for name in ["fc1", "fc2"] {
            stack_matrices(t, experts, |e| format!("{at}.mlp.{e}.{name}"), &format!("{at}.switch_mlp.{name}"))?;
        }
    }
    Ok(())
}
