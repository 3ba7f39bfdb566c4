//! Many sequences at once (`BatchGenerator`, `batch_generate`): prompts join and finished rows leave at any step.
//!
//! Each prompt is processed by itself, so that a row's numbers do not depend on its neighbours; decoding runs all rows of
//! a group together. Caches that hold one sequence only stay groups of one.

use super::decoding::{Group, Pending, Row};
use super::processors::Processor;
use super::sampler::Sampler;
use super::stream::FinishReason;
use super::tokens::prefill;
use crate::cache::{CacheOptions, Caches};
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::{Array, memory};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What to generate for one prompt.
pub struct BatchRequest<'a> {
    /// The prompt, in pieces whose ends are reported: a caller may take the caches there (`insert_segments`).
    pub segments: Vec<Vec<u32>>,
    pub max_tokens: usize,
    pub sampler: Rc<Sampler>,
    pub processors: Vec<Box<dyn Processor + 'a>>,
    /// Id sequences that end the row; the last of them is reported with `FinishReason::Stop`.
    pub stop: Vec<Vec<u32>>,
    /// A cache that holds the beginning of the conversation already.
    pub caches: Option<Caches>,
    /// The ids that `caches` hold, for processors and for what is handed back (`all_tokens`).
    pub earlier: Vec<u32>,
    /// Report log-probabilities.
    pub logprobs: bool,
}

impl BatchRequest<'_> {
    /// Greedy, 128 tokens, no stops.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self::segments(vec![prompt])
    }

    /// As [`new`](Self::new), of a prompt in several pieces; empty ones are passed over.
    pub fn segments(segments: Vec<Vec<u32>>) -> Self {
        BatchRequest {
            segments,
            max_tokens: 128,
            sampler: Rc::new(Sampler::greedy()),
            processors: Vec::new(),
            stop: Vec::new(),
            caches: None,
            earlier: Vec::new(),
            logprobs: false,
        }
    }
}

/// The caches of one row, and the ids that they hold.
pub struct RowState {
    pub caches: Caches,
    pub tokens: Vec<u32>,
}

/// How far a prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptProgress {
    pub uid: usize,
    pub done: usize,
    pub total: usize,
    /// A segment ended here: [`BatchGenerator::extract`] gives the caches of exactly that much.
    pub end_of_segment: bool,
    /// The row's first token is under way.
    pub end_of_prompt: bool,
}

/// One token of one row.
pub struct BatchToken {
    pub uid: usize,
    pub id: u32,
    pub logprob: Option<f32>,
    pub finish: Option<FinishReason>,
    /// When the row has ended: its caches. They hold all tokens but the last.
    pub state: Option<RowState>,
}

/// What one turn of [`BatchGenerator::advance`] did.
#[derive(Default)]
pub struct BatchStep {
    pub prompts: Vec<PromptProgress>,
    pub tokens: Vec<BatchToken>,
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
    /// What was done since an earlier reading.
    pub fn since(&self, start: &BatchStats) -> BatchStats {
        BatchStats {
            prompt_tokens: self.prompt_tokens - start.prompt_tokens,
            prompt_time: self.prompt_time - start.prompt_time,
            generation_tokens: self.generation_tokens - start.generation_tokens,
            generation_time: self.generation_time - start.generation_time,
            steps: self.steps - start.steps,
        }
    }
}

/// A prompt that is queued or partly processed.
struct Prompt<'a> {
    row: Row<'a>,
    /// Only once processing has begun, or when the request brought some.
    caches: Option<Caches>,
    /// What is still to be processed; the very last id is a segment of its own.
    left: VecDeque<VecDeque<u32>>,
    done: usize,
    total: usize,
}

/// Generates for many prompts; see the module.
pub struct BatchGenerator<'a> {
    decoder: &'a Decoder,
    waiting: VecDeque<Prompt<'a>>,
    reading: Vec<Prompt<'a>>,
    groups: Vec<Group<'a>>,
    next_uid: usize,
    /// Rows that decode at the same time (`completion_batch_size`).
    pub max_rows: usize,
    /// Prompts that are read at the same time (`prefill_batch_size`).
    pub max_prompts: usize,
    /// Tokens of a prompt that are processed at once (`prefill_step_size`).
    pub prefill_step: usize,
    /// The caches of rows that bring none (`max_kv_size`).
    pub caches: CacheOptions,
    pub stats: BatchStats,
}

