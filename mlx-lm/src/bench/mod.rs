//! Timing a model as `mlx_lm.benchmark` does: random prompts, no end of sequence, one warm-up, then trials; beside
//! another program ([`compare`]); where the time of a decoded token goes ([`profile`]); and training steps ([`train`]).

mod compare;
mod llama_cpp;
mod profile;
mod python;
mod training;

pub use compare::{Comparison, Other, OtherTrial, Ratios, Spread, compare};
pub use profile::{Profile, profile, read_bandwidth};
pub use training::{TrainBenchmark, TrainOptions, train};

use crate::decoder::{Decoder, eval_caches};
use crate::generate::{Clock, TokenOptions, Tokens};
use crate::{Error, Result};
use mlx::{self as mx, Array, Dtype, memory};

/// What is timed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct BenchOptions {
    pub prompt_tokens: usize,
    pub generation_tokens: usize,
    /// Sequences at once, all of the same length.
    pub batch_size: usize,
    /// Counted runs, after one that is not.
    pub num_trials: usize,
    /// Prompt tokens that are processed at once.
    pub prefill_step: usize,
}

impl Default for BenchOptions {
    fn default() -> Self {
        BenchOptions { prompt_tokens: 512, generation_tokens: 1024, batch_size: 1, num_trials: 5, prefill_step: 2048 }
    }
}

/// One run; rates count the tokens of all sequences.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Trial {
    pub prompt_tps: f64,
    pub generation_tps: f64,
    pub time_to_first_token: f64,
    pub peak_memory_gb: f64,
}

/// Medians, and the runs behind them.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Benchmark {
    pub prompt_tps: f64,
    pub generation_tps: f64,
    pub time_to_first_token: f64,
    pub peak_memory_gb: f64,
    #[serde(flatten)]
    pub options: BenchOptions,
    pub trials: Vec<Trial>,
}

/// Runs the benchmark; `each` sees every counted trial as it ends.
///
/// # Errors
/// Options of zero, a failing evaluation.
pub fn run(decoder: &Decoder, options: BenchOptions, each: &mut dyn FnMut(usize, &Trial)) -> Result<Benchmark> {
    options.check()?;
    one(decoder, &options)?;
    let mut trials = Vec::with_capacity(options.num_trials);
    for i in 1..=options.num_trials {
        let trial = one(decoder, &options)?;
        each(i, &trial);
        trials.push(trial);
    }
    Ok(Benchmark::new(options, trials))
}

impl BenchOptions {
    fn check(&self) -> Result<()> {
        if [self.prompt_tokens, self.generation_tokens, self.batch_size, self.num_trials].contains(&0) {
            return Err(Error::Request(
                "a benchmark needs at least one prompt token, token, sequence and trial".into(),
            ));
        }
        Ok(())
    }
}

impl Benchmark {
    fn new(options: BenchOptions, trials: Vec<Trial>) -> Self {
        let of = |value: fn(&Trial) -> f64| median(trials.iter().map(value));
        Benchmark {
            prompt_tps: of(|t| t.prompt_tps),
            generation_tps: of(|t| t.generation_tps),
            time_to_first_token: of(|t| t.time_to_first_token),
            peak_memory_gb: of(|t| t.peak_memory_gb),
            options,
            trials,
        }
    }
}

/// The middle value, or the mean of the two; 0 of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.into_iter().collect();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n => (v[(n - 1) / 2] + v[n / 2]) / 2.0,
    }
}

/// One run, with its own peak of memory.
fn one(decoder: &Decoder, o: &BenchOptions) -> Result<Trial> {
    let ids = random_ids(decoder.blueprint().vocab, o.batch_size * o.prompt_tokens);
    memory::reset_peak_memory();
    let trial = if o.batch_size == 1 { single(decoder, &ids, o)? } else { batch(decoder, &ids, o)? };
    memory::clear_cache();
    Ok(trial)
}

/// Ids below `vocab`, the same every time (splitmix64).
fn random_ids(vocab: i32, n: usize) -> Vec<u32> {
    let mut state = 0u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n).map(|_| (next() % vocab.max(1) as u64) as u32).collect()
}

/// The ordinary way of one sequence.
fn single(decoder: &Decoder, ids: &[u32], o: &BenchOptions) -> Result<Trial> {
    let mut caches = decoder.caches()?;
    let options =
        TokenOptions { max_tokens: Some(o.generation_tokens), prefill_step: o.prefill_step, ..TokenOptions::default() };
    let mut clock = Clock::start(ids.len());
    for token in Tokens::new(decoder, ids, &mut caches, options)? {
        token?;
        clock.token();
    }
    Ok(trial(&clock, 1))
}

/// Rows of equal length through plain caches, greedy, one step under way.
fn batch(decoder: &Decoder, ids: &[u32], o: &BenchOptions) -> Result<Trial> {
    let (b, l) = (o.batch_size as i32, o.prompt_tokens as i32);
    let mut caches = decoder.caches()?;
    let mut clock = Clock::start(o.prompt_tokens);
    let all = Array::from_slice(ids, [b, l]);
    let (mut at, step) = (0, o.prefill_step.clamp(1, i32::MAX as usize) as i32);
    while at < l - 1 {
        let to = (l - 1).min(at + step);
        mx::catch(|| decoder.hidden(&all.slice_axis(1, at..to), &mut caches))?;
        eval_caches(&caches)?;
        memory::clear_cache();
        at = to;
    }
    let mut forward = |ids: &Array| -> Result<Array> {
        let next = mx::catch(|| decoder.forward_last(ids, &mut caches).argmax(-1).astype(Dtype::Uint32))?;
        mx::async_eval([&next])?;
        Ok(next)
    };
    let mut current = forward(&mx::catch(|| all.slice_axis(1, l - 1..l))?)?;
    for i in 0..o.generation_tokens {
        let next =
            if i + 1 < o.generation_tokens { Some(forward(&mx::catch(|| current.reshape([b, 1]))?)?) } else { None };
        current.to_vec::<u32>()?;
        clock.token();
        match next {
            Some(n) => current = n,
            None => break,
        }
    }
    Ok(trial(&clock, o.batch_size))
}

fn trial(clock: &Clock, rows: usize) -> Trial {
    let s = clock.stats();
    Trial {
        prompt_tps: s.prompt_tps * rows as f64,
        generation_tps: s.generation_tps * rows as f64,
        time_to_first_token: s.time_to_first_token,
        peak_memory_gb: s.peak_memory_gb,
    }
}
