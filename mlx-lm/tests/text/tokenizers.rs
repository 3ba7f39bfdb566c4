//! Tiny tokenizers of every kind against Python (`tests/data/text/record_tokenizers.py`).
use mlx_lm::tokenizer::Tokenizer;

use crate::{data, ids, json};

const NAMES: [&str; 4] = ["byte_level", "spm", "spm_no_strip", "unigram"];

fn load(name: &str) -> Tokenizer {
    Tokenizer::from_dir(&data(&format!("tokenizers/{name}")), &[]).unwrap()
}

/// The text that a stream of `ids` gives, segment by segment.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.detokenizer();
    let mut text = String::new();
    for &id in ids {
        text.push_str(stream.push(id));
        assert_eq!(stream.text(), text);
    }
    text.push_str(stream.finish());
    assert_eq!(stream.text(), text);
    text
}

#[test]
fn ids_equal_pythons() {
    let recorded = json("tokenizers.json");
    for name in NAMES {
        let tokenizer = load(name);
        assert_eq!(tokenizer.vocab_size() as u64, recorded[name]["size"].as_u64().unwrap());
        // Python's loader leaves generation_config.json to its caller; here its ids are in.
        let more: &[u32] = if name == "byte_level" { &[0] } else { &[] };
        assert_eq!(tokenizer.eos(), [more, &ids(&recorded[name]["eos"])].concat(), "{name}");
        for case in recorded[name]["encoded"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids"]), "{name} {text:?}");
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["special"]), "{name} {text:?}");
        }
    }
}

#[test]
fn decoding_equals_pythons() {
    let recorded = json("tokenizers.json");
    for name in NAMES {
        let tokenizer = load(name);
        for case in recorded[name]["streams"].as_array().unwrap() {
            let ids = ids(&case["ids"]);
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["clean"].as_str().unwrap(), "{name}");
        }
    }
}

/// Python's own stream, where it keeps what `decode` gives.
#[test]
fn streaming_equals_pythons_detokenizer() {
    let recorded = json("tokenizers.json");
    let mut compared = 0;
    for name in NAMES {
        let tokenizer = load(name);
        for case in recorded[name]["streams"].as_array().unwrap() {
            let ids = ids(&case["ids"]);
            let python = case["python_text"].as_str().unwrap();
            let mut stream = match name {
                "byte_level" => tokenizer.detokenizer().trimmed(),
                _ => tokenizer.detokenizer(),
            };
            ids.iter().for_each(|&id| {
                stream.push(id);
            });
            stream.finish();
            if name != "unigram" && stream.text() == python {
                compared += 1;
            } else if name != "unigram" {
                // Python trims again as long as there is no text.
                assert_eq!(stream.text().trim(), python.trim(), "{name}");
            }
        }
    }
    assert!(compared >= 3 * 24 - 2, "{compared}");
}

#[test]
fn segments_joined_are_the_decoded_text() {
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for name in NAMES {
        let tokenizer = load(name);
        let mut valid = 0;
        for _ in 0..300 {
            let ids: Vec<u32> = (0..1 + random(20)).map(|_| random(tokenizer.vocab_size()) as u32).collect();
            let (text, decoded) = (streamed(&tokenizer, &ids), tokenizer.decode(&ids, false).unwrap());
            let lossy = decoded.contains('\u{fffd}');
            if lossy && name.starts_with("spm") {
                // A run of bytes that is no text: one mark per byte there, one per broken character here.
                let text_bytes: Vec<u8> = ids.iter().flat_map(|&id| spm_bytes(&tokenizer, id)).collect();
                let whole = String::from_utf8_lossy(&text_bytes).into_owned();
                let expected = if name == "spm" { whole.strip_prefix(' ').unwrap_or(&whole) } else { &whole };
                assert_eq!(text, expected, "{name} {ids:?}");
                continue;
            }
            valid += 1;
            assert_eq!(text, decoded, "{name} {ids:?}");
        }
        assert!(valid > 20, "{name}: {valid}");
    }
}

fn spm_bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let token = tokenizer.id_to_token(id).unwrap();
    match token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')) {
        Some(hex) => vec![u8::from_str_radix(hex, 16).unwrap()],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}

#[test]
fn a_character_is_never_split_and_never_kept_back_longer_than_needed() {
    let tokenizer = load("byte_level");
    // One token per byte of a family emoji: nothing until a character is whole.
    let text = "é👩‍👩‍👧日";
    let mut alphabet = std::collections::HashMap::new();
    for id in 0..tokenizer.vocab_size() as u32 {
        let mut one = tokenizer.detokenizer();
        let token = tokenizer.id_to_token(id).unwrap();
        if token.chars().count() == 1 {
            one.push(id);
            alphabet.insert(token, id);
        }
    }
    assert_eq!(alphabet.len(), 256);
    // Every byte has its token: the byte alphabet, found by encoding single bytes of valid text.
    let mut stream = tokenizer.detokenizer();
    let mut seen = String::new();
    let mut bytes = 0;
    for c in text.chars() {
        let spelled: Vec<u32> = c
            .to_string()
            .bytes()
            .map(|b| {
                let printable = matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
                let n = match printable {
                    true => u32::from(b),
                    false => {
                        0x100 + (0..b).filter(|b| !matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)).count() as u32
                    }
                };
                alphabet[&char::from_u32(n).unwrap().to_string()]
            })
            .collect();
        let (last, first) = spelled.split_last().unwrap();
        for &id in first {
            assert_eq!(stream.push(id), "");
        }
        assert_eq!(stream.push(*last), c.to_string());
        seen.push(c);
        bytes += spelled.len();
    }
    assert_eq!(stream.finish(), "");
    assert_eq!(stream.text(), text);
    assert!(bytes > seen.chars().count());
    let mut half = tokenizer.detokenizer();
    half.push(alphabet["ð"]);
    assert_eq!(half.finish(), "\u{fffd}");
    assert_eq!(half.push(1_000_000), "");
}

#[test]
fn detokenizers_and_tokenizers_cross_threads() {
    fn check<T: Send + 'static>(_: &T) {}
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    let tokenizer = load("spm");
    shared(&tokenizer);
    check(&tokenizer.detokenizer());
    check(&load("unigram").detokenizer());
}

#[test]
fn a_long_stream_takes_linear_time() {
    for name in NAMES {
        let tokenizer = load(name);
        let ids = tokenizer.encode(&"the lazy dog ".repeat(2000), false).unwrap();
        let start = std::time::Instant::now();
        let text = streamed_text_only(&tokenizer, &ids);
        assert_eq!(text, tokenizer.decode(&ids, false).unwrap());
        assert!(start.elapsed().as_secs() < 20, "{name}");
    }
}

fn streamed_text_only(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.detokenizer();
    let mut longest = 0;
    for &id in ids {
        longest = longest.max(stream.push(id).len());
    }
    stream.finish();
    assert!(longest < 64);
    stream.text().to_string()
}