impl<'a> BatchGenerator<'a> {
    pub fn new(decoder: &'a Decoder) -> Self {
        BatchGenerator {
            decoder,
            waiting: VecDeque::new(),
            reading: Vec::new(),
            groups: Vec::new(),
            next_uid: 0,
            max_rows: 32,
            max_prompts: 8,
            prefill_step: 2048,
            caches: CacheOptions::default(),
            stats: BatchStats::default(),
        }
    }

    /// Queues a prompt; its tokens carry the returned number.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, no tokens to generate, options out of range, caches of another
    /// model.
    pub fn insert(&mut self, mut request: BatchRequest<'a>) -> Result<usize> {
        let vocab = self.decoder.blueprint().vocab;
        request.sampler.check(vocab as usize)?;
        if request.max_tokens == 0 {
            return Err(Error::Request("max_tokens must be at least 1".into()));
        }
        if let Some(caches) = &mut request.caches {
            self.decoder.check_caches(caches)?;
        }
        let mut segments = std::mem::take(&mut request.segments);
        segments.retain(|s| !s.is_empty());
        if let Some(id) = segments.iter().flatten().find(|&&id| id as i64 >= vocab as i64) {
            return Err(Error::Request(format!("token id {id} is not in the vocabulary of {vocab}")));
        }
        let mut left: VecDeque<VecDeque<u32>> = segments.into_iter().map(VecDeque::from).collect();
        let total = left.iter().map(VecDeque::len).sum();
        let Some(last) = left.back_mut().filter(|s| s.len() > 1).map(|s| s.pop_back()) else {
            if left.is_empty() {
                return Err(Error::Request("the prompt has no tokens".into()));
            }
            return Ok(self.queue(request, left, total));
        };
        left.push_back(last.into_iter().collect());
        Ok(self.queue(request, left, total))
    }

    fn queue(&mut self, mut request: BatchRequest<'a>, left: VecDeque<VecDeque<u32>>, total: usize) -> usize {
        let uid = self.next_uid;
        self.next_uid += 1;
        let (caches, history) = (request.caches.take(), std::mem::take(&mut request.earlier));
        let row = Row { uid, request, history, produced: 0 };
        self.waiting.push_back(Prompt { row, caches, left, done: 0, total });
        uid
    }

    /// The caches of a row at any stage, with the ids that they hold; `None` for a number that is not here, or whose
    /// prompt has not been begun.
    pub fn extract(&self, uid: usize) -> Result<Option<RowState>> {
        if let Some(p) = self.waiting.iter().chain(&self.reading).find(|p| p.row.uid == uid) {
            let copies = p.caches.clone();
            return Ok(copies.map(|caches| RowState { caches, tokens: p.row.history.clone() }));
        }
        let place = |g: &&Group<'a>| g.rows.iter().any(|r| r.uid == uid);
        self.groups.iter().find(place).map(|g| g.state_of(uid)).transpose()
    }

    /// Takes a row out, at any stage; its caches if it has any.
    pub fn remove(&mut self, uid: usize) -> Result<Option<RowState>> {
        let state = self.extract(uid)?;
        self.waiting.retain(|p| p.row.uid != uid);
        self.reading.retain(|p| p.row.uid != uid);
        for g in &mut self.groups {
            g.keep(|r| r.uid != uid)?;
        }
        self.groups.retain(|g| !g.rows.is_empty());
        Ok(state)
    }

