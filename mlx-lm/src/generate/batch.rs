//! Many sequences at once (`BatchGenerator`, `batch_generate`): prompts join and finished rows leave at any step.
//!
//! Each prompt is processed by itself, so that a row's numbers do not depend on its neighbours; decoding runs all rows of
//! a group together. Caches that hold one sequence only stay groups of one.

use super::processors::{Processor, log_softmax};
use super::sampler::Sampler;
use super::stream::FinishReason;
use super::tokens::prefill;
use crate::cache::Caches;
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::{self as mx, Array, memory};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What to generate for one prompt.
pub struct BatchRequest<'a> {
    pub prompt: Vec<u32>,
    pub max_tokens: usize,
    pub sampler: Rc<Sampler>,
    pub processors: Vec<Box<dyn Processor + 'a>>,
    /// Id sequences that end the row; the last of them is reported with `FinishReason::Stop`.
    pub stop: Vec<Vec<u32>>,
    /// A cache that holds the beginning of the conversation already.
    pub caches: Option<Caches>,
    /// Report log-probabilities.
    pub logprobs: bool,
}

impl BatchRequest<'_> {
    /// Greedy, 128 tokens, no stops.
    pub fn new(prompt: Vec<u32>) -> Self {
        BatchRequest {
            prompt,
            max_tokens: 128,
            sampler: Rc::new(Sampler::greedy()),
            processors: Vec::new(),
            stop: Vec::new(),
            caches: None,
            logprobs: false,
        }
    }
}

/// One token of one row.
pub struct BatchToken {
    pub uid: usize,
    pub id: u32,
    pub logprob: Option<f32>,
    pub finish: Option<FinishReason>,
    /// The row's caches, when it has ended.
    pub caches: Option<Caches>,
}

/// Times and counts so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchStats {
    pub prompt_tokens: usize,
    pub prompt_time: Duration,
    pub generation_tokens: usize,
    pub generation_time: Duration,
    pub steps: usize,
}

impl BatchStats {
    pub fn prompt_tps(&self) -> f64 {
        self.prompt_tokens as f64 / self.prompt_time.as_secs_f64().max(1e-9)
    }
    pub fn generation_tps(&self) -> f64 {
        self.generation_tokens as f64 / self.generation_time.as_secs_f64().max(1e-9)
    }
}

struct Row<'a> {
    uid: usize,
    request: BatchRequest<'a>,
    /// Prompt and tokens so far; the prompt only for processors.
    history: Vec<u32>,
    produced: usize,
}

/// Rows that share caches, and their next tokens [B] under way.
struct Group<'a> {
    rows: Vec<Row<'a>>,
    caches: Caches,
    next: Pending,
}

struct Pending {
    ids: Array,
    logprobs: Option<Array>,
}

/// Generates for many prompts; see the module.
pub struct BatchGenerator<'a> {
    decoder: &'a Decoder,
    waiting: VecDeque<Row<'a>>,
    groups: Vec<Group<'a>>,
    next_uid: usize,
    /// Rows that decode at the same time.
    pub max_rows: usize,
    /// Tokens of a prompt that are processed at once.
    pub prefill_step: usize,
    pub stats: BatchStats,
}

impl<'a> BatchGenerator<'a> {
    pub fn new(decoder: &'a Decoder) -> Self {
        BatchGenerator {
            decoder,
            waiting: VecDeque::new(),
            groups: Vec::new(),
            next_uid: 0,
            max_rows: 32,
            prefill_step: 2048,
            stats: BatchStats::default(),
        }
    }

    /// Queues a prompt; its tokens carry the returned number.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, no tokens to generate, options out of range.
    pub fn insert(&mut self, request: BatchRequest<'a>) -> Result<usize> {
        let vocab = self.decoder.blueprint().vocab;
        request.sampler.check(vocab as usize)?;
        if request.prompt.is_empty() {
            return Err(Error::Request("the prompt has no tokens".into()));
        }
        if request.max_tokens == 0 {
            return Err(Error::Request("max_tokens must be at least 1".into()));
        }
        if let Some(id) = request.prompt.iter().find(|&&id| id as i64 >= vocab as i64) {
            return Err(Error::Request(format!("token id {id} is not in the vocabulary of {vocab}")));
        }
        let uid = self.next_uid;
        self.next_uid += 1;
        let history = request.prompt.clone();
        self.waiting.push_back(Row { uid, request, history, produced: 0 });
        Ok(uid)
    }

