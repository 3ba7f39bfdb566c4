//! The wire forms in which models call tools: one parser per form behind [`ToolParser`], found by name in
//! [`ToolParsers`]; [`infer`] tells the name from a model's chat template or vocabulary.
//!
//! Text comes in without the form's own start and end markers (the [splitter](super::stream) takes them out), though
//! most parsers also bear them.

mod function_gemma;
mod gemma4;
mod glm47;
mod infer;
mod json_tools;
mod kimi_k2;
mod kimi_k3;
mod literal;
mod longcat;
mod minicpm5;
mod minimax_m2;
mod mistral;
mod muse_spark;
mod pythonic;
mod qwen3_coder;
mod schema;

use std::sync::{Arc, LazyLock};

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub use infer::infer;

/// One call that a model asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub name: String,
    /// Usually an object.
    pub arguments: Value,
    /// The model's own id, where the form carries one.
    pub id: Option<String>,
}

impl ToolCall {
    fn new(name: impl Into<String>, arguments: Map<String, Value>) -> Self {
        Self { name: name.into(), arguments: Value::Object(arguments), id: None }
    }
}

/// Reads one wire form.
pub trait ToolParser: Send + Sync {
    /// The name of the form, as in `tool_parser_type`.
    fn name(&self) -> &'static str;

    /// What starts and ends a call in the answer; an empty end means the answer's end.
    fn markers(&self) -> (&'static str, &'static str);

    /// The calls in `text`, at least one. `tools` are the schemas the model was given; some forms type their
    /// arguments by them.
    ///
    /// Errors: text that holds no call, with the text.
    fn parse(&self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>>;
}

/// The known wire forms by name.
#[derive(Clone)]
pub struct ToolParsers(Vec<Arc<dyn ToolParser>>);

impl ToolParsers {
    /// Every form of this module.
    pub fn builtin() -> Self {
        Self(vec![
            Arc::new(json_tools::JsonTools),
            Arc::new(qwen3_coder::Qwen3Coder),
            Arc::new(glm47::Glm47),
            Arc::new(longcat::Longcat),
            Arc::new(minimax_m2::MinimaxM2),
            Arc::new(minicpm5::MiniCpm5),
            Arc::new(kimi_k2::KimiK2),
            Arc::new(kimi_k3::KimiK3),
            Arc::new(mistral::Mistral),
            Arc::new(pythonic::Pythonic),
            Arc::new(gemma4::Gemma4),
            Arc::new(function_gemma::FunctionGemma),
            Arc::new(muse_spark::MuseSpark),
        ])
    }

    /// Adds a form, or replaces the one of the same name.
    pub fn add(&mut self, parser: Arc<dyn ToolParser>) {
        self.0.retain(|p| p.name() != parser.name());
        self.0.push(parser);
    }

    /// The form of this name (`laguna` speaks `glm47`); an unknown name is an error that lists the known ones.
    pub fn get(&self, name: &str) -> Result<Arc<dyn ToolParser>> {
        let wanted = if name == "laguna" { "glm47" } else { name };
        self.0.iter().find(|p| p.name() == wanted).cloned().ok_or_else(|| Error::Unsupported {
            what: "tool parser",
            name: name.into(),
            message: format!("known: {}", self.names().collect::<Vec<_>>().join(", ")),
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|p| p.name())
    }
}

fn fail(what: &str, text: &str) -> Error {
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    Error::Request(format!("tool call: {what}: {short:?}"))
}

/// A pattern of this module, compiled once. All are covered by tests.
fn pattern(source: &'static str) -> Option<Regex> {
    Regex::new(source).ok()
}

/// All matches of a pattern.
fn matches<'t>(regex: &'static LazyLock<Option<Regex>>, text: &'t str) -> impl Iterator<Item = regex::Captures<'t>> {
    regex.iter().flat_map(move |r| r.captures_iter(text))
}

/// A group of a match; empty when it took no part.
fn group<'t>(found: &regex::Captures<'t>, n: usize) -> &'t str {
    found.get(n).map_or("", |m| m.as_str())
}

/// One newline less at either end.
fn without_newlines(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}
