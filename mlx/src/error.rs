//! The crate's one error type, and `catch`, which turns panics of graph-building ops into it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in `mlx`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An op refused its operands: wrong shapes, dtypes, axes or options.
    #[error("[{op}] {message}")]
    Op { op: String, message: String },
    /// Evaluation failed. Everything that was pending on the same stream is unusable.
    #[error("evaluation failed: {message}")]
    Eval { message: String },
    /// A file or stream could not be read or written, or is not of its format.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    /// Array data was asked for in a form that it does not have.
    #[error("{0}")]
    Data(String),
    /// A named parameter is missing, extra, or of the wrong shape.
    #[error("parameter {name}: {message}")]
    Parameter { name: String, message: String },
    /// A device, backend or feature that this build or machine does not have.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    pub fn op(op: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Op { op: op.into(), message: message.into() }
    }
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().into(), message: message.into() }
    }
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Parameter { name: name.into(), message: message.into() }
    }
}

thread_local! { static CATCHING: Cell<usize> = const { Cell::new(0) }; }

/// The panic payload of an op inside [`catch`]: raised without running the panic hook.
struct OpPanic(Error);

/// Ends an op that cannot be built: a silent unwind to the enclosing [`catch`], else a panic with the text.
#[track_caller]
pub(crate) fn raise(error: Error) -> ! {
    if CATCHING.get() > 0 {
        resume_unwind(Box::new(OpPanic(error)));
    }
    panic!("{error}")
}

/// Raises with an op's name and a message.
#[track_caller]
pub(crate) fn refuse(op: &str, message: impl Into<String>) -> ! {
    raise(Error::op(op, message))
}

/// Runs `f` and returns the panic of an op in it as [`Error::Op`], without printing anything.
///
/// Other panics pass through. Nests; works across transforms (`grad`, `compile`, ...).
///
/// ```
/// use mlx::{self as mx, Array};
/// let bad = mx::catch(|| Array::from_slice(&[1.0f32, 2.0], [2]) + Array::from_slice(&[1.0f32, 2.0, 3.0], [3]));
/// assert!(bad.unwrap_err().to_string().contains("[2]"));
/// ```
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R> {
    struct Depth;
    impl Drop for Depth {
        fn drop(&mut self) {
            CATCHING.set(CATCHING.get() - 1);
        }
    }
    CATCHING.set(CATCHING.get() + 1);
    let depth = Depth;
    let result = catch_unwind(AssertUnwindSafe(f));
    drop(depth);
    result.map_err(|payload| match payload.downcast::<OpPanic>() {
        Ok(p) => p.0,
        Err(other) => resume_unwind(other),
    })
}

/// Runs a fallible `f` under [`catch`] and flattens the two results.
pub fn try_catch<R, E: From<Error>>(f: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    catch(f)?
}
