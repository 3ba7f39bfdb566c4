//! Tasks from JSONL files.

use super::score::{generate_until, loglikelihood};
use crate::chat::Message;
use crate::generate::LanguageModel;
use crate::train::each_record;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// `query` (or `question`, `context`, `prompt`), `choices`, and the right one as `answer`: a number from 0, a letter
    /// from A, or the text of a choice.
    Choice { query: String, choices: Vec<String>, answer: usize },
    /// `prompt` (or `question`, `query`) and `answer` (or `target`), one text or several that all count.
    Match { prompt: String, answers: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    MultipleChoice,
    ExactMatch,
}

/// Questions of one kind.
#[derive(Debug, Clone)]
pub struct Task {
    pub name: String,
    pub kind: Kind,
    pub items: Vec<Item>,
}

/// How a task is asked.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// At most this many questions.
    pub limit: Option<usize>,
    /// This many questions before each one, answered, from the end of the file; they are not asked.
    pub num_shots: usize,
    pub max_tokens: usize,
    /// What ends an answer, besides an end of sequence.
    pub until: Vec<String>,
    /// Ask through the chat template.
    pub chat: bool,
    /// Keep each answer in the report.
    pub log_samples: bool,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        let until = vec!["\n".to_string()];
        EvaluateOptions { limit: None, num_shots: 0, max_tokens: 64, until, chat: false, log_samples: false }
    }
}

/// What came out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    pub task: String,
    pub kind: Kind,
    pub samples: usize,
    /// Share of right answers: of choices the most likely one, of texts those that are equal without spaces around them.
    pub accuracy: f64,
    pub accuracy_stderr: f64,
    /// Of choices: the most likely one per byte of its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_norm_stderr: Option<f64>,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Value>,
}

impl Task {
    /// Reads a JSONL file; its name without ending is the task's.
    ///
    /// # Errors
    /// Name file and line: broken JSON, a record of no known kind or not of that of the first line.
    pub fn read(path: &Path) -> Result<Task> {
        let (mut items, mut kind) = (Vec::new(), None);
        each_record(path, &mut |_, record| {
            let item = Item::from_record(&record)?;
            let own = item.kind();
            if *kind.get_or_insert(own) != own {
                return Err(Error::Request("a task holds questions of one kind".into()));
            }
            items.push(item);
            Ok(())
        })?;
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        match kind {
            Some(kind) => Ok(Task { name, kind, items }),
            None => Err(Error::file(path, "holds no question")),
        }
    }
}

impl Item {
    fn kind(&self) -> Kind {
        match self {
            Item::Choice { .. } => Kind::MultipleChoice,
            Item::Match { .. } => Kind::ExactMatch,
        }
    }

    fn from_record(r: &Map<String, Value>) -> Result<Item> {
        let text = |keys: &[&str]| keys.iter().find_map(|k| r.get(*k)?.as_str()).map(str::to_string);
        let fail = |m: &str| Error::Request(m.into());
        let question = text(&["query", "question", "context", "prompt"]);
        let question = question.ok_or_else(|| fail("no query, question, context or prompt"))?;
        let answer = ["answer", "target", "label", "gold"].iter().find_map(|k| r.get(*k));
        let answer = answer.ok_or_else(|| fail("no answer, target, label or gold"))?;
        let texts = |v: &Value| -> Option<Vec<String>> {
            v.as_array()?.iter().map(|c| c.as_str().map(str::to_string)).collect::<Option<Vec<_>>>()
        };
        let Some(choices) = r.get("choices") else {
            let answers = match answer {
                Value::String(s) => vec![s.clone()],
                Value::Number(n) => vec![n.to_string()],
                list => {
                    texts(list).filter(|l| !l.is_empty()).ok_or_else(|| fail("answer is no text or list of texts"))?
                }
            };
            return Ok(Item::Match { prompt: question, answers });
        };
        let choices =
            texts(choices).filter(|c| c.len() > 1).ok_or_else(|| fail("choices are not two or more texts"))?;
        let at = match answer {
            Value::Number(n) => n.as_u64().map(|n| n as usize),
            Value::String(s) => choices.iter().position(|c| c == s).or_else(|| match s.as_bytes() {
                [letter @ b'A'..=b'Z'] => Some((letter - b'A') as usize),
                digits => std::str::from_utf8(digits).ok()?.parse().ok(),
            }),
            _ => None,
        };
        let answer = at.filter(|&a| a < choices.len()).ok_or_else(|| fail("answer is none of the choices"))?;
        Ok(Item::Choice { query: question, choices, answer })
    }

    fn question(&self) -> &str {
        match self {
            Item::Choice { query, .. } => query,
            Item::Match { prompt, .. } => prompt,
        }
    }

