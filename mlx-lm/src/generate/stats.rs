//! What a generation took: tokens, times, memory, counted as Python mlx-lm counts them.

use mlx::memory;
use std::fmt;
use std::time::{Duration, Instant};

/// Counts of one generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    pub prompt_tokens: usize,
    /// Prompt tokens per second until the first token was there.
    pub prompt_tps: f64,
    /// Tokens so far, an end-of-sequence token included.
    pub generation_tokens: usize,
    /// Tokens per second since the first one; 0 before the second.
    pub generation_tps: f64,
    /// Seconds from the call to the first token.
    pub time_to_first_token: f64,
    /// Highest memory of the process's arrays, in GB (10^9 bytes).
    pub peak_memory_gb: f64,
}

/// The three lines that mlx-lm prints after an answer.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Prompt: {} tokens, {:.3} tokens-per-sec", self.prompt_tokens, self.prompt_tps)?;
        writeln!(f, "Generation: {} tokens, {:.3} tokens-per-sec", self.generation_tokens, self.generation_tps)?;
        write!(f, "Peak memory: {:.3} GB", self.peak_memory_gb)
    }
}

/// Takes the times of one generation.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    first: Option<Instant>,
    last: Instant,
    prompt_tokens: usize,
    tokens: usize,
}

impl Clock {
    /// Starts with the processing of a prompt.
    pub fn start(prompt_tokens: usize) -> Self {
        let now = Instant::now();
        Clock { start: now, first: None, last: now, prompt_tokens, tokens: 0 }
    }

    /// A token is there.
    pub fn token(&mut self) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.tokens += 1;
    }

    pub fn stats(&self) -> Stats {
        let to_first = self.first.map_or(Duration::ZERO, |t| t - self.start);
        let after = self.first.map_or(Duration::ZERO, |t| self.last - t);
        Stats {
            prompt_tokens: self.prompt_tokens,
            prompt_tps: rate(self.prompt_tokens, to_first),
            generation_tokens: self.tokens,
            generation_tps: if self.tokens > 1 { rate(self.tokens, after) } else { 0.0 },
            time_to_first_token: to_first.as_secs_f64(),
            peak_memory_gb: memory::peak_memory() as f64 / 1e9,
        }
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}
