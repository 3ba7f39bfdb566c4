//! Parts of LongCat-Flash (arXiv:2509.01322) as data: layers with a shortcut, hashed n-gram embeddings.

use super::{CacheKind, Norm, Part};

/// A mixer and an ffn, twice; experts read where the first ffn reads and join after the second, so that they may run
/// beside the second half.
///
/// Leaves: `input_layernorm.i`, `self_attn.i`, `post_attention_layernorm.i`, `mlps.i` of half i, `mlp` of the experts.
#[derive(Debug, Clone)]
pub struct ShortcutLayer {
    pub hidden: i32,
    pub norm: Norm,
    /// Mixer and ffn of each half.
    pub halves: [(Part, Part); 2],
    pub experts: Part,
}

/// Embeddings of hashed n-grams, added to each token's own: the mean of all.
///
/// Table i, for n-grams of 2 + i / splits tokens, has `rows + 2 i + 1` rows of hidden / tables features; a projection
/// widens them. The cache holds the last `longest - 1` ids.
#[derive(Debug, Clone)]
pub struct NgramEmbeddings {
    /// Where `embedders` and `post_projs` lie.
    pub path: String,
    pub hidden: i32,
    pub vocab: i32,
    /// Tokens of the longest n-grams.
    pub longest: i32,
    /// Tables per length.
    pub splits: i32,
    pub rows: i32,
}

crate::spec!(ShortcutLayer, "shortcut_layer", |s| {
    CacheKind::List(s.halves.iter().map(|(mixer, _)| mixer.cache()).collect())
});
crate::spec!(NgramEmbeddings, "ngram_embeddings", |_| CacheKind::Slots(1));
