//! Layers that Python's model files keep at more bits, or dense, when a whole model is quantised (`quant_predicate`).

use mlx::{Quant, QuantMode};

/// By `model_type`, how the paths end that get 8 bits in groups of 64.
const EIGHT_BITS: &[(&[&str], &[&str])] = &[
    (&["Klear", "qwen3_moe", "qwen3_vl_moe", "mellum", "kimi_linear"], &["mlp.gate"]),
    (&["qwen3_next", "qwen3_5", "qwen3_5_moe"], &["mlp.gate", "shared_expert_gate"]),
    (&["afmoe"], &["router.gate"]),
    (&["bailing_moe", "bailing_moe_linear", "bailing_hybrid"], &["mlp.gate.gate_proj"]),
    (&["gemma4", "gemma4_text"], &["router.proj"]),
    (&["gpt_oss", "jamba"], &["router"]),
    (&["granite"], &["self_attn.o_proj", "mlp.down_proj", "lm_head"]),
    (&["granitemoe"], &["block_sparse_moe.router.layer", "self_attn.o_proj", "mlp.down_proj", "lm_head"]),
    (&["granitemoehybrid"], &["router.layer"]),
    (&["laguna"], &["mlp.gate.proj"]),
    (&["lfm2_moe"], &["feed_forward.gate"]),
    (&["longcat_flash", "longcat_flash_ngram"], &["classifier"]),
    (&["minimax", "minimax_m3_vl"], &["block_sparse_moe.gate"]),
    (&["rwkv7"], &["lora.2", "embeddings"]),
    (&["step3p5"], &["mlp.gate.gate"]),
];

/// By `model_type`, how the paths end that stay dense.
const DENSE: &[(&[&str], &[&str])] =
    &[(&["spark2_5"], &["self_attn.g_proj"]), (&["bailing_hybrid"], &["attention.embed_q", "attention.unembed_out"])];

fn listed(table: &[(&[&str], &[&str])], model_type: &str, path: &str) -> bool {
    table.iter().any(|(types, ends)| types.contains(&model_type) && ends.iter().any(|e| path.ends_with(e)))
}

/// How this layer is packed where all are packed as `default`; `None` is not at all.
pub(super) fn own_form(model_type: &str, path: &str, default: Quant) -> Option<Quant> {
    if listed(DENSE, model_type, path) {
        return None;
    }
    match listed(EIGHT_BITS, model_type, path) {
        true => Some(Quant { group_size: 64, bits: 8, mode: QuantMode::Affine }),
        false => Some(default),
    }
}
