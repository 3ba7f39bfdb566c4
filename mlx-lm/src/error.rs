//! The crate's one error type.
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong outside of a programming error; every variant names the thing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file that is truncated, hostile or not of its format.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    /// A key of `config.json` (or of GGUF metadata) that is missing or wrong.
    #[error("config: {key}: {message}")]
    Config { key: String, message: String },
    /// A tensor of the checkpoint that is missing, extra, or of the wrong shape or type.
    #[error("tensor {name}: {message}")]
    Tensor { name: String, message: String },
    #[error("{what} {name:?} is not supported: {message}")]
    Unsupported { what: &'static str, name: String, message: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("chat template: {0}")]
    Template(String),
    /// An argument or request that cannot be served.
    #[error("{0}")]
    Request(String),
    #[error("{0}")]
    Hub(String),
    /// Another program that cannot be started, fails, or answers what nobody understands.
    #[error("{}: {message}", program.display())]
    Program { program: PathBuf, message: String },
    /// An op, an evaluation or an array file failed.
    #[error(transparent)]
    Mlx(#[from] mlx::Error),
}

impl Error {
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().into(), source }
    }
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().into(), message: message.into() }
    }
    pub fn program(program: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Program { program: program.as_ref().into(), message: message.into() }
    }
    pub fn config(key: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { key: key.into(), message: message.into() }
    }
    pub fn tensor(name: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Tensor { name: name.into(), message: message.into() }
    }
}
