//! Datasets: shapes of records, masks, errors with line numbers.

use super::*;
use mlx_lm::tokenizer::Tokenizer;
use std::path::PathBuf;

/// A tokenizer whose token i is the word `wi`; a template that opens turns with w1, ends them with w2, and asks with w3.
fn tokenizer(dir: &Path) -> Tokenizer {
    let vocab: serde_json::Map<String, Value> = (0..199).map(|i| (format!("w{i}"), i.into())).collect();
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}
    });
    std::fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
    let template = "{% if tools %}w90 {% for t in tools %}{{ t.function.name }} {% endfor %}{% endif %}\
                    {% for m in messages %}{% if m.role == 'system' %}w8 {% endif %}\
                    {% if m.reasoning_content %}w70 {{ m.reasoning_content }} {% endif %}\
                    w1 {{ m.content }} w2 {% endfor %}{% if add_generation_prompt %}w1{% endif %}";
    let config = serde_json::json!({"chat_template": template, "eos_token": "w5"});
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_dir(dir, &[5]).unwrap()
}

fn read(dir: &Path, lines: &str, c: &LoraConfig) -> mlx_lm::Result<Dataset> {
    let path: PathBuf = dir.join("train.jsonl");
    std::fs::write(&path, lines).unwrap();
    Dataset::read(&path, &tokenizer(dir), c)
}

#[test]
fn every_shape_of_record_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let c = LoraConfig { mask_prompt: true, ..LoraConfig::default() };
    let turn = [1, 20, 2, 1, 21, 2];
    for (line, ids, offset) in [
        (r#"{"prompt": "w20", "completion": "w21"}"#, &turn[..], 4),
        (r#"{"prompt": "w20", "response": "w21"}"#, &turn, 4),
        (r#"{"messages": [{"role": "user", "content": "w20"}, {"role": "assistant", "content": "w21"}]}"#, &turn, 4),
        (r#"{"instruction": "w20", "output": "w21"}"#, &turn, 4),
        (r#"{"instruction": "w20", "input": "", "output": "w21"}"#, &turn, 4),
        (r#"{"instruction": "w20", "input": "w22", "output": "w21"}"#, &[1, 20, 22, 2, 1, 21, 2], 5),
        (r#"{"question": "w20", "answer": "w21"}"#, &turn, 4),
        (r#"{"problem": "w20", "solution": "w21"}"#, &turn, 4),
        (r#"{"problem": "w20", "thinking": "w23", "solution": "w21"}"#, &[1, 20, 2, 70, 23, 1, 21, 2], 4),
        (r#"{"conversations": [{"from": "human", "value": "w20"}, {"from": "gpt", "value": "w21"}]}"#, &turn, 4),
        (
            r#"{"conversations": [{"from": "system", "value": "w30"}, {"from": "human", "value": "w20"}, {"from": "gpt", "value": "w21"}]}"#,
            &[8, 1, 30, 2, 1, 20, 2, 1, 21, 2],
            8,
        ),
        (
            r#"{"messages": [{"role": "user", "content": "w20"}, {"role": "assistant", "content": "w21"}], "tools": [{"type": "function", "function": {"name": "w91"}}]}"#,
            &[90, 91, 1, 20, 2, 1, 21, 2],
            6,
        ),
    ] {
        let set = read(dir.path(), line, &c).unwrap();
        assert_eq!(set.examples[0].ids, ids, "{line}");
        assert_eq!(set.examples[0].offset, offset, "{line}");
    }
    let plain = LoraConfig::default();
    let text = read(dir.path(), r#"{"text": "w20 w21"}"#, &plain).unwrap();
    assert_eq!(text.examples[0].ids, [20, 21, 5], "an end of sequence is added");
    let renamed = LoraConfig { prompt_feature: "q".into(), completion_feature: "a".into(), ..c };
    let set = read(dir.path(), r#"{"q": "w20", "a": "w21"}"#, &renamed).unwrap();
    assert_eq!(set.examples[0].ids, turn);
}

#[test]
fn a_bad_line_is_named_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"prompt": "w20", "completion": "w21"}"#;
    let plain = LoraConfig::default();
    let masked = LoraConfig { mask_prompt: true, ..LoraConfig::default() };
    for (bad, part, c) in [
        ("{broken", "not a JSON object", &plain),
        ("[1]", "not a JSON object", &plain),
        (r#"{"a": 1}"#, "no known kind of record", &plain),
        (r#"{"messages": [{"content": "w1"}]}"#, "role", &plain),
        (r#"{"conversations": [{"from": "human"}]}"#, "from and value", &plain),
        (r#"{"text": "w20 w21"}"#, "mask_prompt", &masked),
    ] {
        let e = read(dir.path(), &format!("{good}\n\n{bad}\n{good}\n"), c).unwrap_err().to_string();
        assert!(e.contains("train.jsonl") && e.contains("line 3") && e.contains(part), "{e}");
    }
    let lines = read(dir.path(), &format!("{good}\n\n{good}\n"), &plain).unwrap();
    assert_eq!(lines.examples.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 3]);
    let long = format!("{good}\n{}", "x".repeat((16 << 20) + 2));
    let e = read(dir.path(), &long, &plain).unwrap_err().to_string();
    assert!(e.contains("line 2") && e.contains("longer"), "{e}");
}
