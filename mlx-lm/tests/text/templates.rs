//! Chat templates against what transformers renders (`tests/data/text/record_templates.py`).
use std::time::{Duration, SystemTime};

use mlx_lm::chat::{ChatTemplate, Message, RenderOptions};
use serde_json::Value;

use crate::{data, json};

/// 2026-02-03 04:05:06, the clock of the recording.
fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_091_506)
}

fn options(recorded: &Value) -> RenderOptions {
    let mut options = RenderOptions { now: Some(clock()), ..Default::default() };
    for (key, value) in recorded.as_object().unwrap() {
        match key.as_str() {
            "tools" => options.tools = value.as_array().cloned(),
            "add_generation_prompt" => options.add_generation_prompt = value.as_bool().unwrap(),
            "continue_final_message" => options.continue_final_message = value.as_bool().unwrap(),
            _ => {
                options.variables.insert(key.clone(), value.clone());
            }
        }
    }
    options
}

#[test]
fn every_recorded_rendering_is_reproduced() {
    let recorded = json("templates.json");
    let cases = recorded["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().unwrap();
        let source = std::fs::read_to_string(data(&format!("templates/{name}.jinja"))).unwrap();
        let mut template = ChatTemplate::from_source(name, &source).unwrap();
        for (token, text) in recorded["tokens"].as_object().unwrap() {
            template = template.with_token(token, text.as_str().unwrap());
        }
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let ours = template.render(&messages, &options(&case["options"]));
        match (ours, case["rendered"].as_str()) {
            (Ok(ours), Some(theirs)) if ours == theirs => {}
            (Err(e), None) => {
                let e = e.to_string();
                assert!(e.contains(&format!("{name}:")), "{e}");
                let theirs = case["error"].as_str().unwrap();
                // Python's own words for a missing element differ; what a template raises must not.
                assert!(e.contains(theirs) || theirs.starts_with("list object"), "{e} for {theirs}");
            }
            (ours, theirs) => wrong.push(format!("{n} {name}\n--- ours\n{ours:?}\n--- theirs\n{theirs:?}")),
        }
    }
    assert!(cases.len() > 40);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn render(source: &str) -> Result<String, String> {
    let template = ChatTemplate::from_source("t.jinja", source).map_err(|e| e.to_string())?;
    template.render(&[Message::user("hi")], &RenderOptions::default()).map_err(|e| e.to_string())
}

#[test]
fn errors_name_the_file_and_the_line() {
    let broken = render("line one\n{% if %}").unwrap_err();
    assert!(broken.starts_with("chat template: t.jinja:2: "), "{broken}");
    let raised = render("\n\n{{ raise_exception('no ' ~ messages[0].role) }}").unwrap_err();
    assert!(raised.starts_with("chat template: t.jinja:3: ") && raised.contains("no user"), "{raised}");
    let unknown = render("{{ messages | frobnicate }}").unwrap_err();
    assert!(unknown.contains("t.jinja:1") && unknown.contains("frobnicate"), "{unknown}");
}

#[test]
fn templates_cannot_reach_files_or_other_templates() {
    for source in ["{% include 'Cargo.toml' %}", "{% extends 't.jinja' %}", "{% import '/etc/passwd' as x %}{{ x }}"] {
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn a_named_template_is_picked_by_name_or_by_tools() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = std::fs::read(data("tokenizers/byte_level/tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let config = serde_json::json!({"chat_template": [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": "with {{ tools | length }} tools"},
        {"name": "rag", "template": "{{ documents[0].title }} {{ bos_token }}"},
    ], "bos_token": "<|im_start|>"});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = mlx_lm::tokenizer::Tokenizer::from_dir(folder.path(), &[]).unwrap();
    let render = |options: RenderOptions| tokenizer.apply_chat_template(&[Message::user("hi")], &options);
    assert_eq!(render(RenderOptions::default()).unwrap(), "plain hi");
    let tools = RenderOptions { tools: Some(vec![Value::Null]), ..Default::default() };
    assert_eq!(render(tools).unwrap(), "with 1 tools");
    let rag = RenderOptions {
        template: Some("rag".into()),
        documents: Some(vec![serde_json::json!({"title": "T"})]),
        ..Default::default()
    };
    assert_eq!(render(rag).unwrap(), "T <|im_start|>");
    let none = RenderOptions { template: Some("x".into()), ..Default::default() };
    assert!(render(none).unwrap_err().to_string().contains("default, tool_use, rag"));
}

