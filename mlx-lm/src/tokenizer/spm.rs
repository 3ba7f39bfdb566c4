//! SentencePiece vocabularies of GGUF files: the merges are rebuilt from tokens and scores.
use tokenizers::models::bpe::{Merges, Vocab};

/// What decides which merge goes first.
pub(super) enum Order<'a> {
    /// The score of the merged token, highest first.
    Scores(&'a [f32]),
    /// The id of the merged token, lowest first (Gemma, whose scores say nothing).
    Ids,
}

/// Token -> id. Runs of spaces that a converter wrote as spaces are spelled with `▁` again, unless that spelling is
/// another token's.
pub(super) fn vocab(tokens: &[String]) -> Vocab {
    let mut vocab: Vocab = tokens.iter().enumerate().map(|(id, t)| (t.clone(), id as u32)).collect();
    for (id, token) in tokens.iter().enumerate().filter(|(_, t)| t.contains(' ')) {
        let spelled = token.replace(' ', "\u{2581}");
        if !vocab.contains_key(&spelled) {
            vocab.remove(token);
            vocab.insert(spelled, id as u32);
        }
    }
    vocab
}

/// Every cut of every token into two tokens is one merge. Equal scores: lower id first, then the longer left part.
pub(super) fn merges(vocab: &Vocab, order: Order) -> Merges {
    let mut tokens: Vec<(&str, u32)> = vocab.iter().map(|(token, id)| (token.as_str(), *id)).collect();
    match order {
        Order::Ids => tokens.sort_unstable_by_key(|t| t.1),
        Order::Scores(scores) => {
            let score = |id: u32| scores.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
            tokens.sort_unstable_by(|a, b| score(b.1).total_cmp(&score(a.1)).then(a.1.cmp(&b.1)));
        }
    }
    let mut merges = Merges::new();
    for (token, _) in tokens {
        for (at, _) in token.char_indices().rev() {
            let (left, right) = token.split_at(at);
            if at > 0 && vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push((left.to_string(), right.to_string()));
            }
        }
    }
    merges
}
