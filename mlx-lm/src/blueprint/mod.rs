//! What a decoder is made of, as plain data: no weights, no arrays, no file access.
//!
//! A family turns a [`Config`](crate::config::Config) into a [`Blueprint`]; `decoder` builds it from a checkpoint.
//! Parts are open: a mixer, ffn or block is any type that implements [`Spec`], built by what the
//! [`Registry`](crate::parts::Registry) holds for it. Leaf names are the checkpoint's own, so that parameter paths
//! equal Python mlx-lm's.

pub mod attention;
pub mod cache;
pub mod compressed;
pub mod declared;
pub mod ffn;
pub mod gated_delta;
pub mod lightning;
pub mod linear_attention;
pub mod longcat;
pub mod mla;
pub mod moe;
pub mod norm;
pub mod per_layer;
pub mod recurrent;
pub mod residual;
pub mod rope;
pub mod rwkv7;
pub mod sparse;

pub use attention::{
    Attention, BlockIndex, BlockSparse, ConvGate, FusedQkv, KvShare, Looped, OutputGate, Projections, QkNorm,
    QkNormKind, QueryScale,
};
pub use cache::CacheKind;
pub use compressed::{CompressedAttention, HyperLayer, HyperStreams, Pool, PoolIndexer};
pub use declared::{Declared, KINDS, kind_name};
pub use ffn::{Activation, Clip, GegeluMlp, LinearFfn, Mlp, MlpNames, XieluMlp};
pub use gated_delta::{DeltaHeads, GatedDelta, GatedDeltaLayout, Kda, Projection, QkvNames};
pub use lightning::{Lightning, LightningGate};
pub use linear_attention::{
    DeltaNet, DeltaNorm, Forget, Gla, Gsa, HeadGate, HeadOutput, LinearHeads, Retention, ShortConvs, SlotMap,
    SlotOutput,
};
pub use longcat::{NgramEmbeddings, ShortcutLayer};
pub use mla::{Indexer, Mla, MlaLayout};
pub use moe::{DualMoe, Experts, GroupScore, Groups, Latent, Moe, Router, RouterWeights, Scoring, Shared};
pub use norm::{Norm, NormKind};
pub use per_layer::{AltUp, AltUpLayer, EmbedSkip, GatedLayer, KeepEmbeddings, LayerInput, PerLayerInputs};
pub use recurrent::{Beside, GatedNorm, Mamba, Mamba2, MambaNorms, PlamoMamba, RgLru, ShortConv, Skip};
pub use residual::{ResidualBranch, ResidualLayer, ResidualMix};
pub use rope::{Rope, RopeScaling};
pub use rwkv7::{ChannelMix, Rwkv7, Rwkv7Bare, Rwkv7Ranks, UnitNorm};
pub use sparse::{Moba, Nsa, NsaBlocks};

use std::any::Any;
use std::fmt::Debug;
use std::rc::Rc;

/// A part of a blueprint: data with a kind name, built by the registry's entry for its type.
pub trait Spec: Any + Debug {
    /// The name in messages and in `layer_types` of composed configs.
    fn kind(&self) -> &'static str;
    /// The cache that one layer of this part needs; ffns need none.
    fn cache(&self) -> CacheKind {
        CacheKind::None
    }
    fn as_any(&self) -> &dyn Any;
}

/// Implements [`Spec`] for a data type: `spec!(Attention, "attention", |s| s.cache.clone())`.
#[macro_export]
macro_rules! spec {
    ($t:ty, $kind:expr) => {
        impl $crate::blueprint::Spec for $t {
            fn kind(&self) -> &'static str {
                $kind
            }
            fn as_any(&self) -> &dyn ::std::any::Any {
                self
            }
        }
    };
    ($t:ty, $kind:expr, $cache:expr) => {
        impl $crate::blueprint::Spec for $t {
            fn kind(&self) -> &'static str {
                $kind
            }
            fn cache(&self) -> $crate::blueprint::CacheKind {
                let f: fn(&$t) -> $crate::blueprint::CacheKind = $cache;
                f(self)
            }
            fn as_any(&self) -> &dyn ::std::any::Any {
                self
            }
        }
    };
}

/// A shared part: layers that look alike share one.
pub type Part = Rc<dyn Spec>;

