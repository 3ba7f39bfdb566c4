//! Which memory a layer keeps between calls, as data.

/// The cache that a mixer declares.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheKind {
    /// No state.
    None,
    /// All keys and values.
    Kv,
    /// The last `size` keys and values, the first `keep` of them for ever.
    Rotating { size: i32, keep: i32 },
    /// Attention within chunks of this length (llama4).
    Chunked { size: i32 },
    /// Recurrent slots: convolution tails, states.
    Slots(usize),
    /// Several caches of one layer.
    List(Vec<CacheKind>),
    /// A cache from the registry, by name.
    Named(&'static str),
}
