//! Mixtures of experts as data.

use super::{Activation, Clip, Mlp, Norm, Part};

/// y = sum over the chosen experts of weight * expert(x), plus shared experts.
#[derive(Debug, Clone)]
pub struct Moe {
    pub hidden: i32,
    pub experts: i32,
    pub top_k: i32,
    pub router: Router,
    /// Where the stacked experts lie: `switch_mlp`.
    pub experts_name: String,
    pub body: Experts,
    /// Width of an expert.
    pub inner: i32,
    pub bias: bool,
    /// Further choices of the router that give the token back as it is (longcat_flash).
    pub zero_experts: i32,
    /// Weights multiply what goes into an expert, not what comes out (llama4).
    pub weigh_input: bool,
    /// Experts work in a space of their own width.
    pub latent: Option<Latent>,
    pub shared: Option<Shared>,
}

/// The way into the space of the experts and back (kimi_k3, muse_spark, nemotron_h).
#[derive(Debug, Clone, PartialEq)]
pub struct Latent {
    pub width: i32,
    /// Leaf names of the projections into it and out of it.
    pub down: String,
    pub up: String,
    pub bias: bool,
    /// Leaf path and kind of a norm on what experts get.
    pub input_norm: Option<(String, Norm)>,
    /// Of a norm on what each expert gives, before they are weighed.
    pub expert_norm: Option<(String, Norm)>,
    /// Of a norm on what all of them give.
    pub norm: Option<(String, Norm)>,
}

/// What one expert computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Experts {
    /// down(act(gate) * up), leaves `gate_proj`, `up_proj`, `down_proj`.
    Gated(Activation),
    /// As `Gated`, with gate and up clipped to a limit.
    Clipped { activation: Activation, clip: Clip },
    /// down(act(up)), with these leaf names.
    Plain { activation: Activation, up: String, down: String },
}

/// Which experts a token goes to, and with which weights.
#[derive(Debug, Clone)]
pub struct Router {
    /// Leaf name of the projection to expert logits.
    pub name: String,
    pub bias: bool,
    /// Compute logits and scores in float32.
    pub f32: bool,
    /// `cap * tanh(logits / cap)` before the scores (laguna).
    pub softcap: Option<f32>,
    /// Logits are divided by this.
    pub temperature: f32,
    pub scoring: Scoring,
    /// Leaf path, relative to the moe, of a bias that only takes part in the choice.
    pub correction: Option<String>,
    pub groups: Option<Groups>,
    pub weights: RouterWeights,
    /// One expert after the other, each weighed by a softmax over the logits within twice this share of the best
    /// (phimoe); scoring and weights are not used.
    pub sparse_mixer: Option<f32>,
    /// Factor on the weights.
    pub scale: f32,
    /// The projection is a bare parameter: never packed, takes no adapter.
    pub bare: bool,
}

impl Router {
    /// Whether the projection is no layer of its own: so it is where the correction lies beside its weight.
    pub fn is_bare(&self) -> bool {
        let beside = |c: &String| c.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('.'));
        self.bare || self.correction.as_ref().is_some_and(beside)
    }
}

/// Logits to scores, before the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// The logits themselves.
    None,
    Softmax,
    Sigmoid,
    SqrtSoftplus,
}

/// Only experts of the best groups are chosen from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Groups {
    pub count: i32,
    pub top: i32,
    pub score: GroupScore,
    /// What the scores of other groups become (0, or -infinity in bailing_moe_v3).
    pub fill: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// Sum of the two best (deepseek_v3).
    TopTwo,
    /// The best (deepseek_v2).
    Max,
}

/// Scores of the chosen experts to weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RouterWeights {
    /// As they are.
    Scores,
    /// Divided by their sum + eps.
    Normalised { eps: f32 },
    /// Softmax over the chosen.
    Softmax,
    /// sigmoid of each (llama4).
    Sigmoid,
}

/// Experts that every token goes to.
#[derive(Debug, Clone)]
pub struct Shared {
    pub name: String,
    pub part: Part,
    /// Leaf name of a projection to one logit whose sigmoid scales them (qwen2_moe).
    pub gate: Option<String>,
    /// Leaf name of a projection to two logits whose softmax weighs routed and shared experts (Klear).
    pub mix: Option<String>,
}

/// A dense MLP and experts side by side, each between norms of its own (gemma4); the router sees the input.
#[derive(Debug, Clone)]
pub struct DualMoe {
    pub dense: super::Mlp,
    /// Experts under `experts.switch_glu`; its router is not used.
    pub moe: Moe,
    pub eps: f32,
}

crate::spec!(DualMoe, "dual_moe");
crate::spec!(Moe, "moe");

impl Router {
    /// softmax over all experts, then the best k, renormalised or not (qwen3_moe).
    pub fn softmax(renormalise: bool) -> Self {
        Router {
            name: "gate".into(),
            bias: false,
            f32: false,
            softcap: None,
            temperature: 1.0,
            scoring: Scoring::Softmax,
            correction: None,
            groups: None,
            sparse_mixer: None,
            weights: if renormalise { RouterWeights::Normalised { eps: 0.0 } } else { RouterWeights::Scores },
            scale: 1.0,
            bare: false,
        }
    }
    /// The best k logits, softmax over them (mixtral, gpt_oss).
    pub fn top_softmax() -> Self {
        Router { scoring: Scoring::None, weights: RouterWeights::Softmax, ..Self::softmax(false) }
    }
    /// sigmoid scores, a correction bias for the choice, groups (deepseek_v3, glm4_moe): "noaux".
    pub fn noaux(groups: Option<Groups>, renormalise: bool, scale: f32) -> Self {
        Router {
            f32: true,
            scoring: Scoring::Sigmoid,
            correction: Some("gate.e_score_correction_bias".into()),
            groups: groups.filter(|g| g.count > 1),
            weights: if renormalise { RouterWeights::Normalised { eps: 1e-20 } } else { RouterWeights::Scores },
            scale,
            ..Self::softmax(false)
        }
    }
}

impl Moe {
    /// SwiGLU experts stacked under `switch_mlp`, no shared ones.
    pub fn swiglu(hidden: i32, inner: i32, experts: i32, top_k: i32, router: Router) -> Self {
        Moe {
            hidden,
            experts,
            top_k,
            router,
            experts_name: "switch_mlp".into(),
            body: Experts::Gated(Activation::Silu),
            inner,
            bias: false,
            zero_experts: 0,
            weigh_input: false,
            latent: None,
            shared: None,
        }
    }
    /// With shared experts of this width together, SwiGLU under `shared_experts`; 0 has none.
    pub fn shared_experts(self, width: i32) -> Self {
        if width == 0 {
            return self;
        }
        let mlp = Mlp::swiglu(self.hidden, width).bias(self.bias);
        self.shared("shared_experts", mlp, None)
    }

    pub fn shared(mut self, name: &str, part: impl super::Spec, gate: Option<&str>) -> Self {
        self.shared =
            Some(Shared { name: name.into(), part: std::rc::Rc::new(part), gate: gate.map(Into::into), mix: None });
        self
    }
}
