//! Recurrent state: a few arrays of fixed size.

use super::{Cache, Position, State, take_rows};
use crate::{Error, Result};
use mlx::{self as mx, Array};

/// Slots for convolution tails and recurrent states (`ArraysCache`).
#[derive(Debug, Clone)]
pub struct Slots {
    slots: Vec<Option<Array>>,
    /// Tokens seen, by each row, or by all alike.
    seen: Vec<i32>,
}

impl Slots {
    pub fn new(n: usize) -> Self {
        Slots { slots: vec![None; n], seen: vec![0] }
    }
    /// The state in slot `i`; `None` before the first token.
    pub fn get(&self, i: usize) -> Option<&Array> {
        self.slots.get(i)?.as_ref()
    }
    /// Takes the state out, so that the update can reuse its buffer.
    pub fn take(&mut self, i: usize) -> Option<Array> {
        self.slots.get_mut(i)?.take()
    }
    pub fn set(&mut self, i: usize, state: Array) {
        if i >= self.slots.len() {
            self.slots.resize(i + 1, None);
        }
        self.slots[i] = Some(state);
    }
    /// Counts `n` more tokens.
    pub fn advance(&mut self, n: i32) {
        self.seen.iter_mut().for_each(|s| *s += n);
    }
    /// Where the next token of each row stands.
    pub fn position(&self) -> Position {
        match self.seen[..] {
            [n] => Position::At(n),
            _ => Position::Rows(Array::from(self.seen.clone())),
        }
    }
    /// Tokens seen by each of `rows` rows.
    fn seen_by(&self, rows: usize) -> Vec<i32> {
        if self.seen.len() == 1 { vec![self.seen[0]; rows] } else { self.seen.clone() }
    }
    /// Row counts, one number where they agree.
    fn set_seen(&mut self, seen: Vec<i32>) {
        let first = seen.first().copied().unwrap_or(0);
        self.seen = if seen.iter().all(|&s| s == first) { vec![first] } else { seen };
    }
}

impl Cache for Slots {
    fn kind(&self) -> &'static str {
        "ArraysCache"
    }
    fn offset(&self) -> i32 {
        self.seen.iter().copied().max().unwrap_or(0)
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.slots.iter().flatten().for_each(f);
    }
    fn trim(&mut self, n: i32) -> i32 {
        if self.slots.is_empty() { n } else { 0 }
    }
    /// A layer without state forgets nothing.
    fn is_trimmable(&self) -> bool {
        self.slots.is_empty()
    }
    fn is_stateless(&self) -> bool {
        self.slots.is_empty()
    }
    fn as_slots(&mut self) -> Option<&mut Slots> {
        Some(self)
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let mine = self.rows();
        let theirs = other.rows();
        let Some(o) = other.as_any_mut().downcast_mut::<Slots>() else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let n = self.slots.len().max(o.slots.len());
        self.slots.resize(n, None);
        o.slots.resize(n, None);
        for (a, b) in self.slots.iter_mut().zip(std::mem::take(&mut o.slots)) {
            // a row that has seen nothing starts from zeros
            let empty = |like: &Array, rows: usize| {
                let mut shape = like.shape().to_vec();
                shape[0] = rows as i32;
                mx::zeros(shape, like.dtype())
            };
            *a = match (a.take(), b) {
                (None, None) => None,
                (Some(a), Some(b)) => Some(mx::concatenate(&[a, b], 0)),
                (Some(a), None) => Some(mx::concatenate(&[a.clone(), empty(&a, theirs)], 0)),
                (None, Some(b)) => Some(mx::concatenate(&[empty(&b, mine), b], 0)),
            };
        }
        let seen = self.seen_by(mine).into_iter().chain(o.seen_by(theirs)).collect();
        self.set_seen(seen);
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        if self.seen.len() > 1 {
            self.set_seen(rows.iter().filter_map(|&r| self.seen.get(r).copied()).collect());
        }
        for s in self.slots.iter_mut().flatten() {
            *s = take_rows(s, rows);
        }
        Ok(())
    }
    fn state(&self) -> State {
        let slots = self.slots.iter().map(|s| s.clone().map_or(State::None, State::Array)).collect();
        State::List(vec![State::List(slots), State::None, State::None])
    }
}

impl Slots {
    pub(super) fn from_state(s: &State) -> Option<Slots> {
        let slots = s.item(0)?.list()?.iter().map(|i| i.array().cloned()).collect();
        Some(Slots { slots, seen: vec![0] })
    }
    /// Continues behind `n` tokens, which the file of a recurrent state does not tell.
    pub(super) fn continue_at(&mut self, n: i32) {
        self.seen = vec![n];
    }
}
