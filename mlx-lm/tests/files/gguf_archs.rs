//! The architectures that [`super::gguf_models`] writes: a recorded toy model each, names and metadata of its file.

use serde_json::{Value, json};

/// One architecture.
pub struct Arch {
    /// `general.architecture`.
    pub name: &'static str,
    /// The recorded toy model.
    pub case: &'static str,
    /// Changes of its config; null removes a key. What a GGUF cannot say must be what llama.cpp takes for granted.
    pub config: Value,
    /// Metadata below the architecture's name, beside what every model has.
    pub keys: Value,
    /// Names that are not those of most models.
    pub names: &'static [(&'static str, &'static str)],
    pub permuted: bool,
    pub plus_one: bool,
}

impl Arch {
    fn new(name: &'static str, case: &'static str) -> Self {
        Arch { name, case, config: json!({}), keys: json!({}), names: &[], permuted: false, plus_one: false }
    }
}

/// Hugging Face names to GGUF names, without `.weight` and `.bias`.
pub const NAMES: [(&str, &str); 34] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.switch_mlp.gate_proj", "ffn_gate_exps"),
    ("mlp.switch_mlp.up_proj", "ffn_up_exps"),
    ("mlp.switch_mlp.down_proj", "ffn_down_exps"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("block_sparse_moe.switch_mlp.gate_proj", "ffn_gate_exps"),
    ("block_sparse_moe.switch_mlp.up_proj", "ffn_up_exps"),
    ("block_sparse_moe.switch_mlp.down_proj", "ffn_down_exps"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
];
const SANDWICH: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const LFM2: &[(&str, &str)] = &[
    ("model.embedding_norm", "token_embd_norm"),
    ("operator_norm", "attn_norm"),
    ("ffn_norm", "ffn_norm"),
    ("self_attn.out_proj", "attn_output"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("conv.conv", "shortconv.conv"),
    ("conv.in_proj", "shortconv.in_proj"),
    ("conv.out_proj", "shortconv.out_proj"),
    ("feed_forward.w1", "ffn_gate"),
    ("feed_forward.w3", "ffn_up"),
    ("feed_forward.w2", "ffn_down"),
    ("feed_forward.gate_proj", "ffn_gate"),
    ("feed_forward.up_proj", "ffn_up"),
    ("feed_forward.down_proj", "ffn_down"),
    ("feed_forward.gate", "ffn_gate_inp"),
    ("feed_forward.switch_mlp.gate_proj", "ffn_gate_exps"),
    ("feed_forward.switch_mlp.up_proj", "ffn_up_exps"),
    ("feed_forward.switch_mlp.down_proj", "ffn_down_exps"),
];
const PHI2: &[(&str, &str)] = &[
    ("model.final_layernorm", "output_norm"),
    ("self_attn.dense", "attn_output"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];
const GPT_OSS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("mlp.router", "ffn_gate_inp"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];
const MLA: &[(&str, &str)] = &[
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("self_attn.embed_q", "attn_k_b"),
    ("self_attn.unembed_out", "attn_v_b"),
];
const GRANITE_HYBRID: &[(&str, &str)] = &[
    ("shared_mlp.output_linear", "ffn_down_shexp"),
    ("mamba.in_proj", "ssm_in"),
    ("mamba.conv1d", "ssm_conv1d"),
    ("mamba.norm", "ssm_norm"),
    ("mamba.out_proj", "ssm_out"),
];

/// Of models with inputs of their own for each layer.
const GEMMA: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("model.embed_tokens_per_layer", "per_layer_token_embd"),
    ("model.per_layer_model_projection", "per_layer_model_proj"),
    ("model.per_layer_projection_norm", "per_layer_proj_norm"),
    ("per_layer_input_gate", "inp_gate"),
    ("per_layer_projection", "proj"),
    ("post_per_layer_input_norm", "post_norm"),
    ("altup.correction_coefs", "altup_correct_coef"),
    ("altup.prediction_coefs", "altup_predict_coef"),
    ("altup.modality_router", "altup_router"),
    ("altup.router_norm", "altup_router_norm"),
    ("laurel.linear_left", "laurel_l"),
    ("laurel.linear_right", "laurel_r"),
    ("laurel.post_laurel_norm", "laurel_post_norm"),
    ("router.proj", "ffn_gate_inp"),
    ("experts.switch_glu.down_proj", "ffn_down_exps"),
    ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
    ("post_feedforward_layernorm_1", "post_ffw_norm_1"),
    ("post_feedforward_layernorm_2", "post_ffw_norm_2"),
];
const QWEN3_NEXT: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
];
const LLAMA4: &[(&str, &str)] = &[
    ("feed_forward.gate_proj", "ffn_gate"),
    ("feed_forward.up_proj", "ffn_up"),
    ("feed_forward.down_proj", "ffn_down"),
    ("feed_forward.router", "ffn_gate_inp"),
    ("feed_forward.experts.gate_proj", "ffn_gate_exps"),
    ("feed_forward.experts.up_proj", "ffn_up_exps"),
    ("feed_forward.experts.down_proj", "ffn_down_exps"),
    ("feed_forward.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("feed_forward.shared_expert.up_proj", "ffn_up_shexp"),
    ("feed_forward.shared_expert.down_proj", "ffn_down_shexp"),
];

/// Magnitudes of longrope's sides where both are what the converter computes.
const LONG: f64 = 1.843_908_891_458_577_5;

pub fn archs() -> Vec<Arch> {
    let a = Arch::new;
    let yarn = json!({"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 32,
                      "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0});
    let multipliers =
        json!({"attention.scale": 0.2, "embedding_scale": 0.8, "residual_scale": 0.6, "logit_scale": 4.0});
    let with = |a: &Value, b: Value| {
        let mut all = a.as_object().unwrap().clone();
        all.extend(b.as_object().unwrap().clone());
        Value::Object(all)
    };
    let mla = json!({
        "leading_dense_block_count": 1, "expert_shared_count": 1, "expert_weights_scale": 2.5, "expert_group_count": 4,
        "expert_group_used_count": 2, "attention.q_lora_rank": 32, "attention.kv_lora_rank": 32,
        "attention.key_length": 48, "attention.value_length": 32, "attention.key_length_mla": 48,
        "attention.value_length_mla": 32, "attention.head_count_kv": 1, "rope.dimension_count": 16,
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        "rope.scaling.yarn_log_multiplier": 0.1,
    });
    let conv = json!({"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3, "leading_dense_block_count": 1});
    let rope4 = json!({
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    let gemma4 = json!({
        "attention.key_length": 32, "attention.key_length_swa": 16, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4,
        "final_logit_softcapping": 30.0,
    });
    vec![
        Arch { permuted: true, ..a("llama", "llama") },
        Arch { permuted: true, ..a("llama", "mixtral") },
        Arch {
            permuted: true,
            config: json!({"layer_types": null, "sliding_window": null}),
            keys: json!({"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 16,
                         "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
                         "rope.scaling.yarn_log_multiplier": 0.1, "attention.temperature_scale": 0.1}),
            ..a("mistral3", "ministral3")
        },
        a("qwen2", "qwen2"),
        Arch {
            config: json!({"model_type": "qwen2"}),
            keys: json!({"rope.dimension_sections": [2, 3, 3, 0]}),
            ..a("qwen2vl", "qwen2_vl")
        },
        a("qwen2moe", "qwen2_moe"),
        a("qwen3", "qwen3"),
        Arch {
            keys: json!({"rope.dimension_sections": [3, 3, 2, 0], "n_deepstack_layers": 3}),
            ..a("qwen3vl", "qwen3_vl")
        },
        a("qwen3moe", "qwen3_vl_moe"),
        Arch { keys: json!({"n_deepstack_layers": 3}), ..a("qwen3vlmoe", "qwen3_vl_moe") },
        Arch { plus_one: true, ..a("gemma", "gemma") },
        Arch {
            plus_one: true,
            names: SANDWICH,
            config: json!({"query_pre_attn_scalar": 16.0}),
            keys: json!({"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4096}),
            ..a("gemma2", "gemma2")
        },
        Arch { plus_one: true, names: SANDWICH, ..a("gemma3", "gemma3_text") },
        Arch { names: PHI2, keys: json!({"rope.dimension_count": 6}), ..a("phi2", "phi") },
        Arch {
            keys: json!({"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": LONG}),
            ..a("phi3", "phi3")
        },
        Arch {
            config: json!({"rope_scaling": {
                "type": "longrope", "original_max_position_embeddings": 32, "long_mscale": LONG, "short_mscale": LONG,
                "short_factor": [1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.14], "long_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
            }}),
            keys: json!({"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": LONG}),
            ..a("phimoe", "phimoe")
        },
        Arch {
            permuted: true,
            keys: json!({"leading_dense_block_count": 1, "expert_shared_count": 1, "expert_weights_scale": 1.0}),
            ..a("deepseek", "deepseek")
        },
        Arch {
            names: MLA,
            keys: with(&mla, json!({"expert_weights_norm": false, "expert_gating_func": 1})),
            ..a("deepseek2", "deepseek_v2")
        },
        Arch {
            names: MLA,
            keys: with(&mla, json!({"expert_weights_norm": true, "expert_gating_func": 2})),
            ..a("deepseek2", "deepseek_v3")
        },
        Arch { names: LFM2, keys: conv.clone(), ..a("lfm2", "lfm2") },
        Arch { names: LFM2, keys: with(&conv, json!({"expert_gating_func": 2})), ..a("lfm2moe", "lfm2_moe") },
        Arch { permuted: true, keys: multipliers.clone(), ..a("granite", "granite") },
        Arch { permuted: true, keys: multipliers.clone(), ..a("granitemoe", "granitemoe") },
        Arch {
            permuted: true,
            names: GRANITE_HYBRID,
            config: json!({"mamba_n_groups": 1}),
            keys: with(
                &multipliers,
                json!({
                    "attention.head_count_kv": [0, 2, 0, 2], "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 1,
                    "ssm.inner_size": 128, "ssm.time_step_rank": 8, "rope.scaling.finetuned": false,
                    "expert_shared_feed_forward_length": 64,
                }),
            ),
            ..a("granitehybrid", "granitemoehybrid")
        },
        Arch { permuted: true, ..a("olmo", "olmo") },
        Arch { names: SANDWICH, ..a("olmo2", "olmo2") },
        Arch {
            names: SANDWICH,
            keys: with(&yarn, json!({"attention.sliding_window_pattern": [true, true, true, false]})),
            ..a("olmo2", "olmo3")
        },
        a("olmoe", "olmoe"),
        Arch { permuted: true, ..a("smollm3", "smollm3") },
        a("starcoder2", "starcoder2"),
        a("command-r", "cohere"),
        Arch { names: GPT_OSS, keys: yarn, ..a("gpt-oss", "gpt_oss") },
        // llama.cpp does not clip the coefficients of the streams
        Arch {
            names: GEMMA,
            config: json!({"altup_coef_clip": null, "activation_sparsity_pattern": [0.95, 0.7, 0.0, 0.0]}),
            keys: json!({
                "altup.active_idx": 0, "altup.num_inputs": 4, "embedding_length_per_layer_input": 32,
                "attention.shared_kv_layers": 2, "attention.sliding_window_pattern": [true, false, true, false],
                "activation_sparsity_scale": [1.644_853_6, 0.524_400_5, null, null], "rope.freq_base_swa": 100.0,
                "final_logit_softcapping": 30.0,
            }),
            ..a("gemma3n", "gemma3n")
        },
        Arch {
            names: GEMMA,
            config: json!({"rope_parameters": rope4}),
            keys: with(
                &gemma4,
                json!({
                    "attention.sliding_window_pattern": [true, true, true, true, false, true, true, true, true, false],
                    "attention.shared_kv_layers": 4, "embedding_length_per_layer_input": 32,
                    "feed_forward_length": [128, 128, 128, 128, 128, 128, 256, 256, 256, 256],
                }),
            ),
            ..a("gemma4", "gemma4")
        },
        Arch {
            names: GEMMA,
            config: json!({"rope_parameters": rope4}),
            keys: with(
                &gemma4,
                json!({
                    "attention.sliding_window_pattern": [true, true, false, true, true, false], "attention.shared_kv_layers": 0,
                    "embedding_length_per_layer_input": 0, "attention.head_count_kv": [2, 2, 1, 2, 2, 1], "expert_used_count": 2,
                }),
            ),
            ..a("gemma4", "gemma4_text")
        },
        Arch {
            names: QWEN3_NEXT,
            config: json!({"norm_topk_prob": true}),
            keys: json!({
                "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.time_step_rank": 4, "ssm.inner_size": 64,
                "full_attention_interval": 4, "rope.dimension_count": 16,
            }),
            ..a("qwen3next", "qwen3_next")
        },
        Arch {
            names: LLAMA4,
            config: json!({"attention_chunk_size": 8192, "floor_scale": 8192}),
            keys: json!({"interleave_moe_layer_step": 2, "expert_feed_forward_length": 128}),
            ..a("llama4", "llama4")
        },
    ]
}