    /// Takes a row out, waiting or running; its caches if it has started.
    pub fn remove(&mut self, uid: usize) -> Result<Option<Caches>> {
        self.waiting.retain(|r| r.uid != uid);
        for g in &mut self.groups {
            if let Some(i) = g.rows.iter().position(|r| r.uid == uid) {
                let caches = extract(&g.caches, g.rows.len(), i)?;
                keep(g, |j| j != i)?;
                self.groups.retain(|g| !g.rows.is_empty());
                return Ok(Some(caches));
            }
        }
        Ok(None)
    }

    /// Rows waiting and running.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.groups.iter().map(|g| g.rows.len()).sum::<usize>()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Admits waiting prompts, then gives one token of every running row; empty when nothing is left.
    pub fn step(&mut self) -> Result<Vec<BatchToken>> {
        while self.groups.iter().map(|g| g.rows.len()).sum::<usize>() < self.max_rows {
            let Some(row) = self.waiting.pop_front() else { break };
            self.admit(row)?;
        }
        let start = Instant::now();
        let mut out = Vec::new();
        for g in &mut self.groups {
            advance(self.decoder, g, &mut out)?;
        }
        self.groups.retain(|g| !g.rows.is_empty());
        self.stats.generation_tokens += out.len();
        self.stats.generation_time += start.elapsed();
        self.stats.steps += 1;
        if self.stats.steps.is_multiple_of(512) {
            memory::clear_cache();
        }
        Ok(out)
    }

    /// Processes a prompt and lets the row join a group whose caches take it.
    fn admit(&mut self, mut row: Row<'a>) -> Result<()> {
        let start = Instant::now();
        let mut caches = match row.request.caches.take() {
            Some(c) => c,
            None => self.decoder.caches()?,
        };
        let prompt = std::mem::take(&mut row.request.prompt);
        let (last, first) = prompt.split_last().ok_or_else(|| Error::Request("the prompt has no tokens".into()))?;
        prefill(self.decoder, first, &mut caches, self.prefill_step, &mut |_, _| {}, prompt.len())?;
        let ids = Array::from_slice(&[*last], [1, 1]);
        let next = forward(self.decoder, &ids, &mut caches, std::slice::from_mut(&mut row))?;
        mx::eval([&next.ids])?;
        self.stats.prompt_tokens += prompt.len();
        self.stats.prompt_time += start.elapsed();
        let single = Group { rows: vec![row], caches, next };
        self.place(single)
    }

    fn place(&mut self, single: Group<'a>) -> Result<()> {
        for g in &mut self.groups {
            // joined copies: a cache that refuses leaves the group as it was
            let mut joined: Caches = g.caches.iter().map(|c| c.boxed_clone()).collect();
            let fits = joined.iter_mut().zip(&single.caches).try_for_each(|(a, b)| a.join(b.boxed_clone()));
            if fits.is_err() || single.next.logprobs.is_some() != g.next.logprobs.is_some() {
                continue;
            }
            g.caches = joined;
            g.next = mx::catch(|| Pending {
                ids: mx::concatenate(&[&g.next.ids, &single.next.ids], 0),
                logprobs: g
                    .next
                    .logprobs
                    .as_ref()
                    .zip(single.next.logprobs.as_ref())
                    .map(|(a, b)| mx::concatenate(&[a, b], 0)),
            })?;
            g.rows.extend(single.rows);
            return Ok(());
        }
        self.groups.push(single);
        Ok(())
    }
}

