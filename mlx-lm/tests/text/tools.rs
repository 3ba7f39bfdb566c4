//! Tool calls and the splitting of answers against Python (`tests/data/text/record_tools.py`).
use std::sync::Arc;

use mlx_lm::chat::stream::{Edge, Markers, Section, Splitter};
use mlx_lm::chat::tools::{ToolCall, ToolParser, ToolParsers, infer};
use serde_json::{Value, json as object};

use crate::json;

fn written(calls: &[ToolCall]) -> Value {
    calls.iter().map(|c| object!({"name": c.name, "arguments": c.arguments, "id": c.id})).collect()
}

#[test]
fn every_form_reads_calls_as_python_does() {
    let recorded = json("tools.json");
    let tools = recorded["tools"].as_array().unwrap();
    let parsers = ToolParsers::builtin();
    let (mut seen, mut wrong) = (std::collections::BTreeSet::new(), Vec::new());
    for case in recorded["parsed"].as_array().unwrap() {
        let (name, text) = (case["parser"].as_str().unwrap(), case["text"].as_str().unwrap());
        let ours = parsers.get(name).unwrap().parse(text, tools);
        let same = match (&ours, case.get("calls")) {
            (Ok(calls), Some(theirs)) => written(calls) == *theirs,
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            wrong.push(format!(
                "{name} {text:?}\n  ours   {ours:?}\n  theirs {}",
                case.get("calls").unwrap_or(&case["error"])
            ));
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), parsers.names().count());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn odd_text_is_an_error_never_a_panic() {
    let recorded = json("tools.json");
    let tools = recorded["tools"].as_array().unwrap();
    for name in ToolParsers::builtin().names() {
        let parser = ToolParsers::builtin().get(name).unwrap();
        for case in recorded["parsed"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            // Cut at every character, and read by every other parser.
            for (at, _) in text.char_indices() {
                let _ = parser.parse(&text[..at], tools);
                let _ = parser.parse(&text[at..], &[Value::Null]);
            }
        }
        for text in
            ["[".repeat(5000), format!("[f(a={})]", "(".repeat(5000)), format!("call:f{{a:{}", "{".repeat(5000))]
        {
            let _ = parser.parse(&text, &[]);
        }
    }
}

#[test]
fn a_form_is_inferred_from_the_template_then_the_vocabulary() {
    let none = |_: &str| false;
    for (template, name) in [
        ("x <minimax:tool_call>", "minimax_m2"),
        ("<|tool_call> <tool_call|>", "gemma4"),
        ("<start_function_call>", "function_gemma"),
        ("<longcat_tool_call>", "longcat"),
        ("<tool_call>{{ name }}<arg_key>", "glm47"),
        ("<|tool_list_start|>", "pythonic"),
        ("'<tool_call>\\n<function='", "qwen3_coder"),
        ("<tool_call>\n<function=", "qwen3_coder"),
        ("<|tool_calls_section_begin|>", "kimi_k2"),
        ("<function name=\"f\"><param name=\"", "minicpm5"),
        ("[TOOL_CALLS]", "mistral"),
        ("<atem:function_calls>", "muse_spark"),
        ("<tool_call> {{ tool_call.name }}", "json_tools"),
    ] {
        assert_eq!(infer(Some(template), &none), Some(name));
        assert_eq!(ToolParsers::builtin().get(name).unwrap().name(), name);
    }
    assert_eq!(infer(Some("<tool_call>"), &none), None);
    assert_eq!(infer(None, &|t| ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"].contains(&t)), Some("kimi_k3"));
    assert_eq!(infer(Some("plain"), &|t| t.starts_with("<|tool_call_")), Some("pythonic"));
    assert_eq!(ToolParsers::builtin().get("laguna").unwrap().name(), "glm47");
    let unknown = ToolParsers::builtin().get("morse").err().unwrap().to_string();
    assert!(unknown.contains("\"morse\"") && unknown.contains("qwen3_coder"), "{unknown}");
}

#[test]
fn a_user_may_add_a_form() {
    struct Echo;
    impl ToolParser for Echo {
        fn name(&self) -> &'static str {
            "echo"
        }
        fn markers(&self) -> (&'static str, &'static str) {
            ("(", ")")
        }
        fn parse(&self, text: &str, _: &[Value]) -> mlx_lm::Result<Vec<ToolCall>> {
            Ok(vec![ToolCall { name: text.into(), arguments: Value::Null, id: None }])
        }
    }
    let mut parsers = ToolParsers::builtin();
    parsers.add(Arc::new(Echo));
    parsers.add(Arc::new(Echo));
    assert_eq!(parsers.names().filter(|n| *n == "echo").count(), 1);
    assert_eq!(parsers.get("echo").unwrap().parse("hi", &[]).unwrap()[0].name, "hi");
}

fn section(name: &str) -> Section {
    match name {
        "normal" => Section::Normal,
        "reasoning" => Section::Reasoning,
        "tool" => Section::Tool,
        other => panic!("{other}"),
    }
}

/// Pieces of the same section joined, empty ones dropped.
fn joined(parts: impl IntoIterator<Item = (Section, String)>) -> Vec<(Section, String)> {
    let mut whole: Vec<(Section, String)> = Vec::new();
    for (section, text) in parts.into_iter().filter(|p| !p.1.is_empty()) {
        match whole.last_mut() {
            Some(last) if last.0 == section => last.1.push_str(&text),
            _ => whole.push((section, text)),
        }
    }
    whole
}

#[test]
fn answers_are_parted_as_python_parts_them_however_they_arrive() {
    use Section::{Normal, Reasoning, Tool};
    let edges: Vec<Edge> = [
        (Normal, "<think>", Reasoning),
        (Normal, "<tool_call>", Tool),
        (Normal, "STOP", Normal),
        (Reasoning, "</think>", Normal),
        (Reasoning, "<tool_call>", Tool),
        (Reasoning, "STOP", Reasoning),
        (Tool, "</tool_call>", Normal),
        (Tool, "STOP", Tool),
    ]
    .map(|(from, marker, to)| Edge { from, marker: marker.into(), to })
    .to_vec();
    let recorded = json("tools.json");
    for case in recorded["streams"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let expected = case["parts"].as_array().unwrap().iter();
        let expected: Vec<(Section, String)> =
            expected.map(|p| (section(p[0].as_str().unwrap()), p[1].as_str().unwrap().to_string())).collect();
        let chars: Vec<char> = text.chars().collect();
        for size in [1, 2, 3, 5, 100] {
            let mut splitter = Splitter::new(edges.clone(), section(case["initial"].as_str().unwrap()));
            let mut parts = Vec::new();
            for chunk in chars.chunks(size) {
                parts.extend(splitter.push(&chunk.iter().collect::<String>()));
            }
            parts.extend(splitter.finish());
            assert_eq!(joined(parts), expected, "{text:?} by {size}");
        }
    }
}

#[test]
fn stray_ends_and_structural_markers_are_dropped() {
    let pair = |a: &str, b: &str| Some((a.to_string(), b.to_string()));
    let markers = Markers {
        thinking: pair("<|channel>thought", "<channel|>"),
        tool: pair("[TOOL_CALLS]", ""),
        structural: vec!["<|close|>message<|sep|>".into()],
        stop: vec!["END".into()],
    };
    let mut splitter = Splitter::new(markers.edges(), Section::Normal);
    let mut parts = splitter.push("A<channel|>B<|close|>message<|sep|>C<|channel>thought\nwhy<channel|>DEND");
    parts.extend(splitter.push("[TOOL_CALLS]f[ARGS]{}<channel|>"));
    parts.extend(splitter.finish());
    let text = |s: &str| s.to_string();
    assert_eq!(
        joined(parts),
        [
            (Section::Normal, text("ABC")),
            (Section::Reasoning, text("\nwhy")),
            (Section::Normal, text("D")),
            (Section::Tool, text("f[ARGS]{}<channel|>")),
        ]
    );
}

#[test]
fn two_calls_in_a_row_stay_two() {
    let tool = Some(("<tool_call>".to_string(), "</tool_call>".to_string()));
    let mut splitter = Splitter::new(Markers { tool, ..Default::default() }.edges(), Section::Normal);
    let parts = splitter.push("<tool_call>a</tool_call><tool_call>b</tool_call>");
    let tools: Vec<&str> = parts.iter().filter(|p| p.0 == Section::Tool).map(|p| p.1.as_str()).collect();
    assert_eq!(tools, ["a", "b"]);
}
