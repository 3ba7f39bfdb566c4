//! A model on a thread of its own, for programs with many threads or an async runtime: arrays never leave that thread,
//! prompts and text cross it through channels.
//!
//! ```no_run
//! # async fn f() -> mlx_lm::Result<()> {
//! use mlx_lm::engine::{Engine, Options, Prompt};
//! let engine = Engine::start("model")?;
//! let mut answer = engine.submit(Prompt::Text("Once upon a time".into()), Options::default());
//! while let Some(event) = answer.next().await {
//!     print!("{}", event?.text);
//! }
//! # Ok(())
//! # }
//! ```

mod events;

pub use events::Events;

use crate::chat::Message;
use crate::generate::{FinishReason, LanguageModel, Sampler, Stats, StreamOptions, TokenOptions, load};
use crate::{Error, Result};
use events::Sender;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// What is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Ids(Vec<u32>),
    /// Plain text, as it is.
    Text(String),
    /// A conversation, rendered by the model's chat template.
    Chat(Vec<Message>),
}

/// How it is continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub max_tokens: usize,
    /// 0 takes the most likely token.
    pub temp: f32,
    pub top_p: f32,
    pub min_p: f32,
    /// 0 is all.
    pub top_k: usize,
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_tokens: 256, temp: 0.0, top_p: 1.0, min_p: 0.0, top_k: 0, seed: None, stop: vec![] }
    }
}

/// One step of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Text that became certain, possibly none.
    pub text: String,
    pub token: u32,
    /// Set on the last event.
    pub finish_reason: Option<FinishReason>,
    pub stats: Stats,
}

struct Job {
    prompt: Prompt,
    options: Options,
    events: Sender,
}

/// A running model; answers are generated one after the other, in the order of submission. Dropping it waits for the
/// answer under way to notice, and ends the thread.
pub struct Engine {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Loads a model directory or GGUF file on a new thread and waits until it is ready.
    pub fn start(path: impl Into<PathBuf>) -> Result<Engine> {
        let path = path.into();
        Self::start_with(move || load(path))
    }

    /// As [`start`](Self::start), with a model from `load`, which runs on the new thread.
    ///
    /// # Errors
    /// What `load` returns.
    pub fn start_with(load: impl FnOnce() -> Result<LanguageModel> + Send + 'static) -> Result<Engine> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, loaded) = mpsc::sync_channel(1);
        let run = move || {
            let lm = match load() {
                Ok(lm) => lm,
                Err(e) => {
                    // the other end waits for it
                    let _ = ready.send(Err(e));
                    return;
                }
            };
            if ready.send(Ok(())).is_err() {
                return;
            }
            drop(ready);
            for job in inbox {
                let Job { prompt, options, events } = job;
                if let Err(e) = answer(&lm, prompt, options, &events) {
                    events.send(Err(e));
                }
            }
        };
        let thread = std::thread::Builder::new().name("mlx engine".into()).spawn(run);
        let thread = thread.map_err(|e| Error::Request(format!("no thread for the engine: {e}")))?;
        match loaded.recv() {
            Ok(Ok(())) => Ok(Engine { jobs: Some(jobs), thread: Some(thread) }),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::Request("the engine's thread ended while it loaded the model".into())),
        }
    }

    /// Queues a prompt. Dropping the events cancels the answer; errors come as events.
    pub fn submit(&self, prompt: Prompt, options: Options) -> Events {
        let (events, receiver) = events::channel();
        let job = Job { prompt, options, events };
        if let Some(Err(mpsc::SendError(job))) = self.jobs.as_ref().map(|j| j.send(job)) {
            job.events.send(Err(Error::Request("the engine's thread has ended".into())));
        }
        receiver
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // a panic there was reported by its hook
            let _ = thread.join();
        }
    }
}

fn answer(lm: &LanguageModel, prompt: Prompt, options: Options, events: &Sender) -> Result<()> {
    if events.is_cancelled() {
        return Ok(());
    }
    let ids = match prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => lm.text_ids(&text)?,
        Prompt::Chat(messages) => lm.chat_ids(&messages)?,
    };
    let mut sampler = Sampler::temperature(options.temp);
    sampler.top_p = options.top_p;
    sampler.min_p = options.min_p;
    sampler.top_k = options.top_k;
    if let Some(seed) = options.seed {
        sampler = sampler.seeded(seed);
    }
    let tokens = TokenOptions { max_tokens: Some(options.max_tokens), sampler, ..TokenOptions::default() };
    let mut caches = lm.caches()?;
    let stream = StreamOptions { tokens, stop: options.stop, ignore_eos: false };
    for response in lm.stream(&ids, &mut caches, stream)? {
        let r = response?;
        let (text, token, finish_reason, stats) = (r.text, r.token, r.finish_reason, r.stats);
        if !events.send(Ok(Event { text, token, finish_reason, stats })) {
            break;
        }
    }
    Ok(())
}