#[test]
fn messages_keep_unknown_fields_and_need_a_role() {
    let text =
        r#"{"z":1,"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"x":{"y":[]}}"#;
    let mut message: Message = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&message).unwrap(), text);
    assert_eq!(message.text().as_deref(), Some("ab"));
    message.normalize().unwrap();
    assert_eq!(message.get("content").unwrap(), "ab");
    assert!(serde_json::from_str::<Message>(r#"{"content":"x"}"#).is_err());
    let call =
        r#"{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"a\":1}"}}]}"#;
    let mut message: Message = serde_json::from_str(call).unwrap();
    message.normalize().unwrap();
    assert_eq!(message.get("content").unwrap(), "");
    assert_eq!(message.get("tool_calls").unwrap()[0]["function"]["arguments"]["a"], 1);
    let mut image: Message = serde_json::from_str(r#"{"role":"user","content":[{"type":"image_url"}]}"#).unwrap();
    assert!(image.normalize().unwrap_err().to_string().contains("image_url"));
}
#[test]
fn hostile_templates_are_stopped() {
    let double = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(64) %}";
    for source in [
        format!("{double}{{% set ns.x = ns.x ~ ns.x %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = ns.x + ns.x %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = ns.x | replace('a', 'aa') %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = [ns.x, ns.x] | join %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = ns.x.join(['', '', '']) %}}{{% endfor %}}"),
        format!("{double}{{% set ns.x = [ns.x, ns.x] %}}{{% endfor %}}{{{{ ns.x }}}}"),
        format!("{double}{{% set ns.x = [ns.x, ns.x] %}}{{% endfor %}}{{{{ ns.x | tojson }}}}"),
        format!(
            "{double}{{% set ns.x = ns.x %}}{{% set y %}}{{{{ ns.x }}}}{{{{ ns.x }}}}{{% endset %}}{{% set ns.x = y %}}{{% endfor %}}"
        ),
        "{{ 'a' * 10000000000 }}".into(),
        "{{ [1] * 10000000000 }}".into(),
        "{{ '%999999999d' % 1 }}".into(),
        "{{ '{:>999999999}'.format(1) }}".into(),
        "{{ ('a\n' * 100000) | indent(4000) }}".into(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".into(),
        "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}".into(),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        "{{ ([1] * 10000000000) | list }}".into(),
        "{% if 1 %}".repeat(100_000),
    ] {
        assert!(render(&source).is_err(), "{}", &source[..source.len().min(200)]);
    }
}

#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    for body in ["[ns.x]", "{'a': ns.x}", "ns.x[0:]", "ns.x | map('list')", "[ns.x] | list", "namespace(y=ns.x)"] {
        let source = format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(100) %}}{{% for j in range(100000) %}}{{% set ns.x = {body} %}}{{% endfor %}}{{% endfor %}}{{{{ ns.x }}}}"
        );
        assert!(render(&source).is_err(), "{body}");
    }
    // As deep as the fuel allows, built and dropped whole.
    let source =
        "{% set ns = namespace(x=[]) %}{% for j in range(95000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
    assert_eq!(render(source).unwrap().len(), 2 * 95_001);
}

#[test]
fn slices_follow_python() {
    // Expected by Python for "abcdef".
    for (slice, expected) in [
        ("1:", "bcdef"),
        (":-1", "abcde"),
        ("::2", "ace"),
        ("::-1", "fedcba"),
        ("-2:", "ef"),
        ("4:1:-1", "edc"),
        ("10:", ""),
        ("-10:2", "ab"),
        (":2:-1", "fed"),
        ("-1:-4:-2", "fd"),
        ("2:100", "cdef"),
        ("100::-3", "fc"),
    ] {
        assert_eq!(render(&format!("{{{{ 'abcdef'[{slice}] }}}}")).unwrap(), expected, "{slice}");
        assert_eq!(render(&format!("{{{{ ('abcdef'|list)[{slice}] | join }}}}")).unwrap(), expected, "{slice}");
    }
    assert!(render("{{ 'a'[::0] }}").is_err());
}