    fn right(&self) -> &str {
        match self {
            Item::Choice { choices, answer, .. } => &choices[*answer],
            Item::Match { answers, .. } => &answers[0],
        }
    }
}

/// Asks a task; `progress` is called with (done, all) questions.
///
/// # Errors
/// Too few questions, a question longer than the model's context, a failing evaluation.
pub fn run(
    lm: &LanguageModel,
    task: &Task,
    o: &EvaluateOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let start = std::time::Instant::now();
    let Some(asked) = task.items.len().checked_sub(o.num_shots).filter(|n| *n > 0) else {
        return Err(Error::Request(format!("{} questions are too few for {} shots", task.items.len(), o.num_shots)));
    };
    let (items, shots) = task.items.split_at(asked);
    let items = &items[..o.limit.unwrap_or(asked).min(asked)];
    let mut log = Vec::new();
    let (mut right, mut right_norm) = (Vec::new(), Vec::new());
    match task.kind {
        Kind::MultipleChoice => {
            for (i, item) in items.iter().enumerate() {
                let Item::Choice { query, choices, answer } = item else { continue };
                let context = plain(shots, query, o, lm)?;
                let texts: Vec<String> = choices.iter().map(|c| continuation(&context, c)).collect();
                let scores = loglikelihood(lm, &context, &texts)?;
                let best = |value: &dyn Fn(usize) -> f64| {
                    (0..scores.len()).max_by(|&a, &b| value(a).total_cmp(&value(b)).then(b.cmp(&a))).unwrap_or(0)
                };
                let chosen = best(&|i| scores[i].logprob);
                let chosen_norm = best(&|i| scores[i].logprob / choices[i].len().max(1) as f64);
                right.push(chosen == *answer);
                right_norm.push(chosen_norm == *answer);
                if o.log_samples {
                    log.push(serde_json::json!({
                        "query": query, "scores": scores, "chosen": chosen, "chosen_norm": chosen_norm, "answer": answer,
                    }));
                }
                progress(i + 1, items.len());
            }
        }
        Kind::ExactMatch => {
            let prompts = items
                .iter()
                .map(|i| {
                    let text = plain(shots, i.question(), o, lm)?;
                    let ids = if o.chat { lm.tokenizer()?.encode(&text, false)? } else { lm.text_ids(&text)? };
                    lm.check_length(ids.len())?;
                    Ok(ids)
                })
                .collect::<Result<Vec<_>>>()?;
            let answers =
                generate_until(lm, &prompts, &o.until, o.max_tokens, &mut |i, _| progress(i + 1, items.len()))?;
            for (item, text) in items.iter().zip(&answers) {
                let Item::Match { prompt, answers } = item else { continue };
                let ok = answers.iter().any(|a| a.trim() == text.trim());
                right.push(ok);
                if o.log_samples {
                    log.push(serde_json::json!({"prompt": prompt, "text": text, "answers": answers, "right": ok}));
                }
            }
        }
    }
    let (accuracy, accuracy_stderr) = mean(&right);
    let norm = (task.kind == Kind::MultipleChoice).then(|| mean(&right_norm));
    Ok(Report {
        task: task.name.clone(),
        kind: task.kind,
        samples: items.len(),
        accuracy,
        accuracy_stderr,
        accuracy_norm: norm.map(|n| n.0),
        accuracy_norm_stderr: norm.map(|n| n.1),
        seconds: start.elapsed().as_secs_f64(),
        log,
    })
}

/// Mean and its standard error.
fn mean(right: &[bool]) -> (f64, f64) {
    let n = right.len() as f64;
    let mean = right.iter().filter(|r| **r).count() as f64 / n.max(1.0);
    (mean, if n > 1.0 { (mean * (1.0 - mean) / (n - 1.0)).sqrt() } else { 0.0 })
}

/// A completion after its context, with a space between words.
fn continuation(context: &str, choice: &str) -> String {
    let gap = context.chars().last().is_some_and(|c| !c.is_whitespace()) && !choice.starts_with(char::is_whitespace);
    if gap { format!(" {choice}") } else { choice.to_string() }
}

/// Shots and question as one text.
fn plain(shots: &[Item], question: &str, o: &EvaluateOptions, lm: &LanguageModel) -> Result<String> {
    if o.chat {
        let mut turns = Vec::new();
        for s in shots {
            turns.extend([Message::user(s.question()), Message::assistant(s.right())]);
        }
        turns.push(Message::user(question));
        return lm.tokenizer()?.apply_chat_template(&turns, &Default::default());
    }
    let mut text = String::new();
    for s in shots {
        text.push_str(s.question());
        text.push_str(&continuation(s.question(), s.right()));
        text.push_str("\n\n");
    }
    Ok(text + question)
}
