//! What became of one record.

/// The outcome of one record.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Agree,
    /// A compile error in Rust: not counted.
    Skip,
    Differ(String),
}

impl From<Option<String>> for Verdict {
    /// `None` says that nothing differs.
    fn from(difference: Option<String>) -> Self {
        difference.map_or(Verdict::Agree, Verdict::Differ)
    }
}
