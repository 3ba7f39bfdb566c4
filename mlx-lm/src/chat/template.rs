//! A model's chat templates and their rendering.
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use minijinja::machinery::{CodeGenerator, Vm, WhitespaceConfig, make_string_output, parse};
use minijinja::{AutoEscape, Value};
use regex::Regex;
use serde_json::{Map, Value as Json};

use super::jinja::{self, Budget};
use super::message::Message;
use crate::error::{Error, Result};

/// Stack of the thread that renders: a template may nest values as deep as its fuel reaches.
const STACK: usize = 256 << 20;
/// A longer template is no template.
const MAX_SOURCE: usize = 4 << 20;
/// A longer prompt is an attack or a mistake.
const MAX_OUTPUT: usize = 16 << 20;
/// Marks where a final message ends while it is rendered to be continued.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The chat templates of one model, rendered as Hugging Face transformers renders them.
///
/// A model may ship several by name (`default`, `tool_use`, ...).
///
/// ```
/// use mlx_lm::chat::{ChatTemplate, Message, RenderOptions};
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}";
/// let template = ChatTemplate::from_source("example", source)?;
/// assert_eq!(template.render(&[Message::user("Hello")], &RenderOptions::default())?, "<user>Hello\n");
/// # Ok::<(), mlx_lm::Error>(())
/// ```
#[derive(Clone)]
pub struct ChatTemplate(Arc<Inner>);

struct Inner {
    named: Vec<Named>,
    specials: BTreeMap<String, Json>,
}

struct Named {
    name: String,
    /// The file or key it came from, for messages.
    origin: String,
    /// As shipped.
    source: String,
    /// With what minijinja cannot parse respelled, line by line the same.
    spelled: String,
}

/// How to render: what besides the messages the template sees.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// Tool schemas (`{"type": "function", "function": {...}}`).
    pub tools: Option<Vec<Json>>,
    /// Documents for retrieval (`{"title", "text"}`).
    pub documents: Option<Vec<Json>>,
    /// Ends the prompt where the assistant's answer starts. Default true.
    pub add_generation_prompt: bool,
    /// Leaves the last message open, to be continued by the model; excludes a generation prompt.
    pub continue_final_message: bool,
    /// Which named template; default: `tool_use` when there are tools and the model has it, else `default`.
    pub template: Option<String>,
    /// Further variables (`enable_thinking`, ...).
    pub variables: Map<String, Json>,
    /// What `strftime_now` prints; default the system's time, UTC.
    pub now: Option<SystemTime>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            tools: None,
            documents: None,
            add_generation_prompt: true,
            continue_final_message: false,
            template: None,
            variables: Map::new(),
            now: None,
        }
    }
}

impl ChatTemplate {
    /// Templates as (name, origin, source) and the special tokens they may print. A template that does not parse is
    /// an error that names origin and line.
    pub(crate) fn new(named: Vec<(String, String, String)>, specials: BTreeMap<String, Json>) -> Result<Self> {
        let named = named
            .into_iter()
            .map(|(name, origin, source)| {
                if source.len() > MAX_SOURCE {
                    return Err(Error::Template(format!("{origin}: {} bytes is too long", source.len())));
                }
                let spelled = respell(&source);
                on_stack(&origin, || compile(&origin, &spelled).map(|_| ()).map_err(|e| explain(&origin, &e)))?;
                Ok(Named { name, origin, source, spelled })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self(Arc::new(Inner { named, specials })))
    }

    /// One template from its text; `origin` names it in errors.
    pub fn from_source(origin: &str, source: &str) -> Result<Self> {
        Self::new(vec![("default".into(), origin.into(), source.into())], BTreeMap::new())
    }

    /// Adds or replaces a special token variable (`bos_token`, ...).
    pub fn with_token(self, name: &str, token: &str) -> Self {
        let inner = &self.0;
        let mut specials = inner.specials.clone();
        specials.insert(name.into(), Json::String(token.into()));
        let named = inner
            .named
            .iter()
            .map(|n| Named {
                name: n.name.clone(),
                origin: n.origin.clone(),
                source: n.source.clone(),
                spelled: n.spelled.clone(),
            })
            .collect();
        Self(Arc::new(Inner { named, specials }))
    }

    /// The text of the default template.
    pub fn source(&self) -> &str {
        self.0.named.iter().find(|n| n.name == "default").or(self.0.named.first()).map_or("", |n| &n.source)
    }

    /// Names of the templates the model ships.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.named.iter().map(|n| n.name.as_str())
    }

    /// Whether the default template mentions `word` (`tools`, `enable_thinking`, ...).
    pub fn mentions(&self, word: &str) -> bool {
        self.source().contains(word)
    }

    /// Renders the prompt (Python `apply_chat_template(tokenize=False)`).
    ///
    /// Errors name the template, the line and the cause; a template that runs too long or builds too much text is
    /// stopped.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let named = self.pick(options)?;
        let mut chat: Vec<Map<String, Json>> = messages.iter().map(|m| m.fields().clone()).collect();
        chat.iter_mut().for_each(alias_reasoning);
        if options.continue_final_message {
            if options.add_generation_prompt {
                let message = "continue_final_message and add_generation_prompt exclude each other";
                return Err(Error::Template(message.into()));
            }
            mark_final(&mut chat)?;
        }
        let mut variables: Map<String, Json> = self.0.specials.clone().into_iter().collect();
        variables.insert("messages".into(), chat.into_iter().map(Json::Object).collect());
        variables.insert("tools".into(), options.tools.clone().map_or(Json::Null, Json::Array));
        variables.insert("documents".into(), options.documents.clone().map_or(Json::Null, Json::Array));
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        variables.extend(options.variables.clone());
        let now = options.now.unwrap_or_else(SystemTime::now);

