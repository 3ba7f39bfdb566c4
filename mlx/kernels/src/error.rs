//! The crate's error: what a public function says when its arguments do not fit together.

/// Why a kernel refused its arguments. Nothing was written to the output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer holds fewer elements than its shape needs.
    #[error("{what}: needs {need} elements, has {have}")]
    Short { what: &'static str, need: usize, have: usize },
    /// A size does not fit the others.
    #[error("{what}: expected {expected}, got {got}")]
    Size { what: &'static str, expected: usize, got: usize },
    /// An index points outside.
    #[error("{what}: index {index} is outside 0..{limit}")]
    Index { what: &'static str, index: usize, limit: usize },
    /// A combination that no kernel handles.
    #[error("{what}: {why}")]
    Unsupported { what: &'static str, why: &'static str },
}

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn same(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Size { what, expected, got }) }
}

pub(crate) fn room(what: &'static str, need: Option<usize>, have: usize) -> Result<()> {
    match need {
        Some(need) if need <= have => Ok(()),
        need => Err(Error::Short { what, need: need.unwrap_or(usize::MAX), have }),
    }
}
