//! Changes to logits before sampling (`mlx_lm.sample_utils.make_logits_processors`).

use mlx::{self as mx, Array, Dtype};

/// Maps the ids so far and logits [1, V] to new logits.
pub trait Processor {
    fn apply(&mut self, ids: &[u32], logits: Array) -> Array;
}

impl<F: FnMut(&[u32], Array) -> Array> Processor for F {
    fn apply(&mut self, ids: &[u32], logits: Array) -> Array {
        self(ids, logits)
    }
}

/// The built-in processors, applied in this order; `None` and 0 switch one off.
#[derive(Debug, Clone, Default)]
pub struct Processors {
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides positive and multiplies negative logits of ids seen among the last `repetition_context`.
    pub repetition_penalty: Option<f32>,
    pub repetition_context: Option<usize>,
    /// Subtracted once from ids seen.
    pub presence_penalty: Option<f32>,
    pub presence_context: Option<usize>,
    /// Subtracted for each time an id was seen.
    pub frequency_penalty: Option<f32>,
    pub frequency_context: Option<usize>,
}

/// How many ids a penalty looks back when nothing is said.
const CONTEXT: usize = 20;

fn tail(ids: &[u32], n: Option<usize>) -> &[u32] {
    &ids[ids.len().saturating_sub(n.unwrap_or(CONTEXT))..]
}

/// Ids once each, with their counts, as far as they are in the vocabulary.
fn counts(ids: &[u32], vocab: i32) -> (Array, Vec<f32>) {
    let mut seen: Vec<(u32, f32)> = Vec::new();
    for &id in ids.iter().filter(|&&id| (id as i32) < vocab) {
        match seen.iter_mut().find(|(s, _)| *s == id) {
            Some((_, n)) => *n += 1.0,
            None => seen.push((id, 1.0)),
        }
    }
    let (ids, n): (Vec<u32>, Vec<f32>) = seen.into_iter().unzip();
    let len = ids.len() as i32;
    (Array::from_slice(&ids, [1, len]), n)
}

fn subtract(logits: &Array, at: &Array, by: Vec<f32>) -> Array {
    let by = Array::from_slice(&by, [1, by.len() as i32]).astype(logits.dtype());
    let old = mx::take_along_axis(logits, at, -1);
    mx::put_along_axis(logits, at, old - by, -1)
}

impl Processors {
    pub fn is_empty(&self) -> bool {
        let on = |p: Option<f32>| p.is_some_and(|p| p != 0.0);
        self.logit_bias.is_empty()
            && !on(self.repetition_penalty)
            && !on(self.presence_penalty)
            && !on(self.frequency_penalty)
    }
}

impl Processor for Processors {
    fn apply(&mut self, ids: &[u32], mut logits: Array) -> Array {
        let vocab = logits.dim(-1);
        if !self.logit_bias.is_empty() {
            let mut add = vec![0.0f32; vocab as usize];
            for (id, bias) in &self.logit_bias {
                if let Some(a) = add.get_mut(*id as usize) {
                    *a += bias;
                }
            }
            logits = &logits + Array::from_slice(&add, [1, vocab]).astype(logits.dtype());
        }
        if let Some(p) = self.repetition_penalty.filter(|&p| p != 0.0) {
            let (at, n) = counts(tail(ids, self.repetition_context), vocab);
            if !n.is_empty() {
                let old = mx::take_along_axis(&logits, &at, -1);
                let new = mx::where_(old.lt(0), &old * p, &old / p);
                logits = mx::put_along_axis(&logits, &at, new, -1);
            }
        }
        if let Some(p) = self.presence_penalty.filter(|&p| p != 0.0) {
            let (at, n) = counts(tail(ids, self.presence_context), vocab);
            if !n.is_empty() {
                logits = subtract(&logits, &at, vec![p; n.len()]);
            }
        }
        if let Some(p) = self.frequency_penalty.filter(|&p| p != 0.0) {
            let (at, n) = counts(tail(ids, self.frequency_context), vocab);
            if !n.is_empty() {
                logits = subtract(&logits, &at, n.into_iter().map(|n| n * p).collect());
            }
        }
        logits
    }
}

/// log softmax over the last axis.
pub(super) fn log_softmax(logits: &Array) -> Array {
    let x = if logits.dtype() == Dtype::Float32 { logits.clone() } else { logits.astype(Dtype::Float32) };
    &x - x.logsumexp_keepdims(-1)
}
