//! Ids to text, one at a time, never splitting a character.
use std::sync::Arc;

use super::pieces::Pieces;

/// Turns a stream of token ids into text segments (Python `StreamingDetokenizer`); linear in the number of ids.
///
/// The segments joined equal `Tokenizer::decode(ids, false)`, with one exception: bytes that are no UTF-8 become one
/// U+FFFD per broken character here, where a byte-fallback decoder writes one per byte.
/// Python's byte-level kind also drops one leading space: see [`trimmed`](Self::trimmed).
///
/// ```no_run
/// # fn main() -> mlx_lm::Result<()> {
/// # let tokenizer = mlx_lm::tokenizer::Tokenizer::from_dir("model".as_ref(), &[])?;
/// let mut detokenizer = tokenizer.detokenizer();
/// for id in [4, 8, 15] {
///     print!("{}", detokenizer.push(id));
/// }
/// println!("{}", detokenizer.finish());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Detokenizer {
    kind: Kind,
    text: String,
    /// Where the last segment starts in `text`.
    segment: usize,
    /// The next text may lose one leading space.
    trim: bool,
}

#[derive(Clone)]
enum Kind {
    /// Bytes per token are known; `held` is the start of a character.
    Pieces { pieces: Arc<Pieces>, held: Vec<u8> },
    /// Only the decoder knows: decode a short window twice and keep the difference.
    Decode { pipeline: Arc<tokenizers::Tokenizer>, newline_as: Option<&'static str>, ids: Vec<u32>, read: usize },
}

impl Detokenizer {
    pub(super) fn by_pieces(pieces: Arc<Pieces>, trim: bool) -> Self {
        Self { kind: Kind::Pieces { pieces, held: Vec::new() }, text: String::new(), segment: 0, trim }
    }

    pub(super) fn by_decoding(pipeline: Arc<tokenizers::Tokenizer>, newline_as: Option<&'static str>) -> Self {
        let kind = Kind::Decode { pipeline, newline_as, ids: Vec::new(), read: 0 };
        Self { kind, text: String::new(), segment: 0, trim: false }
    }

    /// The same, dropping one space at the very start of the text, as Python does for byte-level tokenizers.
    pub fn trimmed(mut self) -> Self {
        self.trim = true;
        self
    }

    /// Takes one id and returns the text that became certain, possibly none.
    pub fn push(&mut self, id: u32) -> &str {
        self.segment = self.text.len();
        match &mut self.kind {
            Kind::Pieces { pieces, held } => {
                held.extend_from_slice(pieces.get(id));
                take_utf8(held, false, &mut self.text);
            }
            Kind::Decode { pipeline, newline_as, ids, read } => {
                ids.push(id);
                let whole = decode(pipeline, ids, *newline_as);
                // A trailing U+FFFD may be half a character; a real one is told apart by a bounded wait.
                if !whole.ends_with('\u{fffd}') || ids.len() - *read > 8 {
                    let known = decode(pipeline, &ids[..*read], *newline_as);
                    let rest = after(&whole, &known);
                    self.text.push_str(rest);
                    if !rest.is_empty() {
                        // Keep the tokens of this step as context for the next.
                        ids.drain(..*read);
                        *read = ids.len();
                    }
                }
            }
        }
        self.trim_start();
        &self.text[self.segment..]
    }

    /// Returns what was held back; an unfinished character becomes U+FFFD. The detokenizer starts afresh after it,
    /// keeping [`text`](Self::text).
    pub fn finish(&mut self) -> &str {
        self.segment = self.text.len();
        match &mut self.kind {
            Kind::Pieces { held, .. } => take_utf8(held, true, &mut self.text),
            Kind::Decode { pipeline, newline_as, ids, read } => {
                let whole = decode(pipeline, ids, *newline_as);
                let known = decode(pipeline, &ids[..*read], *newline_as);
                self.text.push_str(after(&whole, &known));
                ids.clear();
                *read = 0;
            }
        }
        self.trim_start();
        &self.text[self.segment..]
    }

    /// All text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn trim_start(&mut self) {
        if self.trim && !self.text.is_empty() {
            self.trim = false;
            if self.text.starts_with(' ') {
                self.text.remove(0);
            }
        }
    }
}

fn decode(pipeline: &tokenizers::Tokenizer, ids: &[u32], newline_as: Option<&str>) -> String {
    let text = super::guard("decode", || pipeline.decode(ids, false)).unwrap_or_default();
    match newline_as {
        Some(n) => text.replace(n, "\n"),
        None => text,
    }
}

/// What `whole` has beyond `known`, or beyond what the two share when a decoder rewrote the seam.
fn after<'a>(whole: &'a str, known: &str) -> &'a str {
    match whole.strip_prefix(known) {
        Some(rest) => rest,
        None => {
            let same: usize =
                whole.chars().zip(known.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            // The window's known part was already given out, so a rewritten seam starts where they part.
            &whole[same.max(floor_boundary(whole, known.len().min(whole.len())))..]
        }
    }
}

fn floor_boundary(s: &str, mut at: usize) -> usize {
    while !s.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Moves complete characters from `held` to `text`. Bytes that can never become a character give one U+FFFD per
/// broken sequence; an unfinished one stays, or gives U+FFFD when `all`.
fn take_utf8(held: &mut Vec<u8>, all: bool, text: &mut String) {
    let mut done = 0;
    while done < held.len() {
        match std::str::from_utf8(&held[done..]) {
            Ok(good) => {
                text.push_str(good);
                done = held.len();
            }
            Err(e) => {
                let good = e.valid_up_to();
                // Checked just now, so nothing is lost here.
                text.push_str(std::str::from_utf8(&held[done..done + good]).unwrap_or_default());
                done += good;
                match e.error_len() {
                    Some(bad) => {
                        text.push('\u{fffd}');
                        done += bad;
                    }
                    None if all => {
                        text.push('\u{fffd}');
                        done = held.len();
                    }
                    None => break,
                }
            }
        }
    }
    held.drain(..done);
}