    /// Rows waiting, being read and running.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.reading.len() + self.running()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn running(&self) -> usize {
        self.groups.iter().map(|g| g.rows.len()).sum()
    }

    /// Bytes of all caches (`prompt_cache_nbytes`).
    pub fn cache_nbytes(&self) -> usize {
        let prompts = self.waiting.iter().chain(&self.reading).flat_map(|p| p.caches.iter().flatten());
        prompts.chain(self.groups.iter().flat_map(|g| &g.caches)).map(|c| c.nbytes()).sum()
    }

    /// The next tokens: takes turns until there are some; empty when nothing is left (`next_generated`).
    pub fn step(&mut self) -> Result<Vec<BatchToken>> {
        while !self.is_empty() {
            let turn = self.advance()?;
            if !turn.tokens.is_empty() {
                return Ok(turn.tokens);
            }
        }
        Ok(Vec::new())
    }

    /// One turn (`next`): a token of every running row, then at most `prefill_step` tokens of every prompt that is being
    /// read, so that long prompts do not hold up those who generate.
    pub fn advance(&mut self) -> Result<BatchStep> {
        let mut out = BatchStep::default();
        let start = Instant::now();
        for g in &mut self.groups {
            g.advance(self.decoder, &mut out.tokens)?;
        }
        self.groups.retain(|g| !g.rows.is_empty());
        if !out.tokens.is_empty() {
            self.stats.generation_tokens += out.tokens.len();
            self.stats.generation_time += start.elapsed();
            self.stats.steps += 1;
            if self.stats.steps.is_multiple_of(512) {
                memory::clear_cache();
            }
        }
        let start = Instant::now();
        while self.reading.len() < self.max_prompts.max(1) && self.running() + self.reading.len() < self.max_rows.max(1)
        {
            let Some(p) = self.waiting.pop_front() else { break };
            self.reading.push(p);
        }
        let mut i = 0;
        while i < self.reading.len() {
            // a prompt that fails leaves, the others stay
            let mut p = self.reading.remove(i);
            let progress = self.read(&mut p)?;
            if progress.end_of_prompt {
                self.start(p)?;
            } else {
                self.reading.insert(i, p);
                i += 1;
            }
            out.prompts.push(progress);
        }
        if !out.prompts.is_empty() {
            self.stats.prompt_time += start.elapsed();
        }
        Ok(out)
    }

    /// Processes the next piece of a prompt; the last id is left for [`start`](Self::start).
    fn read(&mut self, p: &mut Prompt<'a>) -> Result<PromptProgress> {
        if p.caches.is_none() {
            p.caches = Some(self.decoder.caches_with(self.caches)?);
        }
        let only_last = p.left.len() == 1 && p.left[0].len() == 1;
        let mut end_of_segment = only_last;
        if !only_last && let (Some(segment), Some(caches)) = (p.left.front_mut(), &mut p.caches) {
            let n = segment.len().min(self.prefill_step.max(1));
            let ids: Vec<u32> = segment.drain(..n).collect();
            prefill(self.decoder, &ids, caches, n, &mut |_, _| {}, n)?;
            p.row.history.extend(ids);
            p.done += n;
            self.stats.prompt_tokens += n;
            if segment.is_empty() {
                p.left.pop_front();
                end_of_segment = true;
            }
        }
        let done = if only_last { p.total } else { p.done };
        Ok(PromptProgress { uid: p.row.uid, done, total: p.total, end_of_segment, end_of_prompt: only_last })
    }

    /// Feeds the last id of a prompt and lets the row join a group whose caches take it.
    fn start(&mut self, mut p: Prompt<'a>) -> Result<()> {
        let last = p.left.pop_front().and_then(|s| s.front().copied());
        let (Some(last), Some(mut caches)) = (last, p.caches.take()) else { return Ok(()) };
        p.row.history.push(last);
        let ids = Array::from_slice(&[last], [1, 1]);
        let next = Pending::forward(self.decoder, &ids, &mut caches, std::slice::from_mut(&mut p.row))?;
        self.stats.prompt_tokens += 1;
        let mut single = Group { rows: vec![p.row], caches, next };
        for g in &mut self.groups {
            match g.join(single)? {
                None => return Ok(()),
                Some(back) => single = back,
            }
        }
        self.groups.push(single);
        Ok(())
    }
}

/// What [`batch_generate`] gives for each prompt, in order.
#[derive(Default)]
pub struct BatchOutput {
    pub ids: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub stopped: bool,
    /// The row's caches at its end, and the ids that they hold.
    pub state: Option<RowState>,
}

/// Generates for all requests and returns when the last one ends; a stop sequence at the end is left out.
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
            o.state = t.state;
        }
    }
    Ok((outputs, generator.stats))
}
