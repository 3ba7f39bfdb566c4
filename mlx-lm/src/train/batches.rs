//! Examples to padded batches, in Python's order.

use super::data::Dataset;
use super::shuffle::Shuffle;
use crate::{Error, Result};
use mlx::Array;

/// Token ids [B, T] padded with 0, and per row (first learned position, length) [B, 2], int32.
#[derive(Debug, Clone)]
pub struct Batch {
    pub ids: Array,
    pub lengths: Array,
    /// Lines of the file that the rows came from.
    pub lines: Vec<usize>,
}

/// Batches of a dataset: rows sorted as Python sorts them, whole batches only, shuffled anew each round.
#[derive(Debug, Clone)]
pub struct Batches {
    /// Example numbers of each batch.
    groups: Vec<Vec<usize>>,
    order: Vec<usize>,
    at: usize,
    shuffle: Shuffle,
    max_len: usize,
}

/// Rows are padded to one more than a multiple of this.
const PAD: usize = 32;

impl Batches {
    /// # Errors
    /// Fewer examples than `batch_size`.
    pub fn new(data: &Dataset, batch_size: usize, max_len: usize, shuffle: Shuffle) -> Result<Batches> {
        if data.len() < batch_size {
            return Err(Error::Request(format!(
                "the dataset has {} examples, fewer than batch_size {batch_size}",
                data.len()
            )));
        }
        let mut rows: Vec<usize> = (0..data.len()).collect();
        // Python sorts by the number of keys of the raw record; kept, so that batches are the same
        rows.sort_by_key(|&i| data.row_lengths[i]);
        let groups = rows.chunks_exact(batch_size).map(<[usize]>::to_vec).collect();
        Ok(Batches { groups, order: Vec::new(), at: 0, shuffle, max_len })
    }

    /// Number of batches in one round.
    pub fn len(&self) -> usize {
        self.groups.len()
    }
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The next batch, going round for ever.
    pub fn next(&mut self, data: &Dataset) -> Batch {
        if self.at == self.order.len() {
            self.order = self.shuffle.permutation(self.groups.len());
            self.at = 0;
        }
        let group = &self.groups[self.order[self.at]];
        self.at += 1;
        pad(data, group, self.max_len)
    }

    /// Skips `n` batches, as a run that resumes does.
    pub fn skip(&mut self, n: usize) {
        for _ in 0..n {
            if self.at == self.order.len() {
                self.order = self.shuffle.permutation(self.groups.len());
                self.at = 0;
            }
            self.at += 1;
        }
    }
}

fn pad(data: &Dataset, group: &[usize], max_len: usize) -> Batch {
    let longest = group.iter().map(|&i| data.examples[i].ids.len()).max().unwrap_or(0);
    let width = (1 + longest.div_ceil(PAD) * PAD).min(max_len);
    let (mut ids, mut lengths) = (vec![0i32; group.len() * width], Vec::with_capacity(2 * group.len()));
    for (row, &i) in group.iter().enumerate() {
        let e = &data.examples[i];
        let n = e.ids.len().min(max_len);
        for (slot, &id) in ids[row * width..].iter_mut().zip(&e.ids[..n]) {
            *slot = id as i32;
        }
        lengths.extend([e.offset as i32, n as i32]);
    }
    let b = group.len() as i32;
    Batch {
        ids: Array::from_slice(&ids, [b, width as i32]),
        lengths: Array::from_slice(&lengths, [b, 2]),
        lines: group.iter().map(|&i| data.examples[i].line).collect(),
    }
}
