//! Feed-forward parts as data: plain MLPs here, experts beside it.

/// An activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Silu,
    Gelu,
    /// tanh approximation.
    GeluTanh,
    /// x * sigmoid(1.702 x).
    GeluFast,
    Relu,
    /// relu(x)^2.
    Relu2,
    /// tanh GELU of what exceeds this quantile of a normal distribution with the row's mean and deviation (gemma3n).
    SparseGelu(f32),
    Sigmoid,
    LogSigmoid,
    Tanh,
    /// elu(x) + 1, which is positive.
    EluPlusOne,
    /// beta tanh(x / beta) sigmoid(x) as a gate, of what `linear` tanh(up / `linear`) lets through (kimi_k3).
    Situ {
        beta: f32,
        linear: Option<f32>,
    },
}

impl Activation {
    /// The activation of a config's `hidden_act` name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_tanh" => Activation::GeluTanh,
            "quick_gelu" => Activation::GeluFast,
            "relu" => Activation::Relu,
            "relu2" | "relu_squared" | "sqrelu" => Activation::Relu2,
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            _ => return None,
        })
    }
}

/// down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate.
#[derive(Debug, Clone)]
pub struct Mlp {
    pub hidden: i32,
    pub inner: i32,
    pub activation: Activation,
    pub names: MlpNames,
    pub bias: bool,
    pub limit: Option<Clip>,
    /// Leaf name and kind of a norm before the down projection (bitnet).
    pub inner_norm: Option<(String, super::Norm)>,
}

/// Where a gated activation is cut; up stays within +- limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// min(act(gate), limit) (step3p5).
    Activated(f32),
    /// act(min(gate, limit)) (deepseek_v41).
    Gate(f32),
    /// g sigmoid(alpha g) (up + 1), g = min(gate, limit), whatever the activation is (gpt_oss, minimax_m3).
    Oai { alpha: f32, limit: f32 },
}

/// Leaf names of an MLP.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpNames {
    Gated {
        gate: String,
        up: String,
        down: String,
    },
    /// Gate rows, then up rows, in one matrix.
    FusedGated {
        gate_up: String,
        down: String,
    },
    /// Up rows, then gate rows (olmo).
    FusedUpGate {
        up_gate: String,
        down: String,
    },
    Plain {
        up: String,
        down: String,
    },
}

/// down(xielu(up(x))): a learned, trainable activation whose leaves lie in `act_fn` (apertus).
#[derive(Debug, Clone)]
pub struct XieluMlp {
    pub hidden: i32,
    pub inner: i32,
    pub bias: bool,
}

/// One matrix, under `linear`, in place of a sublayer (nemotron-nas).
#[derive(Debug, Clone)]
pub struct LinearFfn {
    pub hidden: i32,
    pub bias: bool,
}

crate::spec!(LinearFfn, "linear");
/// down(gelu(gate) * (up + 1)), gate and up clipped, in alternating rows of one matrix (phi3small).
#[derive(Debug, Clone)]
pub struct GegeluMlp {
    pub hidden: i32,
    pub inner: i32,
    pub limit: f32,
}

crate::spec!(GegeluMlp, "gegelu_mlp");
crate::spec!(XieluMlp, "xielu_mlp");
crate::spec!(Mlp, "mlp");

impl Mlp {
    /// SwiGLU named `gate_proj`, `up_proj`, `down_proj`.
    pub fn swiglu(hidden: i32, inner: i32) -> Self {
        Mlp {
            hidden,
            inner,
            activation: Activation::Silu,
            names: MlpNames::Gated { gate: "gate_proj".into(), up: "up_proj".into(), down: "down_proj".into() },
            bias: false,
            limit: None,
            inner_norm: None,
        }
    }
    /// down(act(up(x))) without a gate.
    pub fn plain(hidden: i32, inner: i32, activation: Activation, up: &str, down: &str) -> Self {
        let names = MlpNames::Plain { up: up.into(), down: down.into() };
        Mlp { hidden, inner, activation, names, bias: false, limit: None, inner_norm: None }
    }
    /// The leaf names of a gated MLP.
    pub fn gated_as(self, gate: &str, up: &str, down: &str) -> Self {
        self.named(MlpNames::Gated { gate: gate.into(), up: up.into(), down: down.into() })
    }
    /// Gate and up in one matrix.
    pub fn fused_gate_up(self, gate_up: &str, down: &str) -> Self {
        self.named(MlpNames::FusedGated { gate_up: gate_up.into(), down: down.into() })
    }
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }
    pub fn bias(mut self, on: bool) -> Self {
        self.bias = on;
        self
    }
    pub fn named(mut self, names: MlpNames) -> Self {
        self.names = names;
        self
    }
}