/// A whole decoder.
#[derive(Debug, Clone)]
pub struct Blueprint {
    pub vocab: i32,
    pub hidden: i32,
    pub embed: Embed,
    /// Path of the layer list, `model.layers`.
    pub layers_path: String,
    pub layers: Vec<Layer>,
    /// Path and kind of the norm before the head.
    pub norm: Option<(String, Norm)>,
    pub head: Head,
    /// What runs before and after all layers: arrays that these share, wider residual streams, n-gram embeddings.
    pub prologue: Option<Part>,
    /// Further passes over the same layers, each with caches of its own.
    pub again: Vec<Pass>,
    /// What Python puts before every parameter's name in models whose text part lies in a larger one; adapters carry it.
    pub wrapper: String,
}

/// One more pass over all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// The final norm ends the pass before.
    pub norm_first: bool,
    /// Every layer's cache in this pass, where it is not the layer's own kind.
    pub cache: Option<CacheKind>,
}

/// Token ids to hidden states.
#[derive(Debug, Clone)]
pub struct Embed {
    pub path: String,
    /// Factor on the embeddings; `None` multiplies nothing.
    pub scale: Option<EmbedScale>,
    /// Learned positions: path and number of rows.
    pub positions: Option<(String, i32)>,
    /// A norm right after.
    pub norm: Option<(String, Norm)>,
}

/// A factor on embeddings, and whether it is rounded to bf16 first (gemma).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbedScale {
    pub value: f32,
    pub round_bf16: bool,
}

/// Hidden states to logits.
#[derive(Debug, Clone)]
pub struct Head {
    pub path: String,
    pub tied: Tied,
    pub bias: bool,
    /// Factor on the logits.
    pub scale: f32,
    /// Leaf path of a learned factor on the logits.
    pub gain: Option<String>,
    /// `cap * tanh(logits / cap)`.
    pub softcap: Option<f32>,
    /// Hidden states are rounded to bf16 first, and logits are float32 (muse_spark).
    pub bf16_input: bool,
    /// Logits of these ids become -infinity.
    pub forbidden: Vec<u32>,
}

/// Whether the head is the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tied {
    Yes,
    No,
    /// Tied iff the checkpoint holds no head.
    IfAbsent,
}

/// One layer: residual branches in order.
#[derive(Debug, Clone)]
pub struct Layer {
    pub body: LayerBody,
    /// Leaf name of one learned factor on the output (gemma4).
    pub scalar: Option<String>,
    /// One cache that all mixers share, in place of one each (rwkv7).
    pub shared_cache: Option<CacheKind>,
}

#[derive(Debug, Clone)]
pub enum LayerBody {
    /// `x = x + branch(x)`, one after the other.
    Sequential(Vec<Branch>),
    /// `x = x + sum of branch(x)`, all from the same x; a shared norm may come first.
    Parallel { norm: Option<(String, Norm)>, branches: Vec<Branch> },
    /// A topology of its own, with the sublayers inside.
    Custom(Part),
    /// A mixer by the name of its kind: becomes `Sequential` when the checkpoint is at hand.
    Declared(Rc<Declared>),
}

/// `post_norm(part(norm(x))) * scale`: one term of a residual stream.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Leaf name and kind of the norm on the input.
    pub norm: Option<(String, Norm)>,
    /// Leaf name of the sublayer; empty when its leaves lie in the layer itself.
    pub name: String,
    pub part: BranchPart,
    /// Leaf name and kind of the norm on the output.
    pub post_norm: Option<(String, Norm)>,
    /// Factor on the output (granite, minicpm).
    pub scale: f32,
    /// Leaf name of a learned factor `[1]` on the output (talkie).
    pub gain: Option<String>,
    /// Clip the sum to the range of f16 when running in f16 (gemma3).
    pub clip_f16: bool,
}

#[derive(Debug, Clone)]
pub enum BranchPart {
    Mixer(Part),
    Ffn(Part),
}

