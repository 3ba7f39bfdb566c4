//! The markers around a model's thinking, found from its vocabulary.
use crate::error::Result;

/// One pair of thinking markers, as text and as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    pub start: String,
    pub end: String,
    pub start_ids: Vec<u32>,
    pub end_ids: Vec<u32>,
}

impl Thinking {
    /// Whether `prompt` ends inside a thinking block: its last start marker comes after its last end marker.
    pub fn is_open(&self, prompt: &[u32]) -> bool {
        match (rfind(prompt, &self.start_ids), rfind(prompt, &self.end_ids)) {
            (Some(start), Some(end)) => start > end,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

fn rfind(ids: &[u32], marker: &[u32]) -> Option<usize> {
    (!marker.is_empty()).then(|| ids.windows(marker.len()).rposition(|w| w == marker)).flatten()
}

/// Markers that are one token each.
const SINGLE: [(&str, &str); 3] =
    [("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>")];

/// The tokens that tell the XTML dialect (Kimi K3).
pub(crate) const XTML: [&str; 4] = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"];

pub(super) fn find(pipeline: &tokenizers::Tokenizer) -> Result<Option<Thinking>> {
    let has = |token: &str| pipeline.token_to_id(token).is_some();
    let pair = if let Some(&pair) = SINGLE.iter().find(|(start, end)| has(start) && has(end)) {
        pair
    } else if has("<|channel>") && has("<channel|>") {
        ("<|channel>thought", "<channel|>")
    } else if XTML.iter().all(|t| has(t)) {
        ("<|open|>think<|sep|>", "<|close|>think<|sep|>")
    } else {
        return Ok(None);
    };
    let ids = |text: &str| match pipeline.token_to_id(text) {
        Some(id) => Ok(vec![id]),
        None => super::guard("encode", || pipeline.encode_fast(text, false).map(|e| e.get_ids().to_vec())),
    };
    let (start_ids, end_ids) = (ids(pair.0)?, ids(pair.1)?);
    Ok(Some(Thinking { start: pair.0.into(), end: pair.1.into(), start_ids, end_ids }))
}
