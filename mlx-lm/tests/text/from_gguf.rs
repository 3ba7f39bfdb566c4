//! Tokenizers rebuilt from GGUF metadata, against llama.cpp's, transformers' and SentencePiece's ids.
use std::collections::HashMap;
use std::io::Read;

use mlx_lm::chat::{Message, RenderOptions};
use mlx_lm::tokenizer::{GgufMeta, Tokenizer};
use serde_json::Value;

use crate::{data, ids, json};

#[derive(Default, Clone)]
struct Meta {
    values: HashMap<String, Value>,
    strings: HashMap<String, Vec<String>>,
    i32s: HashMap<String, Vec<i32>>,
    f32s: HashMap<String, Vec<f32>>,
}

impl Meta {
    fn new(object: &Value) -> Self {
        let mut meta = Self::default();
        object.as_object().unwrap().iter().for_each(|(key, value)| meta.set(key, value.clone()));
        meta
    }

    fn set(&mut self, key: &str, value: Value) {
        let key = key.to_string();
        match value.as_array() {
            Some(list) if list.iter().all(Value::is_string) => {
                let list = list.iter().map(|v| v.as_str().unwrap().to_string()).collect();
                self.strings.insert(key, list);
            }
            Some(list) if list.iter().all(Value::is_i64) => {
                self.i32s.insert(key, list.iter().map(|v| v.as_i64().unwrap() as i32).collect());
            }
            Some(list) => {
                self.f32s.insert(key, list.iter().map(|v| v.as_f64().unwrap() as f32).collect());
            }
            None => {
                self.values.insert(key, value);
            }
        }
    }

    fn without(mut self, key: &str) -> Self {
        self.values.remove(key);
        self.strings.remove(key);
        self.i32s.remove(key);
        self.f32s.remove(key);
        self
    }
}

impl GgufMeta for Meta {
    fn string(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str()
    }
    fn u64(&self, key: &str) -> Option<u64> {
        self.values.get(key)?.as_u64()
    }
    fn f32(&self, key: &str) -> Option<f32> {
        self.values.get(key)?.as_f64().map(|v| v as f32)
    }
    fn bool(&self, key: &str) -> Option<bool> {
        self.values.get(key)?.as_bool()
    }
    fn strings(&self, key: &str) -> Option<&[String]> {
        self.strings.get(key).map(Vec::as_slice)
    }
    fn i32s(&self, key: &str) -> Option<&[i32]> {
        self.i32s.get(key).map(Vec::as_slice)
    }
    fn f32s(&self, key: &str) -> Option<&[f32]> {
        self.f32s.get(key).map(Vec::as_slice)
    }
}

fn smollm2() -> Meta {
    let file = std::fs::File::open(data("smollm2-tokenizer.json.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    Meta::new(&serde_json::from_str(&text).unwrap())
}

fn error(meta: &Meta) -> String {
    Tokenizer::from_gguf(meta).unwrap_err().to_string()
}

#[test]
fn smollm2_prompts_render_encode_and_stream_as_the_references_do() {
    let tokenizer = Tokenizer::from_gguf(&smollm2()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), &[2][..], 49152));
    let goldens = json("smollm2.json");
    let mut chats = 0;
    for prompt in goldens.as_array().unwrap() {
        let name = &prompt["name"];
        let text = match prompt["messages"].as_array() {
            None => prompt["text"].as_str().unwrap().to_string(),
            Some(_) => {
                chats += 1;
                let messages: Vec<Message> = serde_json::from_value(prompt["messages"].clone()).unwrap();
                let text = tokenizer.apply_chat_template(&messages, &RenderOptions::default()).unwrap();
                assert_eq!(text, prompt["rendered"].as_str().unwrap(), "{name}");
                text
            }
        };
        let prompt_ids = ids(&prompt["prompt_ids"]);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), prompt_ids, "{name}");
        assert_eq!(tokenizer.encode(&text, true).unwrap(), prompt_ids, "{name}: the model adds no BOS");
        let greedy = ids(&prompt["greedy_ids"]);
        let mut stream = tokenizer.detokenizer();
        let streamed: String = greedy.iter().map(|&id| stream.push(id).to_string()).collect();
        let streamed = streamed + stream.finish();
        assert_eq!(streamed, tokenizer.decode(&greedy, false).unwrap(), "{name}");
        assert_eq!(streamed, prompt["greedy_text"].as_str().unwrap(), "{name}");
    }
    assert!(chats >= 4);
}

#[test]
fn byte_level_ids_depend_on_the_split_and_the_name_picks_it() {
    let encode = |meta: &Meta| Tokenizer::from_gguf(meta).unwrap().encode("a   7", false).unwrap();
    let (own, mut meta) = (encode(&smollm2()), smollm2());
    meta.set("tokenizer.ggml.pre", "gpt-2".into());
    assert_ne!(encode(&meta), own);
}

