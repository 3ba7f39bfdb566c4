//! Which memory a layer keeps between calls, as data.

/// The cache that a mixer declares.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheKind {
    /// No state.
    None,
    /// All keys and values, to attend to.
    Kv,
    /// All keys and values, read as a whole: latent attention, layers that share them with others.
    Whole,
    /// As `Whole`, and none may ever be forgotten.
    Kept,
    /// As `Kv`, in pages of this many tokens that copies share.
    Paged { page: i32 },
    /// As `Kv`, joined anew with each call.
    Concatenate,
    /// The last `size` keys and values, the first `keep` of them for ever.
    Rotating { size: i32, keep: i32 },
    /// Attention within chunks of this length (llama4).
    Chunked { size: i32 },
    /// Recurrent slots: convolution tails, states.
    Slots(usize),
    /// The last `size` rows, in the order of their tokens (deepseek_v41).
    TokenWindow { size: i32 },
    /// The tokens of a group that is not full yet (deepseek_v41).
    OpenGroup,
    /// Several caches of one layer.
    List(Vec<CacheKind>),
    /// A cache from the registry, by name.
    Named(&'static str),
}
