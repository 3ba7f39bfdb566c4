//! Configs and checkpoints that contradict themselves: each is refused with a message that names what is wrong.

use crate::case;
use mlx_lm::Model;
use serde_json::{Value, json};

/// The message of loading a recorded case after a change to its config (its text part, where it has one).
fn refusal(case: &Value, change: &dyn Fn(&mut Value)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut config = case["config"].clone();
    change(&mut config);
    case::write(dir.path(), &config, &case::tensors(case));
    Model::load(dir.path()).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn hybrids_refuse_what_they_cannot_run() {
    type Change = fn(&mut Value);
    let table: [(&str, Change, &str); 13] = [
        ("kimi_k3", |c| c["text_config"]["hidden_act"] = json!("gelu"), "hidden_act"),
        ("kimi_k3", |c| c["text_config"]["mla_use_nope"] = json!(false), "mla_use_nope"),
        ("kimi_k3", |c| c["text_config"]["attn_res_block_size"] = Value::Null, "mlp_res_norm"),
        ("kimi_linear", |c| c["moe_router_activation_func"] = json!("relu"), "moe_router_activation_func"),
        ("kimi_linear", |c| c["linear_attn_config"]["num_heads"] = json!(0), "num_heads"),
        ("kimi_linear", |c| c["linear_attn_config"]["kda_layers"] = json!([1, 2]), "layers.2.self_attn.q_proj"),
        ("bailing_moe_v3", |c| c["no_kda_lora"] = json!(false), "no_kda_lora"),
        ("bailing_moe_v3", |c| c["rope_interleave"] = json!(false), "rope_interleave"),
        ("olmo_hybrid", |c| c["linear_num_value_heads"] = json!(3), "linear_num_value_heads"),
        ("prism_hadamard_qwen35", |c| c["tensor_namespace"] = json!("other"), "tensor_namespace"),
        ("prism_hadamard_qwen35", |c| c["modules"][0]["block"] = json!(1024), "modules[0].block"),
        ("prism_hadamard_qwen35", |c| c["modules"][1] = c["modules"][0].clone(), "listed twice"),
        ("prism_hadamard_qwen35", |c| c["modules"][0]["path"] = json!("model.norm"), "model.norm.scales"),
    ];
    let cases = case::all("families");
    for (name, change, expected) in table {
        // another directory of cases need not have these
        let Some(case) = cases.iter().find(|c| c["case"] == name) else { continue };
        let message = refusal(case, &change);
        assert!(message.contains(expected), "{name}: {message:?} does not name {expected}");
    }
}
