//! Rows that decode together: one forward pass, then each row's own processors, sampler and stops.

use super::batch::{BatchRequest, BatchToken, RowState};
use super::processors::log_softmax;
use super::stream::FinishReason;
use crate::Result;
use crate::cache::Caches;
use crate::decoder::Decoder;
use mlx::{self as mx, Array};
use std::rc::Rc;

pub(super) struct Row<'a> {
    pub uid: usize,
    pub request: BatchRequest<'a>,
    /// All ids so far: what the caches held before, the prompt, and the tokens.
    pub history: Vec<u32>,
    pub produced: usize,
}

/// Rows that share caches, and their next tokens under way.
pub(super) struct Group<'a> {
    pub rows: Vec<Row<'a>>,
    pub caches: Caches,
    pub next: Pending,
}

/// Tokens `[B]` under way, and log-probabilities [B, V] where a row wants them.
pub(super) struct Pending {
    ids: Array,
    logprobs: Option<Array>,
}

impl Pending {
    /// One step on ids [B, 1]: logits, processors and samplers per row; started, not waited for.
    pub fn forward(decoder: &Decoder, ids: &Array, caches: &mut Caches, rows: &mut [Row<'_>]) -> Result<Pending> {
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

    /// Rows of both; log-probabilities only where both have some.
    fn join(&self, other: &Pending) -> Result<Pending> {
        Ok(mx::catch(|| Pending {
            ids: mx::concatenate(&[&self.ids, &other.ids], 0),
            logprobs: self.logprobs.as_ref().zip(other.logprobs.as_ref()).map(|(a, b)| mx::concatenate(&[a, b], 0)),
        })?)
    }
}

impl<'a> Group<'a> {
    /// Takes the row of another group in; gives it back where the caches do not go together, unchanged.
    pub fn join(&mut self, single: Group<'a>) -> Result<Option<Group<'a>>> {
        // joined copies: a cache that refuses leaves the group as it was
        let mut joined: Caches = self.caches.clone();
        let fits = joined.iter_mut().zip(&single.caches).try_for_each(|(a, b)| a.join(b.boxed_clone()));
        if fits.is_err() || single.next.logprobs.is_some() != self.next.logprobs.is_some() {
            return Ok(Some(single));
        }
        self.next = self.next.join(&single.next)?;
        self.caches = joined;
        self.rows.extend(single.rows);
        Ok(None)
    }

    /// Reads the tokens under way, starts the next step, and reports; rows that have ended leave.
    pub fn advance(&mut self, decoder: &Decoder, out: &mut Vec<BatchToken>) -> Result<()> {
        let ids = self.next.ids.to_vec::<u32>()?;
        let logprobs: Vec<Option<f32>> = match &self.next.logprobs {
            None => vec![None; ids.len()],
            Some(all) => {
                let at = Array::from_slice(&ids, [ids.len() as i32, 1]);
                mx::catch(|| mx::take_along_axis(all, &at, -1))?.to_vec::<f32>()?.into_iter().map(Some).collect()
            }
        };
        let mut finish = Vec::with_capacity(ids.len());
        for (row, &id) in self.rows.iter_mut().zip(&ids) {
            row.history.push(id);
            row.produced += 1;
            let generated = &row.history[row.history.len() - row.produced..];
            finish.push(match row.request.stop.iter().any(|s| !s.is_empty() && generated.ends_with(s)) {
                true => Some(FinishReason::Stop),
                false => (row.produced >= row.request.max_tokens).then_some(FinishReason::Length),
            });
        }
        for (i, (row, &id)) in self.rows.iter().zip(&ids).enumerate() {
            let state = finish[i].map(|_| self.state(i, 1)).transpose()?;
            let logprob = logprobs[i].filter(|_| row.request.logprobs);
            out.push(BatchToken { uid: row.uid, id, logprob, finish: finish[i], state });
        }
        let mut ended = finish.iter().map(Option::is_some);
        self.keep(|_| !ended.next().unwrap_or(false))?;
        if !self.rows.is_empty() {
            let ids = mx::catch(|| self.next.ids.reshape([-1, 1]))?;
            self.next = Pending::forward(decoder, &ids, &mut self.caches, &mut self.rows)?;
        }
        Ok(())
    }

    /// The caches of row `i`, which hold all its ids but the last `ahead`.
    fn state(&self, i: usize, ahead: usize) -> Result<RowState> {
        let caches = match self.rows.len() {
            1 => self.caches.clone(),
            _ => self.caches.iter().map(|c| mx::try_catch(|| c.row(i))).collect::<Result<_>>()?,
        };
        let history = &self.rows[i].history;
        Ok(RowState { caches, tokens: history[..history.len() - ahead].to_vec() })
    }

    /// The caches of a running row; the token under way is not in them.
    pub fn state_of(&self, uid: usize) -> Result<RowState> {
        let i = self.rows.iter().position(|r| r.uid == uid).unwrap_or(0);
        self.state(i, 0)
    }

    /// Keeps the rows that `f` accepts.
    pub fn keep(&mut self, mut f: impl FnMut(&Row<'a>) -> bool) -> Result<()> {
        let kept: Vec<usize> = (0..self.rows.len()).filter(|&i| f(&self.rows[i])).collect();
        if kept.len() == self.rows.len() {
            return Ok(());
        }
        let mut i = 0;
        self.rows.retain(|_| {
            i += 1;
            kept.contains(&(i - 1))
        });
        if kept.is_empty() {
            return Ok(());
        }
        for c in &mut self.caches {
            mx::try_catch(|| c.keep_rows(&kept))?;
        }
        let at = Array::from(kept.iter().map(|&k| k as i32).collect::<Vec<_>>());
        self.next = mx::catch(|| Pending {
            ids: self.next.ids.take(&at, 0),
            logprobs: self.next.logprobs.as_ref().map(|l| l.take(&at, 0)),
        })?;
        Ok(())
    }
}
