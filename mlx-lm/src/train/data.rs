//! Training examples from JSONL files: token ids and where the part that is learned begins.

use crate::chat::{Message, RenderOptions};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::config::LoraConfig;

/// One example: ids, and the number of ids at its start that are not learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub ids: Vec<u32>,
    pub offset: usize,
    /// The line of the file, from 1.
    pub line: usize,
}

/// Examples of one file, in its order.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    pub examples: Vec<Example>,
    /// Rows as Python's batch sorting measures them: the number of keys of each record.
    pub row_lengths: Vec<usize>,
}

impl Dataset {
    pub fn len(&self) -> usize {
        self.examples.len()
    }
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Reads `train.jsonl`, `valid.jsonl` or `test.jsonl` of a directory; a missing file gives an empty set.
    pub fn open(dir: &Path, name: &str, tokenizer: &Tokenizer, config: &LoraConfig) -> Result<Dataset> {
        let path = dir.join(format!("{name}.jsonl"));
        if !path.exists() {
            return Ok(Dataset::default());
        }
        Self::read(&path, tokenizer, config)
    }

    /// Reads one JSONL file, line by line: only ids are kept.
    ///
    /// # Errors
    /// Name the file and the line: broken JSON, a record of no known shape, a template that refuses it, a line of more than
    /// 16 MiB.
    pub fn read(path: &Path, tokenizer: &Tokenizer, config: &LoraConfig) -> Result<Dataset> {
        let mut set = Dataset::default();
        each_record(path, &mut |number, record| {
            let (ids, offset) = encode(&record, tokenizer, config)?;
            set.row_lengths.push(record.len());
            set.examples.push(Example { ids, offset, line: number });
            Ok(())
        })?;
        Ok(set)
    }

    /// A number for the examples and how they are batched.
    pub fn fingerprint(&self, c: &LoraConfig) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |n: u64| hash = (hash ^ n).wrapping_mul(0x0100_0000_01b3);
        for n in [c.batch_size as u64, c.max_seq_length as u64, c.seed, c.pack as u64, c.batch_order as u64] {
            add(n);
        }
        for e in &self.examples {
            add(e.offset as u64);
            e.ids.iter().for_each(|&id| add(id.into()));
            add(u64::MAX);
        }
        hash
    }
}

/// The longest line of a dataset.
const MAX_LINE: u64 = 16 << 20;

