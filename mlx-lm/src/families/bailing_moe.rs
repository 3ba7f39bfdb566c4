//! Ling (bailing): one matrix for q, k, v, softmax or sigmoid router with groups, shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["bailing_moe"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let config = c.rope()?;
    let rotated = match c.opt_usize("rotary_dim")? {
        Some(n) => n as i32,
        None => (d.head_dim as f64 * config.partial_rotary_factor.unwrap_or(1.0)) as i32,
    };
    let mixer: Part = Rc::new(attention(c, &d, Rope::from_config(&config, rotated, 10_000.0), false)?);
    decoder(c, &d, moe(c, &d, &Defaults::SOFTMAX)?, |_| mixer.clone())
}

/// Dense layers first, then experts, around one mixer per layer.
pub fn decoder(c: &Config, d: &Dims, moe: Moe, mixer: impl Fn(i32) -> Part) -> Result<Blueprint> {
    let dense: Part = Rc::new(swiglu(d).bias(c.flag_or("use_bias", false)?));
    let (sparse, first): (Part, _) = (Rc::new(moe), size(c, "first_k_dense_replace")?);
    let layer = |i: i32| pre_norm_layer(d, "attention", &mixer(i), if i < first { &dense } else { &sparse });
    let layers = (0..d.layers).map(layer).collect();
    let b = Blueprint::new(d.vocab, d.hidden, rms(d), tied_or(c, false)?, layers);
    Ok(b.paths("model.word_embeddings", "model.layers", "model.norm"))
}

/// Whether layer i is one of softmax attention among linear ones: the last of its group, and all behind the last group.
pub fn is_global(i: i32, layers: i32, group: i32) -> bool {
    (i + 1) % group == 0 || i >= layers / group * group
}

/// Softmax attention of the family, by default with or without norms on queries and keys.
pub fn attention(c: &Config, d: &Dims, rope: Rope, qk_norm: bool) -> Result<Attention> {
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(rope)
        .fused("query_key_value", FusedQkv::Blocks)
        .output("dense");
    (mixer.qkv_bias, mixer.o_bias) = (c.flag_or("use_qkv_bias", false)?, c.flag_or("use_bias", false)?);
    if c.flag_or("use_qk_norm", qk_norm)? {
        mixer = mixer.qk_norm_named(QkNormKind::PerHead, rms(d), "query_layernorm", "key_layernorm", false);
    }
    Ok(mixer)
}

/// What a config without the key means, by family.
pub struct Defaults {
    pub score: &'static str,
    pub bias: bool,
    /// Scores of the groups that are left out become this.
    pub fill: f32,
    /// `moe_shared_expert_intermediate_size` is the width of all shared experts together.
    pub shared_in_all: bool,
}

impl Defaults {
    pub const SOFTMAX: Defaults = Defaults { score: "softmax", bias: false, fill: 0.0, shared_in_all: false };
}

/// Experts of the family.
pub fn moe(c: &Config, d: &Dims, defaults: &Defaults) -> Result<Moe> {
    let bias = c.flag_or("use_bias", false)?;
    let experts = size(c, "num_experts")?;
    let groups = Groups { top: size_or(c, "topk_group", 4)?, fill: defaults.fill, ..groups(c, experts)? };
    let top_k = size(c, "num_experts_per_tok")?;
    let renormalise = top_k > 1 && c.flag_or("norm_topk_prob", true)?;
    let mut router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 1f32)?);
    router.name = "gate.gate_proj".into();
    router.correction = c.flag_or("moe_router_enable_expert_bias", defaults.bias)?.then(|| "gate.expert_bias".into());
    if c.str_or("score_function", defaults.score)? != "sigmoid" {
        router.scoring = Scoring::Softmax;
    }
    let inner = size(c, "moe_intermediate_size")?;
    let mut moe = Moe::swiglu(d.hidden, inner, experts, top_k, router);
    moe.bias = bias;
    let shared = size(c, "num_shared_experts")?;
    if shared > 0 && c.flag_or("moe_router_enable_shared_expert", true)? {
        let width = match size_or(c, "moe_shared_expert_intermediate_size", 0)? {
            0 => inner * shared,
            all if defaults.shared_in_all => all,
            one => one * shared,
        };
        moe = moe.shared_experts(width);
    }
    Ok(moe)
}

pub fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    if c.flag_or("norm_head", false)? {
        t.unit_columns("lm_head.weight", 1e-7)?;
    }
    for leaf in ["weight", "bias"] {
        let from = format!(".mlp.gate.{leaf}");
        for name in t.select(|n| n.ends_with(&from)) {
            t.rename(&name, name.replace(&from, &format!(".mlp.gate.gate_proj.{leaf}")))?;
        }
    }
    stack_experts(t, size(c, "num_hidden_layers")?, size(c, "num_experts")?, "mlp.experts", "mlp.switch_mlp")
}