/// One step on ids [B, 1]: logits, processors and samplers per row; started, not waited for.
fn forward(decoder: &Decoder, ids: &Array, caches: &mut Caches, rows: &mut [Row<'_>]) -> Result<Pending> {
    let next = mx::catch(|| {
        let mut logits = decoder.forward_last(ids, caches);
        if rows.iter().any(|r| !r.request.processors.is_empty()) {
            let parts: Vec<Array> = rows
                .iter_mut()
                .enumerate()
                .map(|(i, r)| {
                    let mut x = logits.slice_axis(0, i as i32..i as i32 + 1);
                    for p in &mut r.request.processors {
                        x = p.apply(&r.history, x);
                    }
                    x
                })
                .collect();
            logits = mx::concatenate(&parts, 0);
        }
        let wants = rows.iter().any(|r| r.request.logprobs);
        let logprobs = (wants || rows.iter().any(|r| !r.request.sampler.is_greedy())).then(|| log_softmax(&logits));
        let source = logprobs.as_ref().unwrap_or(&logits);
        let shared = rows.windows(2).all(|w| Rc::ptr_eq(&w[0].request.sampler, &w[1].request.sampler));
        let all_greedy = rows.iter().all(|r| r.request.sampler.is_greedy());
        let ids = match rows.first() {
            Some(first) if shared || all_greedy => first.request.sampler.sample(source),
            _ => {
                let each: Vec<Array> = rows
                    .iter()
                    .enumerate()
                    .map(|(i, r)| r.request.sampler.sample(&source.slice_axis(0, i as i32..i as i32 + 1)))
                    .collect();
                mx::concatenate(&each, 0)
            }
        };
        Pending { ids, logprobs: logprobs.filter(|_| wants) }
    })?;
    mx::async_eval(std::iter::once(&next.ids).chain(&next.logprobs))?;
    Ok(next)
}

/// Reads the tokens under way, starts the next step, and reports; rows that have ended leave.
fn advance(decoder: &Decoder, g: &mut Group<'_>, out: &mut Vec<BatchToken>) -> Result<()> {
    let ids = g.next.ids.to_vec::<u32>()?;
    let logprobs: Vec<Option<f32>> = match &g.next.logprobs {
        None => vec![None; ids.len()],
        Some(all) => {
            let at = Array::from_slice(&ids, [ids.len() as i32, 1]);
            mx::catch(|| mx::take_along_axis(all, &at, -1))?.to_vec::<f32>()?.into_iter().map(Some).collect()
        }
    };
    let mut finish = Vec::with_capacity(ids.len());
    for (row, &id) in g.rows.iter_mut().zip(&ids) {
        row.history.push(id);
        row.produced += 1;
        let generated = &row.history[row.history.len() - row.produced..];
        finish.push(match row.request.stop.iter().any(|s| !s.is_empty() && generated.ends_with(s)) {
            true => Some(FinishReason::Stop),
            false => (row.produced >= row.request.max_tokens).then_some(FinishReason::Length),
        });
    }
    let count = g.rows.len();
    for (i, (row, &id)) in g.rows.iter().zip(&ids).enumerate() {
        let caches = finish[i].map(|_| extract(&g.caches, count, i)).transpose()?;
        out.push(BatchToken { uid: row.uid, id, logprob: logprobs[i], finish: finish[i], caches });
    }
    keep(g, |i| finish[i].is_none())?;
    if !g.rows.is_empty() {
        let ids = mx::catch(|| g.next.ids.reshape([-1, 1]))?;
        g.next = forward(decoder, &ids, &mut g.caches, &mut g.rows)?;
    }
    Ok(())
}

/// The caches of one row of `count`.
fn extract(caches: &Caches, count: usize, i: usize) -> Result<Caches> {
    match count {
        1 => Ok(caches.iter().map(|c| c.boxed_clone()).collect()),
        _ => caches.iter().map(|c| mx::try_catch(|| c.row(i))).collect(),
    }
}

/// Keeps the rows that `f` names.
fn keep(g: &mut Group<'_>, f: impl Fn(usize) -> bool) -> Result<()> {
    let kept: Vec<usize> = (0..g.rows.len()).filter(|&i| f(i)).collect();
    if kept.len() == g.rows.len() {
        return Ok(());
    }
    let mut i = 0;
    g.rows.retain(|_| {
        i += 1;
        f(i - 1)
    });
    if kept.is_empty() {
        return Ok(());
    }
    for c in &mut g.caches {
        mx::try_catch(|| c.keep_rows(&kept))?;
    }
    let at = Array::from(kept.iter().map(|&k| k as i32).collect::<Vec<_>>());
    g.next = mx::catch(|| Pending {
        ids: g.next.ids.take(&at, 0),
        logprobs: g.next.logprobs.as_ref().map(|l| l.take(&at, 0)),
    })?;
    Ok(())
}

/// What [`batch_generate`] gives for each prompt, in order.
#[derive(Debug, Clone, Default)]
pub struct BatchOutput {
    pub ids: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub stopped: bool,
}

/// Generates for all requests and returns when the last one ends; a stop id at the end is left out.
pub fn batch_generate<'a>(
    decoder: &'a Decoder,
    requests: impl IntoIterator<Item = BatchRequest<'a>>,
) -> Result<(Vec<BatchOutput>, BatchStats)> {
    let mut generator = BatchGenerator::new(decoder);
    let mut outputs = Vec::new();
    let mut stops = Vec::new();
    for r in requests {
        stops.push(r.stop.clone());
        generator.insert(r)?;
        outputs.push(BatchOutput::default());
    }
    while !generator.is_empty() {
        for t in generator.step()? {
            let o = &mut outputs[t.uid];
            o.ids.push(t.id);
            o.logprobs.extend(t.logprob);
            if t.finish == Some(FinishReason::Stop) {
                o.stopped = true;
                let len = stops[t.uid].iter().filter(|s| o.ids.ends_with(s)).map(Vec::len).max().unwrap_or(0);
                o.ids.truncate(o.ids.len() - len);
                o.logprobs.truncate(o.ids.len());
            }
        }
    }
    Ok((outputs, generator.stats))
}