/// Calls `f` with the line number, from 1, and the object of each line that is not empty.
///
/// # Errors
/// Those of `f` and of reading, with file and line.
pub(crate) fn each_record(path: &Path, f: &mut dyn FnMut(usize, Map<String, Value>) -> Result<()>) -> Result<()> {
    let mut file = BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?);
    let mut line = Vec::new();
    for number in 1.. {
        let at = |m: String| Error::file(path, format!("line {number}: {m}"));
        line.clear();
        let n = file.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|e| at(e.to_string()))?;
        if n == 0 {
            break;
        }
        if n as u64 > MAX_LINE {
            return Err(at(format!("longer than {MAX_LINE} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record = serde_json::from_slice(&line).map_err(|e| at(format!("not a JSON object: {e}")))?;
        f(number, record).map_err(|e| at(e.to_string()))?;
    }
    Ok(())
}

/// Ids and offset of one record: Python's shapes (`prompt` + `completion`, `messages` with `tools`, `text`) and go-mlx's
/// (`prompt` + `response`, `instruction` + `output` with optional `input`, `conversations` of from/value, `problem` or
/// `question` with optional `thinking` or `reasoning` and `solution` or `answer`).
pub(crate) fn encode(record: &Map<String, Value>, t: &Tokenizer, c: &LoraConfig) -> Result<(Vec<u32>, usize)> {
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    let pair = |user: String, answer: &str| vec![Message::user(user), Message::assistant(answer)];
    if let (Some(p), Some(a)) = (text(&c.prompt_feature), text(&c.completion_feature).or_else(|| text("response"))) {
        return chat(&pair(p.into(), a), record, t, c);
    }
    if let Some(list) = record.get(&c.chat_feature) {
        let messages: Vec<Message> = serde_json::from_value(list.clone())
            .map_err(|e| Error::Request(format!("{:?} is not a list of messages: {e}", c.chat_feature)))?;
        return chat(&messages, record, t, c);
    }
    if let (Some(p), Some(a)) = (text("instruction"), text("output")) {
        let prompt = match text("input").filter(|i| !i.is_empty()) {
            Some(input) => format!("{p}\n\n{input}"),
            None => p.to_string(),
        };
        return chat(&pair(prompt, a), record, t, c);
    }
    let either = |a: &str, b: &str| text(a).or_else(|| text(b));
    if let (Some(p), Some(a)) = (either("problem", "question"), either("solution", "answer")) {
        let answer = reasoned(a, either("thinking", "reasoning"), t);
        return chat(&[Message::user(p), answer], record, t, c);
    }
    if let Some(turns) = record.get("conversations").and_then(Value::as_array) {
        return chat(&turns.iter().map(turn).collect::<Result<Vec<_>>>()?, record, t, c);
    }
    if let Some(plain) = text(&c.text_feature) {
        if c.mask_prompt {
            return Err(Error::Request("mask_prompt needs prompts: a text record has none".into()));
        }
        let mut ids = t.encode(plain, true)?;
        if let (Some(&eos), last) = (t.eos().first(), ids.last())
            && last != Some(&eos)
        {
            ids.push(eos);
        }
        return check(ids, 0);
    }
    let keys: Vec<&String> = record.keys().collect();
    Err(Error::Request(format!("no known kind of record; its keys are {keys:?}")))
}

/// An answer after its reasoning: as the template takes it, else between tags before the answer.
fn reasoned(answer: &str, reasoning: Option<&str>, t: &Tokenizer) -> Message {
    let Some(reasoning) = reasoning.filter(|r| !r.is_empty()) else { return Message::assistant(answer) };
    if t.chat_template().is_some_and(|c| c.mentions("reasoning_content")) {
        let mut m = Message::assistant(answer);
        m.set("reasoning_content", reasoning);
        return m;
    }
    Message::assistant(format!("<think>\n{reasoning}\n</think>\n\n{answer}"))
}

fn turn(v: &Value) -> Result<Message> {
    let get = |k: &str| v.get(k).and_then(Value::as_str);
    match (get("from").or(get("role")), get("value").or(get("content"))) {
        (Some(from), Some(value)) => Ok(match from {
            "human" | "user" => Message::user(value),
            "gpt" | "assistant" | "model" => Message::assistant(value),
            other => Message::new(other, value),
        }),
        _ => Err(Error::Request("a conversation turn needs from and value".into())),
    }
}

fn chat(messages: &[Message], record: &Map<String, Value>, t: &Tokenizer, c: &LoraConfig) -> Result<(Vec<u32>, usize)> {
    let tools = match record.get("tools") {
        None | Some(Value::Null) => None,
        Some(v) => Some(serde_json::from_value(v.clone()).map_err(|e| Error::Request(format!("tools: {e}")))?),
    };
    let render = |messages: &[Message], open: bool| -> Result<Vec<u32>> {
        let options = RenderOptions { add_generation_prompt: open, tools: tools.clone(), ..RenderOptions::default() };
        t.encode(&t.apply_chat_template(messages, &options)?, false)
    };
    let ids = render(messages, false)?;
    let offset = match (c.mask_prompt, messages.split_last()) {
        (true, Some((last, before))) => render(before, last.role() == "assistant")?.len(),
        _ => 0,
    };
    check(ids, offset)
}

fn check(ids: Vec<u32>, offset: usize) -> Result<(Vec<u32>, usize)> {
    if ids.len() < 2 {
        return Err(Error::Request("the record has fewer than two tokens".into()));
    }
    Ok((ids, offset))
}