impl Branch {
    /// A pre-norm sequence mixer.
    pub fn mixer(norm: &str, kind: Norm, name: &str, part: impl Spec) -> Self {
        Branch::new(Some((norm.into(), kind)), name, BranchPart::Mixer(Rc::new(part)))
    }
    /// A pre-norm ffn.
    pub fn ffn(norm: &str, kind: Norm, name: &str, part: impl Spec) -> Self {
        Branch::new(Some((norm.into(), kind)), name, BranchPart::Ffn(Rc::new(part)))
    }
    /// Any branch.
    pub fn new(norm: Option<(String, Norm)>, name: &str, part: BranchPart) -> Self {
        Branch { norm, name: name.into(), part, post_norm: None, scale: 1.0, gain: None, clip_f16: false }
    }
    /// With a norm on the output.
    pub fn post_norm(mut self, name: &str, kind: Norm) -> Self {
        self.post_norm = Some((name.into(), kind));
        self
    }
    /// Without the norm on the input.
    pub fn no_norm(mut self) -> Self {
        self.norm = None;
        self
    }
    /// With a learned factor on the output.
    pub fn gain(mut self, name: &str) -> Self {
        self.gain = Some(name.into());
        self
    }
    /// With a factor on the output.
    pub fn scaled(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }
}

impl Layer {
    pub fn sequential(branches: impl Into<Vec<Branch>>) -> Self {
        Layer { body: LayerBody::Sequential(branches.into()), scalar: None, shared_cache: None }
    }
    pub fn parallel(norm: Option<(String, Norm)>, branches: impl Into<Vec<Branch>>) -> Self {
        Layer { body: LayerBody::Parallel { norm, branches: branches.into() }, scalar: None, shared_cache: None }
    }
    pub fn custom(part: impl Spec) -> Self {
        Layer { body: LayerBody::Custom(Rc::new(part)), scalar: None, shared_cache: None }
    }

    pub fn declared(declared: Declared) -> Self {
        Layer { body: LayerBody::Declared(Rc::new(declared)), scalar: None, shared_cache: None }
    }

    /// All mixers share this cache.
    pub fn sharing(mut self, cache: CacheKind) -> Self {
        self.shared_cache = Some(cache);
        self
    }

    /// The cache that this layer needs.
    pub fn cache(&self) -> CacheKind {
        if let Some(kind) = &self.shared_cache {
            return kind.clone();
        }
        let branches = match &self.body {
            LayerBody::Sequential(b) | LayerBody::Parallel { branches: b, .. } => b,
            LayerBody::Custom(part) => return part.cache(),
            LayerBody::Declared(_) => return CacheKind::Named("of a declared layer"),
        };
        let mut kinds = branches.iter().filter_map(|b| match &b.part {
            BranchPart::Mixer(m) => Some(m.cache()),
            BranchPart::Ffn(_) => None,
        });
        match (kinds.next(), kinds.next()) {
            (None, _) => CacheKind::None,
            (Some(one), None) => one,
            (Some(a), Some(b)) => CacheKind::List([a, b].into_iter().chain(kinds).collect()),
        }
    }
}

impl Blueprint {
    /// A decoder with everything else at its usual place: `model.embed_tokens`, `model.layers`, `model.norm`, `lm_head`.
    pub fn new(vocab: i32, hidden: i32, norm: Norm, tied: bool, layers: Vec<Layer>) -> Self {
        Blueprint {
            vocab,
            hidden,
            embed: Embed { path: "model.embed_tokens".into(), scale: None, positions: None, norm: None },
            layers_path: "model.layers".into(),
            layers,
            norm: Some(("model.norm".into(), norm)),
            head: Head {
                path: "lm_head".into(),
                tied: if tied { Tied::Yes } else { Tied::No },
                bias: false,
                scale: 1.0,
                gain: None,
                softcap: None,
                bf16_input: false,
                forbidden: Vec::new(),
            },
            prologue: None,
            again: Vec::new(),
            wrapper: String::new(),
        }
    }

    /// Other paths for embedding, layers and final norm.
    pub fn paths(mut self, embed: &str, layers: &str, norm: &str) -> Self {
        (self.embed.path, self.layers_path) = (embed.into(), layers.into());
        self.norm = self.norm.map(|(_, n)| (norm.into(), n));
        self
    }

    /// The text part of a larger model.
    pub fn wrapped(mut self) -> Self {
        self.wrapper = "language_model.".into();
        self
    }

    /// One cache kind per layer and pass, in order; before them that of the prologue, if it has one.
    pub fn caches(&self) -> Vec<CacheKind> {
        let own = || self.layers.iter().map(Layer::cache);
        let first = self.prologue.iter().map(|p| p.cache()).filter(|c| *c != CacheKind::None);
        let again = self.again.iter().flat_map(|p| own().map(|c| p.cache.clone().unwrap_or(c)));
        first.chain(own()).chain(again).collect()
    }
}
