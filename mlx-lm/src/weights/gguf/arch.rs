//! The table of GGUF architectures: tensor names, metadata keys and quirks of each, as data.
//!
//! A tensor row is `(GGUF stem, Hugging Face stem)`; the suffix (`.weight`, `.bias`) is kept. Rows of a stem with its
//! suffix win over plain stems. Stems of [`Arch::layer`] follow `blk.N.` and `model.layers.N.`.
use serde_json::{Map, Value};

use super::config::{self, Facts};
use super::fixes;
use super::names::*;
use crate::Result;

/// `(from, to)`
pub type Row = (&'static str, &'static str);

/// Completes a config from metadata and tensor shapes.
pub type Fix = fn(&Facts, &mut Map<String, Value>) -> Result<()>;

/// One architecture.
#[derive(Clone, Copy)]
pub struct Arch {
    /// `general.architecture`.
    pub name: &'static str,
    /// The family that runs it.
    pub model_type: &'static str,
    /// Tensors outside of layers.
    pub top: &'static [&'static [Row]],
    /// Tensors of a layer; earlier lists win.
    pub layer: &'static [&'static [Row]],
    /// Prefix of a layer in the target names, before the number.
    pub layers: &'static str,
    /// Metadata keys after `<architecture>.`; earlier lists win. Missing keys are skipped.
    pub keys: &'static [&'static [Row]],
    /// q and k rows are in llama.cpp's interleaved order.
    pub permuted: bool,
    /// Norm weights are stored as w + 1.
    pub norm_plus_one: bool,
    /// Tensors of a layer whose rows are joined here: the target's stem and the stems of its parts, in order.
    pub joins: &'static [(&'static str, &'static [&'static str])],
    /// The row of the parts, one after the other, that each row of a joined tensor is; `None`: in that order.
    pub order: Option<fn(&Map<String, Value>) -> Option<Vec<u32>>>,
    /// Tensors that are several here: the stem, and along which axis it is cut evenly into which.
    pub splits: &'static [(&'static str, usize, &'static [&'static str])],
    /// Config entries that need more than a copy.
    pub fix: Option<Fix>,
}

const LLAMA: Arch = Arch {
    name: "llama",
    model_type: "llama",
    top: &[TOP],
    layer: &[PRE, ATTENTION, MLP],
    layers: "model.layers.",
    keys: &[COMMON, RMS],
    permuted: true,
    norm_plus_one: false,
    joins: &[],
    order: None,
    splits: &[],
    fix: Some(config::llama),
};
const PLAIN: Arch = Arch { permuted: false, fix: None, ..LLAMA };

