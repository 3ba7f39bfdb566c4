//! Checkpoint folders: stop ids, templates, and what is said when a file is missing or broken.
use mlx_lm::chat::{Message, RenderOptions};
use mlx_lm::tokenizer::Tokenizer;

use crate::data;

/// A folder with the byte-level tokenizer and these further files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(data("tokenizers/byte_level/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn load(files: &[(&str, &str)]) -> mlx_lm::Result<Tokenizer> {
    Tokenizer::from_dir(folder(files).path(), &[9])
}

#[test]
fn stop_ids_are_united() {
    let mut tokenizer = load(&[
        ("generation_config.json", r#"{"eos_token_id": [5, 2]}"#),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "<|endoftext|>"}, "bos_token": "<|im_start|>"}"#),
    ])
    .unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.bos()), (&[0, 2, 5, 9][..], Some(1)));
    tokenizer.add_eos("</think>").unwrap();
    tokenizer.add_eos("7").unwrap();
    let think = tokenizer.token_to_id("</think>").unwrap();
    assert_eq!(tokenizer.eos(), [0, 2, 5, 7, 9, think]);
    assert!(tokenizer.add_eos("nothing").unwrap_err().to_string().contains("\"nothing\""));
    assert!(load(&[("generation_config.json", r#"{"eos_token_id": "x"}"#)]).is_err());
}

#[test]
fn the_template_file_wins_and_has_siblings() {
    let config = r#"{"chat_template": "old"}"#;
    let tokenizer = load(&[
        ("tokenizer_config.json", config),
        ("chat_template.jinja", "new {{ enable_thinking }}"),
        ("additional_chat_templates/rag.jinja", "rag"),
    ])
    .unwrap();
    let render =
        |tokenizer: &Tokenizer, options| tokenizer.apply_chat_template(&[Message::user("x")], &options).unwrap();
    assert_eq!(render(&tokenizer, RenderOptions::default()), "new True");
    let off = RenderOptions {
        variables: [("enable_thinking".to_string(), false.into())].into_iter().collect(),
        ..Default::default()
    };
    assert_eq!(render(&tokenizer, off), "new False");
    assert_eq!(tokenizer.chat_template().unwrap().names().collect::<Vec<_>>(), ["default", "rag"]);
    assert_eq!(render(&load(&[("tokenizer_config.json", config)]).unwrap(), RenderOptions::default()), "old");
    let json = r#"{"chat_template": "from json"}"#;
    assert_eq!(render(&load(&[("chat_template.json", json)]).unwrap(), RenderOptions::default()), "from json");
    let none = load(&[]).unwrap();
    assert!(none.chat_template().is_none());
    assert!(none.apply_chat_template(&[], &RenderOptions::default()).is_err());
}

#[test]
fn thinking_markers_come_from_the_vocabulary() {
    let tokenizer = load(&[]).unwrap();
    let thinking = tokenizer.thinking().unwrap().clone();
    assert!(tokenizer.has_thinking());
    assert_eq!((thinking.start.as_str(), thinking.end.as_str()), ("<think>", "</think>"));
    let ids = |text: &str| tokenizer.encode(text, false).unwrap();
    assert_eq!((thinking.start_ids.clone(), thinking.end_ids.clone()), (ids("<think>"), ids("</think>")));
    assert!(thinking.is_open(&ids("a <think> b")));
    assert!(!thinking.is_open(&ids("a <think> b </think> c")));
    assert!(thinking.is_open(&ids("<think></think> c <think>")));
    assert!(!thinking.is_open(&ids("plain")));
    let plain = Tokenizer::from_dir(&data("tokenizers/spm"), &[]).unwrap();
    assert!(!plain.has_thinking());
}

#[test]
fn tokens_only_the_config_knows_are_added() {
    let config = r#"{"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": true},
        "901": {"content": "<two>", "special": false}, "900": {"content": "<one>", "special": true}}}"#;
    let tokenizer = load(&[("tokenizer_config.json", config)]).unwrap();
    let size = load(&[]).unwrap().vocab_size() as u32;
    assert_eq!(tokenizer.encode("<one><two>", false).unwrap(), [size, size + 1]);
    assert_eq!(tokenizer.decode(&[size, size + 1], true).unwrap(), "<two>");
}

#[test]
fn newlines_may_be_spelled_as_a_token() {
    let tokenizer = load(&[("tokenizer_config.json", r#"{"tokenizer_class": "NewlineTokenizer"}"#)]).unwrap();
    let ids = tokenizer.encode("a\nb", false).unwrap();
    assert_eq!(ids, load(&[]).unwrap().encode("a<n>b", false).unwrap());
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a\nb");
}

#[test]
fn broken_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let missing = Tokenizer::from_dir(empty.path(), &[]).unwrap_err().to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
    for (name, text, also) in [
        ("tokenizer.json", "this is no JSON", "not a tokenizer"),
        ("tokenizer.json", r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#, "not a tokenizer"),
        ("tokenizer_config.json", "[1]", "JSON object"),
        ("generation_config.json", "{", "JSON object"),
        ("chat_template.jinja", "fine\n{{ x", "chat_template.jinja:2"),
        ("tokenizer_config.json", r#"{"chat_template": 3}"#, "chat_template"),
    ] {
        let error = load(&[(name, text)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(also), "{name}: {error}");
    }
    std::fs::write(empty.path().join("tokenizer.json"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(Tokenizer::from_dir(empty.path(), &[]).is_err());
}

#[test]
fn markers_and_tool_forms_come_from_the_checkpoint() {
    let form = |files: &[(&str, &str)]| load(files).unwrap().tool_parser().map(str::to_string);
    assert_eq!(form(&[]), None);
    assert_eq!(form(&[("chat_template.jinja", "<tool_call>{{ tool_call.name }}")]).as_deref(), Some("json_tools"));
    let config = r#"{"tool_parser_type": "mistral", "chat_template": "<tool_call>{{ tool_call.name }}"}"#;
    let tokenizer = load(&[("tokenizer_config.json", config)]).unwrap();
    assert_eq!(tokenizer.tool_parser(), Some("mistral"));
    let markers = tokenizer.markers().unwrap();
    assert_eq!(markers.thinking, Some(("<think>".into(), "</think>".into())));
    assert_eq!(markers.tool, Some(("[TOOL_CALLS]".into(), String::new())));
    assert!(markers.structural.is_empty());
    let unknown = load(&[("tokenizer_config.json", r#"{"tool_parser_type": "morse"}"#)]).unwrap();
    assert!(unknown.markers().unwrap_err().to_string().contains("morse"));
}
