//! The table of GGUF architectures: tensor names, metadata keys and quirks of each, as data.
//!
//! A tensor row is `(GGUF stem, Hugging Face stem)`; the suffix (`.weight`, `.bias`) is kept. Rows of a stem with its
//! suffix win over plain stems. Stems of [`Arch::layer`] follow `blk.N.` and `model.layers.N.`.
use serde_json::{Map, Value};

use super::config::{self, Facts};
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
    /// Config entries that need more than a copy.
    pub fix: Option<Fix>,
}

const TOP: &[Row] = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const ATTENTION: &[Row] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
];
const MLP: &[Row] = &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];
/// Norms before attention and before the MLP.
const PRE: &[Row] = &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
/// Norms before and after both (gemma2, gemma3).
const SANDWICH: &[Row] = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
/// Norms after both (olmo2).
const POST: &[Row] =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];
const EXPERTS: &[Row] = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];
/// Experts under `block_sparse_moe` (mixtral, phimoe, granitemoe).
const SPARSE: &[Row] = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
];
const MLA: &[Row] = &[
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    ("attn_k_b", "self_attn.embed_q"),
    ("attn_v_b", "self_attn.unembed_out"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];
const LFM2: &[Row] = &[
    ("attn_norm", "operator_norm"),
    ("ffn_norm", "ffn_norm"),
    ("attn_output", "self_attn.out_proj"),
    ("attn_q_norm", "self_attn.q_layernorm"),
    ("attn_k_norm", "self_attn.k_layernorm"),
    ("shortconv.conv", "conv.conv"),
    ("shortconv.in_proj", "conv.in_proj"),
    ("shortconv.out_proj", "conv.out_proj"),
];
const LFM2_MLP: &[Row] =
    &[("ffn_gate", "feed_forward.w1"), ("ffn_up", "feed_forward.w3"), ("ffn_down", "feed_forward.w2")];
const LFM2_MOE: &[Row] = &[
    ("ffn_gate", "feed_forward.gate_proj"),
    ("ffn_up", "feed_forward.up_proj"),
    ("ffn_down", "feed_forward.down_proj"),
    ("ffn_gate_inp", "feed_forward.gate"),
    ("ffn_gate_exps", "feed_forward.switch_mlp.gate_proj"),
    ("ffn_up_exps", "feed_forward.switch_mlp.up_proj"),
    ("ffn_down_exps", "feed_forward.switch_mlp.down_proj"),
    ("exp_probs_b.bias", "feed_forward.expert_bias"),
];
const LFM2_TOP: &[Row] = &[("token_embd_norm", "model.embedding_norm"), ("output_norm", "model.embedding_norm")];
const PHI2: &[Row] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_output", "self_attn.dense"),
    ("ffn_up", "mlp.fc1"),
    ("ffn_down", "mlp.fc2"),
];
const GPT_OSS: &[Row] = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("attn_sinks.weight", "self_attn.sinks"),
    ("ffn_gate_inp", "mlp.router"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
];
/// mlx-lm's olmo is the original layout, which joins q, k, v and up, gate.
const OLMO_TOP: &[Row] = &[("token_embd", "model.transformer.wte"), ("output", "model.transformer.ff_out")];
const OLMO: &[Row] = &[("attn_output", "attn_out"), ("ffn_down", "ff_out")];

const GRANITE_HYBRID: &[Row] = &[
    ("ssm_in", "mamba.in_proj"),
    ("ssm_conv1d", "mamba.conv1d"),
    ("ssm_dt.bias", "mamba.dt_bias"),
    ("ssm_a", "mamba.A_log"),
    ("ssm_d", "mamba.D"),
    ("ssm_norm", "mamba.norm"),
    ("ssm_out", "mamba.out_proj"),
    ("ffn_down_shexp", "shared_mlp.output_linear"),
    ("ffn_gate_inp", "block_sparse_moe.router.layer"),
];
/// DeepSeek's first models: plain attention, shared experts under another name.
const DEEPSEEK1: &[Row] = &[
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

const COMMON: &[Row] = &[
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("context_length", "max_position_embeddings"),
    ("rope.freq_base", "rope_theta"),
];
const RMS: &[Row] = &[("attention.layer_norm_rms_epsilon", "rms_norm_eps")];
const LN: &[Row] = &[("attention.layer_norm_epsilon", "layer_norm_eps")];
const WINDOW: &[Row] = &[("attention.sliding_window", "sliding_window")];
const MOE: &[Row] = &[
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
];
const LOCAL_MOE: &[Row] = &[("expert_count", "num_local_experts"), ("expert_used_count", "num_experts_per_tok")];
const GRANITE: &[Row] = &[
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];
const DEEPSEEK: &[Row] = &[
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("expert_count", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("attention.value_length_mla", "v_head_dim"),
    ("attention.value_length", "v_head_dim"),
    ("rope.dimension_count", "qk_rope_head_dim"),
];
const LFM2_KEYS: &[Row] = &[
    ("attention.layer_norm_rms_epsilon", "norm_eps"),
    ("shortconv.l_cache", "conv_L_cache"),
    ("leading_dense_block_count", "num_dense_layers"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];
const OLMO_KEYS: &[Row] = &[
    ("block_count", "n_layers"),
    ("embedding_length", "d_model"),
    ("attention.head_count", "n_heads"),
    ("rope.freq_base", "rope_theta"),
];

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