        let text = on_stack(&named.origin, || run(named, &variables, now))?;
        if options.continue_final_message { cut_final(&named.origin, text) } else { Ok(text) }
    }

    fn pick(&self, options: &RenderOptions) -> Result<&Named> {
        let find = |name: &str| self.0.named.iter().find(|n| n.name == name);
        if let Some(name) = &options.template {
            return find(name).ok_or_else(|| {
                let known: Vec<&str> = self.names().collect();
                Error::Template(format!("no template is named {name:?}; the model has {}", known.join(", ")))
            });
        }
        let tools = options.tools.as_ref().and_then(|_| find("tool_use"));
        tools
            .or_else(|| find("default"))
            .or(match &self.0.named[..] {
                [only] => Some(only),
                _ => None,
            })
            .ok_or_else(|| {
                let known: Vec<&str> = self.names().collect();
                Error::Template(format!("name one of the model's templates: {}", known.join(", ")))
            })
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChatTemplate").field(&self.names().collect::<Vec<_>>()).finish()
    }
}

type Compiled<'a> = (minijinja::machinery::Instructions<'a>, BTreeMap<&'a str, minijinja::machinery::Instructions<'a>>);

fn compile<'a>(origin: &'a str, source: &'a str) -> Result<Compiled<'a>, minijinja::Error> {
    let whitespace = WhitespaceConfig { trim_blocks: true, lstrip_blocks: true, ..Default::default() };
    let ast = parse(source, origin, Default::default(), whitespace)?;
    let mut code = CodeGenerator::new(origin, source);
    code.compile_stmt(&ast);
    let (mut main, mut blocks) = code.finish();
    jinja::meter(&mut main)?;
    blocks.values_mut().try_for_each(jinja::meter)?;
    Ok((main, blocks))
}

fn run(named: &Named, variables: &Map<String, Json>, now: SystemTime) -> Result<String> {
    let fail = |e: minijinja::Error| explain(&named.origin, &e);
    let (main, blocks) = compile(&named.origin, &named.spelled).map_err(fail)?;
    let budget = Budget::new(jinja::WORK);
    let env = jinja::environment(&budget, now);
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    Vm::new(&env).eval(&main, Value::from_serialize(variables), &blocks, &mut out, AutoEscape::None).map_err(fail)?;
    if text.len() > MAX_OUTPUT {
        return Err(Error::Template(format!("{}: the prompt is {} bytes long", named.origin, text.len())));
    }
    Ok(text)
}

/// Runs `f` where there is stack to spare; a panic in there is an error.
fn on_stack<T: Send>(origin: &str, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
        match thread.spawn_scoped(scope, f) {
            Ok(running) => running
                .join()
                .unwrap_or_else(|_| Err(Error::Template(format!("{origin}: the template cannot be rendered")))),
            Err(e) => Err(Error::Template(format!("{origin}: no thread to render on: {e}"))),
        }
    })
}

/// `origin:line: what` with the causes underneath.
fn explain(origin: &str, error: &minijinja::Error) -> Error {
    let mut text = origin.to_string();
    if let Some(line) = error.line() {
        text.push_str(&format!(":{line}"));
    }
    text.push_str(": ");
    match error.kind() {
        minijinja::ErrorKind::OutOfFuel => text.push_str("the template runs too long"),
        _ => text.push_str(&error.detail().map_or_else(|| error.kind().to_string(), str::to_string)),
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    Error::Template(text)
}

/// `{% generation %}` marks the assistant's text for training; it renders as its body, in a scope of its own.
/// Comments and raw blocks stay as they are.
fn respell(source: &str) -> String {
    static TAG: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let raw = r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}";
        Regex::new(&format!(r"(?s){raw}|\{{#.*?#\}}|(\{{%[-+]?\s*)(end)?generation(\s*[-+]?%\}})")).ok()
    });
    let Some(tag) = &*TAG else { return source.to_string() };
    tag.replace_all(source, |found: &regex::Captures<'_>| match (found.get(1), found.get(3)) {
        (Some(open), Some(close)) => {
            let end = found.get(2).map_or("", |m| m.as_str());
            format!("{}{end}with{}", open.as_str(), close.as_str())
        }
        _ => found[0].to_string(),
    })
    .into_owned()
}

/// Reasoning goes by several names: `reasoning_content` is filled from the others, `thinking` for gpt-oss.
fn alias_reasoning(message: &mut Map<String, Json>) {
    let fields = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = fields.iter().find_map(|f| message.get(*f).filter(|v| !v.is_null())).cloned() else {
        return;
    };
    message.entry("thinking").or_insert_with(|| reasoning.clone());
    message.insert("reasoning_content".into(), reasoning);
}

fn mark_final(chat: &mut [Map<String, Json>]) -> Result<()> {
    let none = || Error::Template("continue_final_message: the final message has no text to continue".into());
    let content = chat.last_mut().and_then(|m| m.get_mut("content")).ok_or_else(none)?;
    let text = match content {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|p| p.get_mut("text")),
        other => Some(other),
    };
    match text {
        Some(Json::String(text)) => {
            text.push_str(CONTINUE);
            Ok(())
        }
        _ => Err(none()),
    }
}

fn cut_final(origin: &str, mut text: String) -> Result<String> {
    let tag = CONTINUE.trim_end();
    let Some(at) = text.rfind(tag) else {
        return Err(Error::Template(format!("{origin}: the template drops the final message, it cannot be continued")));
    };
    let whole = text[at..].starts_with(CONTINUE);
    text.truncate(at);
    if !whole {
        // The template trims, so the text before the mark would have been trimmed too.
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}
