//! Examples to batches: which ones go together, padded or packed into rows, in numpy's random order.

use super::config::{BatchOrder, LoraConfig};
use super::data::{Dataset, Example};
use super::shuffle::Shuffle;
use crate::{Error, Result};
use mlx::Array;

/// Token ids [B, T] padded with 0, and per row (first learned position, length) [B, 2], int32.
#[derive(Debug, Clone)]
pub struct Batch {
    pub ids: Array,
    pub lengths: Array,
    /// Rows of several examples; `lengths` then says nothing.
    pub packed: Option<Packed>,
    /// Lines of the file that the rows came from.
    pub lines: Vec<usize>,
}

/// Examples that share rows.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Number of the example at each input [B, T - 1], int32; 0 is padding.
    pub segments: Array,
    /// Whether the token after each input is learned [B, T - 1], bool.
    pub learned: Array,
}

/// Batches of a dataset: whole ones only, shuffled anew each round.
#[derive(Debug, Clone)]
pub struct Batches {
    /// Rows of each batch, each of one or more example numbers.
    groups: Vec<Vec<Vec<usize>>>,
    order: Vec<usize>,
    at: usize,
    shuffle: Shuffle,
    max_len: usize,
    packed: bool,
}

/// Rows are padded to one more than a multiple of this.
const PAD: usize = 32;

impl Batches {
    /// # Errors
    /// Fewer rows than `batch_size`.
    pub fn new(data: &Dataset, c: &LoraConfig) -> Result<Batches> {
        Self::grouped(data, c, c.pack)
    }

    /// As [`new`](Self::new), one example a row.
    pub fn unpacked(data: &Dataset, c: &LoraConfig) -> Result<Batches> {
        Self::grouped(data, c, false)
    }

    fn grouped(data: &Dataset, c: &LoraConfig, packed: bool) -> Result<Batches> {
        let length = |i: usize| data.examples[i].ids.len().min(c.max_seq_length);
        let mut rows: Vec<Vec<usize>> = match packed {
            true => pack(data.len(), length, c.max_seq_length),
            false => (0..data.len()).map(|i| vec![i]).collect(),
        };
        if rows.len() < c.batch_size {
            return Err(Error::Request(format!(
                "the dataset has {} {}, fewer than batch_size {}",
                rows.len(),
                if packed { "packed rows" } else { "examples" },
                c.batch_size
            )));
        }
        match c.batch_order {
            BatchOrder::Python if !packed => rows.sort_by_key(|r| data.row_lengths.get(r[0]).copied()),
            _ => rows.sort_by_key(|r| r.iter().map(|&i| length(i)).sum::<usize>()),
        }
        let groups = rows.chunks_exact(c.batch_size).map(<[_]>::to_vec).collect();
        let shuffle = Shuffle::new(c.seed as u32);
        Ok(Batches { groups, order: Vec::new(), at: 0, shuffle, max_len: c.max_seq_length, packed })
    }

    /// Number of batches in one round.
    pub fn len(&self) -> usize {
        self.groups.len()
    }
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn advance(&mut self) -> usize {
        if self.at == self.order.len() {
            self.order = self.shuffle.permutation(self.groups.len());
            self.at = 0;
        }
        self.at += 1;
        self.order[self.at - 1]
    }

    /// The next batch, going round for ever.
    pub fn next(&mut self, data: &Dataset) -> Batch {
        let group = self.advance();
        let rows: Vec<Vec<&Example>> =
            self.groups[group].iter().map(|r| r.iter().map(|&i| &data.examples[i]).collect()).collect();
        batch(&rows, self.max_len, self.packed)
    }

    /// Skips `n` batches, as a run that resumes does.
    pub fn skip(&mut self, n: usize) {
        for _ in 0..n {
            self.advance();
        }
    }
}

/// Examples 0..n to rows of at most `room` tokens: longest first, each into the first row where it fits.
fn pack(n: usize, length: impl Fn(usize) -> usize, room: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(length(i)));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    // rows before this one have no room for the shortest example
    let least = order.last().map_or(0, |&i| length(i));
    let mut open = 0;
    for i in order {
        let need = length(i);
        while rows.get(open).is_some_and(|(left, _)| *left < least) {
            open += 1;
        }
        match rows[open..].iter_mut().find(|(left, _)| *left >= need) {
            Some((left, row)) => {
                *left -= need;
                row.push(i);
            }
            None => rows.push((room - need, vec![i])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

/// A batch of rows.
pub(super) fn batch(rows: &[Vec<&Example>], max_len: usize, packed: bool) -> Batch {
    let taken = |e: &Example| e.ids.len().min(max_len);
    let total = |row: &Vec<&Example>| row.iter().map(|e| taken(e)).sum::<usize>();
    let longest = rows.iter().map(total).max().unwrap_or(0);
    let width = (1 + longest.div_ceil(PAD) * PAD).min(max_len);
    let b = rows.len();
    let mut ids = vec![0i32; b * width];
    let mut lengths = Vec::with_capacity(2 * b);
    let inputs = width - 1;
    let (mut segments, mut learned) = (vec![0i32; b * inputs], vec![false; b * inputs]);
    for (r, row) in rows.iter().enumerate() {
        let mut at = 0;
        for (k, e) in row.iter().enumerate() {
            let n = taken(e);
            for (j, &id) in e.ids[..n].iter().enumerate() {
                ids[r * width + at + j] = id as i32;
                if at + j < inputs {
                    segments[r * inputs + at + j] = k as i32 + 1;
                }
                if j >= e.offset.max(1) {
                    learned[r * inputs + at + j - 1] = true;
                }
            }
            at += n;
        }
        lengths.extend([row.first().map_or(0, |e| e.offset) as i32, at as i32]);
    }
    let shape = [b as i32, inputs as i32];
    Batch {
        ids: Array::from_slice(&ids, [b as i32, width as i32]),
        lengths: Array::from_slice(&lengths, [b as i32, 2]),
        packed: packed.then(|| Packed {
            segments: Array::from_slice(&segments, shape),
            learned: Array::from_slice(&learned, shape),
        }),
        lines: rows.iter().flatten().map(|e| e.line).collect(),
    }
}