/// All architectures.
pub const ARCHS: &[Arch] = &[
    LLAMA,
    Arch { name: "mistral3", keys: &[COMMON, RMS], model_type: "ministral3", fix: Some(config::ministral3), ..LLAMA },
    Arch { name: "qwen2", model_type: "qwen2", ..PLAIN },
    Arch { name: "qwen3", model_type: "qwen3", ..PLAIN },
    Arch { name: "qwen2vl", model_type: "qwen2", ..PLAIN },
    Arch { name: "qwen3vl", model_type: "qwen3", ..PLAIN },
    Arch {
        name: "qwen3vlmoe",
        model_type: "qwen3_moe",
        layer: &[PRE, ATTENTION, MLP, EXPERTS],
        keys: &[MOE, COMMON, RMS],
        fix: Some(config::qwen3_moe),
        ..PLAIN
    },
    Arch {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        layer: &[PRE, ATTENTION, MLP, EXPERTS],
        keys: &[MOE, COMMON, RMS],
        ..PLAIN
    },
    Arch {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        layer: &[PRE, ATTENTION, MLP, EXPERTS],
        keys: &[MOE, COMMON, RMS],
        fix: Some(config::qwen3_moe),
        ..PLAIN
    },
    Arch { name: "gemma", model_type: "gemma", norm_plus_one: true, fix: Some(config::gemma), ..PLAIN },
    Arch {
        name: "gemma2",
        model_type: "gemma2",
        layer: &[SANDWICH, ATTENTION, MLP],
        keys: &[
            &[
                ("attn_logit_softcapping", "attn_logit_softcapping"),
                ("final_logit_softcapping", "final_logit_softcapping"),
            ],
            COMMON,
            RMS,
            WINDOW,
        ],
        norm_plus_one: true,
        fix: Some(config::gemma2),
        ..PLAIN
    },
    Arch {
        name: "gemma3",
        model_type: "gemma3_text",
        layer: &[SANDWICH, ATTENTION, MLP],
        keys: &[&[("rope.local.freq_base", "rope_local_base_freq")], COMMON, RMS, WINDOW],
        norm_plus_one: true,
        fix: Some(config::gemma3),
        ..PLAIN
    },
    Arch {
        name: "gemma3n",
        model_type: "gemma3n",
        top: &[PER_LAYER_TOP, TOP],
        layer: &[GEMMA3N, PER_LAYER, SANDWICH, ATTENTION, MLP],
        keys: &[
            &[("altup.active_idx", "altup_active_idx"), ("altup.num_inputs", "altup_num_inputs")],
            SHARING,
            COMMON,
            RMS,
            WINDOW,
        ],
        splits: &[
            ("altup_proj", 0, &["model.altup_projections.0", "model.altup_projections.1", "model.altup_projections.2"]),
            (
                "altup_unembd_proj",
                0,
                &[
                    "model.altup_unembed_projections.0",
                    "model.altup_unembed_projections.1",
                    "model.altup_unembed_projections.2",
                ],
            ),
        ],
        fix: Some(fixes::gemma3n),
        ..PLAIN
    },
    Arch {
        name: "gemma4",
        model_type: "gemma4_text",
        top: &[PER_LAYER_TOP, TOP],
        layer: &[GEMMA4, PER_LAYER, SANDWICH, ATTENTION, MLP],
        keys: &[
            &[
                ("attention.key_length", "global_head_dim"),
                ("attention.key_length_swa", "head_dim"),
                ("expert_used_count", "top_k_experts"),
            ],
            SHARING,
            MOE,
            COMMON,
            RMS,
            WINDOW,
        ],
        splits: &[("ffn_gate_up_exps", 1, &["experts.switch_glu.gate_proj", "experts.switch_glu.up_proj"])],
        fix: Some(fixes::gemma4),
        ..PLAIN
    },
    Arch {
        name: "qwen3next",
        model_type: "qwen3_next",
        layer: &[QWEN3_NEXT, PRE, ATTENTION, MLP, EXPERTS],
        keys: &[
            &[
                ("ssm.conv_kernel", "linear_conv_kernel_dim"),
                ("ssm.state_size", "linear_key_head_dim"),
                ("ssm.group_count", "linear_num_key_heads"),
                ("ssm.time_step_rank", "linear_num_value_heads"),
                ("full_attention_interval", "full_attention_interval"),
            ],
            MOE,
            COMMON,
            RMS,
        ],
        joins: &[("linear_attn.in_proj_qkvz", &["attn_qkv", "attn_gate"])],
        order: Some(fixes::qkvz_order),
        fix: Some(fixes::qwen3_next),
        ..PLAIN
    },
    Arch {
        name: "llama4",
        model_type: "llama4",
        layer: &[LLAMA4, PRE, ATTENTION],
        keys: &[
            &[
                ("expert_feed_forward_length", "intermediate_size"),
                ("feed_forward_length", "intermediate_size_mlp"),
                ("interleave_moe_layer_step", "interleave_moe_layer_step"),
            ],
            LOCAL_MOE,
            COMMON,
            RMS,
        ],
        fix: Some(fixes::llama4),
        ..PLAIN
    },
    Arch {
        name: "phi2",
        model_type: "phi",
        top: &[&[("output_norm", "model.final_layernorm")], TOP],
        layer: &[PHI2, ATTENTION],
        keys: &[COMMON, LN],
        fix: Some(config::partial_rotary),
        ..PLAIN
    },
    Arch {
        name: "phi3",
        model_type: "phi3",
        layer: &[&[("ffn_up", "mlp.gate_up_proj")], PRE, ATTENTION, MLP],
        keys: &[COMMON, RMS, WINDOW],
        fix: Some(config::phi3),
        ..PLAIN
    },
    Arch {
        name: "phimoe",
        model_type: "phimoe",
        layer: &[PRE, ATTENTION, SPARSE],
        keys: &[LOCAL_MOE, COMMON, RMS],
        fix: Some(config::phi3),
        ..PLAIN
    },
    Arch {
        name: "deepseek",
        model_type: "deepseek",
        layer: &[DEEPSEEK1, PRE, ATTENTION, MLP, EXPERTS],
        keys: &[DEEPSEEK, COMMON, RMS],
        fix: Some(config::deepseek1),
        ..LLAMA
    },
    Arch {
        name: "deepseek2",
        model_type: "deepseek_v3",
        layer: &[MLA, PRE, ATTENTION, MLP, EXPERTS],
        keys: &[DEEPSEEK, COMMON, RMS],
        fix: Some(config::deepseek),
        ..PLAIN
    },
    Arch {
        name: "lfm2",
        model_type: "lfm2",
        top: &[LFM2_TOP, TOP],
        layer: &[LFM2, LFM2_MLP, ATTENTION],
        keys: &[LFM2_KEYS, COMMON],
        fix: Some(config::lfm2),
        ..PLAIN
    },
    Arch {
        name: "lfm2moe",
        model_type: "lfm2_moe",
        top: &[LFM2_TOP, TOP],
        layer: &[LFM2, LFM2_MOE, ATTENTION],
        keys: &[LFM2_KEYS, COMMON],
        fix: Some(config::lfm2),
        ..PLAIN
    },
    Arch { name: "granite", model_type: "granite", keys: &[GRANITE, COMMON, RMS], fix: Some(config::granite), ..LLAMA },
    Arch {
        name: "granitemoe",
        model_type: "granitemoe",
        layer: &[&[("ffn_gate_inp", "block_sparse_moe.router.layer")], SPARSE, PRE, ATTENTION],
        keys: &[LOCAL_MOE, GRANITE, COMMON, RMS],
        fix: Some(config::granite),
        ..LLAMA
    },
    Arch {
        name: "granitehybrid",
        model_type: "granitemoehybrid",
        layer: &[GRANITE_HYBRID, SPARSE, PRE, ATTENTION, MLP],
        keys: &[
            &[
                ("expert_shared_feed_forward_length", "shared_intermediate_size"),
                ("ssm.conv_kernel", "mamba_d_conv"),
                ("ssm.state_size", "mamba_d_state"),
                ("ssm.group_count", "mamba_n_groups"),
                ("ssm.time_step_rank", "mamba_n_heads"),
            ],
            LOCAL_MOE,
            GRANITE,
            COMMON,
            RMS,
        ],
        joins: &[("shared_mlp.input_linear", &["ffn_gate_shexp", "ffn_up_shexp"])],
        fix: Some(config::granite_hybrid),
        ..LLAMA
    },
    Arch {
        name: "olmo",
        model_type: "olmo",
        top: &[OLMO_TOP],
        layer: &[OLMO],
        layers: "model.transformer.blocks.",
        keys: &[OLMO_KEYS],
        joins: &[("att_proj", &["attn_q", "attn_k", "attn_v"]), ("ff_proj", &["ffn_up", "ffn_gate"])],
        fix: Some(config::olmo),
        ..LLAMA
    },
    Arch {
        name: "olmo2",
        model_type: "olmo2",
        layer: &[POST, ATTENTION, MLP],
        keys: &[COMMON, RMS, WINDOW],
        fix: Some(config::olmo2),
        ..PLAIN
    },
    Arch { name: "olmoe", model_type: "olmoe", layer: &[PRE, ATTENTION, EXPERTS], keys: &[MOE, COMMON, RMS], ..PLAIN },
    Arch { name: "smollm3", model_type: "smollm3", fix: Some(config::smollm3), ..LLAMA },
    Arch {
        name: "starcoder2",
        model_type: "starcoder2",
        layer: &[&[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")], PRE, ATTENTION],
        keys: &[&[("attention.layer_norm_epsilon", "norm_epsilon")], COMMON],
        ..PLAIN
    },
    Arch {
        name: "command-r",
        model_type: "cohere",
        keys: &[&[("logit_scale", "logit_scale")], COMMON, LN],
        fix: Some(config::cohere),
        ..PLAIN
    },
    Arch {
        name: "gpt-oss",
        model_type: "gpt_oss",
        layer: &[GPT_OSS, ATTENTION],
        keys: &[LOCAL_MOE, COMMON, RMS, WINDOW],
        fix: Some(config::gpt_oss),
        ..PLAIN
    },
];

/// Experts of a llama architecture make it mixtral.
pub const MIXTRAL: Arch =
    Arch { model_type: "mixtral", layer: &[SPARSE, PRE, ATTENTION], keys: &[LOCAL_MOE, COMMON, RMS], ..LLAMA };

/// Tensors that carry config rather than weights.
pub const NOT_WEIGHTS: &[&str] = &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

impl Arch {
    /// Whether a tensor is a part of a joined one.
    pub fn is_joined(&self, name: &str) -> bool {
        let stem = name.strip_prefix("blk.").and_then(|r| r.split_once('.')).and_then(|(_, r)| r.rsplit_once('.'));
        stem.is_some_and(|(stem, _)| self.joins.iter().any(|(_, parts)| parts.contains(&stem)))
    }
    /// The targets that a tensor is cut into, and along which axis.
    pub fn split(&self, name: &str) -> Option<(usize, Vec<String>)> {
        let (prefix, rest) = match name.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
            Some((n, rest)) => (format!("{}{n}.", self.layers), rest),
            None => (String::new(), name),
        };
        let (stem, suffix) = rest.rsplit_once('.')?;
        let (_, axis, parts) = self.splits.iter().find(|(s, ..)| *s == stem)?;
        Some((*axis, parts.iter().map(|p| format!("{prefix}{p}.{suffix}")).collect()))
    }
    /// The Hugging Face name of a tensor.
    pub fn rename(&self, name: &str) -> Option<String> {
        let Some(rest) = name.strip_prefix("blk.") else { return stem(self.top, name) };
        let (n, rest) = rest.split_once('.')?;
        if n.is_empty() || !n.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(format!("{}{n}.{}", self.layers, stem(self.layer, rest)?))
    }
}

fn stem(rows: &[&[Row]], name: &str) -> Option<String> {
    let find = |key: &str| rows.iter().flat_map(|r| r.iter()).find(|(from, _)| *from == key).map(|(_, to)| *to);
    if let Some(whole) = find(name) {
        return Some(whole.to_owned());
    }
    let (stem, suffix) = name.rsplit_once('.')?;
    Some(format!("{}.{suffix}", find(stem)?))
}
