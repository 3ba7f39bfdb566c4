//! The text bytes of every token, and which decoder a tokenizer has.
use serde_json::Value;

/// How tokens become text, found from the `decoder` of `tokenizer.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decoding {
    /// GPT-2's byte alphabet.
    ByteLevel,
    /// `▁` for spaces and `<0xNN>` bytes.
    Spm,
    /// The same; the first space of the text is dropped.
    SpmTrim,
    /// Anything else: ask the decoder itself.
    Other,
}

impl Decoding {
    pub(super) fn of(pipeline: &tokenizers::Tokenizer) -> Self {
        let Some(decoder) = pipeline.get_decoder().and_then(|d| serde_json::to_value(d).ok()) else {
            return Self::Other;
        };
        let steps: Vec<&Value> = match decoder["decoders"].as_array() {
            Some(list) => list.iter().collect(),
            None => vec![&decoder],
        };
        let kinds: Vec<&str> = steps.iter().map(|s| s["type"].as_str().unwrap_or("")).collect();
        let spaces = |s: &Value| s["pattern"]["String"] == "\u{2581}" && s["content"] == " ";
        let first_space = |s: &Value| s["content"] == " " && s["start"] == 1 && s["stop"] == 0;
        match kinds[..] {
            ["ByteLevel"] => Self::ByteLevel,
            ["Replace", "ByteFallback", "Fuse"] if spaces(steps[0]) => Self::Spm,
            ["Replace", "ByteFallback", "Fuse", "Strip"] if spaces(steps[0]) && first_space(steps[3]) => Self::SpmTrim,
            _ => Self::Other,
        }
    }
}

/// The bytes of all tokens, end to end.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Pieces {
    pub(super) fn new(pipeline: &tokenizers::Tokenizer, decoding: Decoding, newline_as: Option<&str>) -> Self {
        let mut tokens: Vec<(u32, String)> =
            pipeline.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
        for (id, _) in &tokens {
            // A gap in the ids, or two spellings of one: the decoder's own answer counts.
            while ends.len() < *id as usize && ends.len() < 4 * tokens.len() {
                ends.push(bytes.len() as u32);
            }
            if ends.len() != *id as usize {
                continue;
            }
            let token = pipeline.id_to_token(*id).unwrap_or_default();
            let start = bytes.len();
            match decoding {
                Decoding::ByteLevel => byte_level(&token, &mut bytes),
                _ => spm(&token, &mut bytes),
            }
            if let Some(n) = newline_as
                && let Ok(text) = std::str::from_utf8(&bytes[start..])
                && text.contains(n)
            {
                let text = text.replace(n, "\n");
                bytes.truncate(start);
                bytes.extend_from_slice(text.as_bytes());
            }
            ends.push(bytes.len() as u32);
        }
        Self { bytes, ends }
    }

    /// The bytes of one token; empty for an id outside the vocabulary.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }
}

/// A token in the byte alphabet; one with a character outside it stands for itself.
fn byte_level(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match alphabet_byte(c) {
            Some(b) => out.push(b),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 is itself, the 68 others are
/// U+0100 and up in byte order.
pub(super) fn alphabet_byte(c: char) -> Option<u8> {
    let itself = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        n @ 0..=0xff => Some(n as u8).filter(|&b| itself(b)),
        n @ 0x100..=0x143 => (0..=255u8).filter(|&b| !itself(b)).nth((n - 0x100) as usize),
        _ => None,
    }
}

fn spm(token: &str, out: &mut Vec<u8>) {
    let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
    match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
        Some(b) => out.push(b),
        None => {
            for c in token.chars() {
                let c = if c == '\u{2581}' { ' ' } else { c };
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
}