/// SentencePiece itself is the oracle: the file holds no merges, only tokens and scores.
#[test]
fn sentencepiece_ids_equal_the_librarys() {
    let recorded = json("tokenizers/sentencepiece_gguf.json");
    let meta = Meta::new(&recorded["meta"]);
    let mut gemma = meta.clone();
    gemma.set("general.architecture", "gemma3".into());
    let flat = vec![0.0; gemma.strings["tokenizer.ggml.tokens"].len()];
    gemma.f32s.insert("tokenizer.ggml.scores".into(), flat);
    // Converters write runs of spaces as spaces for Gemma.
    for token in gemma.strings.get_mut("tokenizer.ggml.tokens").unwrap() {
        if token.chars().count() > 1 && token.chars().all(|c| c == '\u{2581}') {
            *token = token.replace('\u{2581}', " ");
        }
    }
    for meta in [meta, gemma] {
        let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
        for case in recorded["encoded"].as_array().unwrap() {
            let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
            let with_bos: Vec<u32> = [1].into_iter().chain(expected.iter().copied()).collect();
            assert_eq!(tokenizer.encode(text, true).unwrap(), with_bos, "{text:?}");
            assert_eq!(tokenizer.decode(&expected, false).unwrap(), text);
        }
        assert!(tokenizer.starts_with_bos("<s>x") && !tokenizer.starts_with_bos("x"));
        // A user-defined token is matched whole and stays in clean text; a control token does not.
        let marked = tokenizer.encode("<|im_start|></s>", false).unwrap();
        assert_eq!(tokenizer.decode(&marked, true).unwrap().trim(), "<|im_start|>");
    }
}

#[test]
fn a_file_without_a_usable_tokenizer_is_an_error_that_names_the_key() {
    let whole = smollm2();
    let unknown = |key: &str, value: &str| {
        let mut meta = whole.clone();
        meta.set(key, value.into());
        error(&meta)
    };
    assert!(unknown("tokenizer.ggml.pre", "jais-2").contains("\"jais-2\""));
    assert!(unknown("tokenizer.ggml.model", "rwkv").contains("\"rwkv\""));
    for key in ["model", "pre", "tokens", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(error(&whole.clone().without(&key)).contains(&key), "{key}");
    }
    let mut short = whole.clone();
    short.i32s.get_mut("tokenizer.ggml.token_type").unwrap().pop();
    assert!(error(&short).contains("token_type"));
    let mut far = whole.clone();
    far.set("tokenizer.ggml.eos_token_id", 49152.into());
    assert!(error(&far).contains("eos_token_id"));
    let mut odd = whole.clone();
    odd.strings.get_mut("tokenizer.ggml.merges").unwrap()[7] = "alone".into();
    assert!(error(&odd).contains("merge 7"));
    let mut strange = whole.clone();
    strange.strings.get_mut("tokenizer.ggml.merges").unwrap()[7] = "notatoken notatoken".into();
    assert!(error(&strange).contains("merges"));
    let mut template = whole;
    template.set("tokenizer.chat_template", "{% for %}".into());
    assert!(error(&template).contains("tokenizer.chat_template:1"));
}

#[test]
fn every_known_split_compiles_and_loses_no_text() {
    let names = [
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "smollm",
        "starcoder",
        "refact",
        "command-r",
        "exaone",
        "llama-bpe",
        "llama3",
        "lfm2",
        "dbrx",
        "smaug-bpe",
        "glm4",
        "qwen2",
        "deepseek-r1-qwen",
        "qwen35",
        "stablelm2",
        "tekken",
        "gpt-4o",
        "llama4",
        "minimax-m2",
        "kimi-k2",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "hunyuan-dense",
        "falcon",
        "default",
        "bloom",
        "viking",
        "bailingmoe2",
        "seed-coder",
        "granite-docling",
        "grok-2",
    ];
    let text = "It's 12345 things:  \tHELLO wOrLd,\n\n\n naïve 日本語テキスト 한국어 ٣٤ x²³ <|x|> 🙂👩‍👩‍👧   end.  ";
    let mut meta = smollm2();
    let few: Vec<String> = meta.strings["tokenizer.ggml.merges"][..200].to_vec();
    meta.strings.insert("tokenizer.ggml.merges".into(), few);
    for name in names {
        meta.set("tokenizer.ggml.pre", name.into());
        let tokenizer = Tokenizer::from_gguf(&meta).unwrap_or_else(|e| panic!("{name}: {e}"));
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
    }
}

/// Merges over characters, `▁` for spaces, bytes for what is missing.
#[test]
fn gemma4_vocabularies_merge_characters() {
    let mut tokens: Vec<String> =
        ["<pad>", "<eos>", "<bos>", "<turn|>", "\u{2581}", "a", "b", "ab", "\u{2581}ab", "\n", "\n\n"]
            .map(String::from)
            .to_vec();
    let bytes = tokens.len() as u32;
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let mut types = vec![1; tokens.len()];
    types[..4].fill(3);
    let meta = serde_json::json!({
        "tokenizer.ggml.model": "gemma4", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b", "\u{2581} ab", "\n \n"],
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1,
    });
    let tokenizer = Tokenizer::from_gguf(&Meta::new(&meta)).unwrap();
    assert_eq!(tokenizer.encode("ab ab\n\nba", true).unwrap(), [2, 7, 8, 10, 6, 5]);
    assert_eq!(tokenizer.encode("é<turn|>", false).unwrap(), [bytes + 0xc3, bytes + 0xa9, 3]);
    assert_eq!(tokenizer.eos(), [1, 3], "the turn marker ends a generation too");
    assert_eq!(tokenizer.decode(&[8, 7], false).unwrap(), " abab");
}
