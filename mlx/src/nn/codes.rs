//! Weights of codes: each stands for a vector of a book, and products look the vectors up block by block.

use super::module::Param;
use crate::error::refuse;
use crate::{Array, Dtype};

/// Bytes of a dense block of rows that a product with codes makes at once.
const BLOCK: i64 = 8 << 20;

/// Vectors [entries, D]; codes of E experts may have their own, [E, entries, D].
#[derive(Debug, Clone)]
pub(super) struct Book {
    pub vectors: Param,
}

impl Book {
    /// Panics where codes [out, in / D] or [E, out, in / D] and the book do not go together.
    #[track_caller]
    pub fn new(codes: &Array, vectors: Array) -> Book {
        let fits = match (codes.shape(), vectors.shape()) {
            ([_, _], [_, _]) => true,
            ([_, _, _], [_, _]) => true,
            ([e, _, _], [n, _, _]) => e == n,
            _ => false,
        };
        if !fits {
            refuse("codebook", format!("codes {:?} of vectors {:?}", codes.shape(), vectors.shape()));
        }
        Book { vectors: Param::sealed(vectors) }
    }

    /// D.
    pub fn width(&self) -> i32 {
        self.vectors.dim(-1)
    }

    /// The rows that codes [..., n] stand for, [..., n D]; of experts codes [E, ..., n].
    #[track_caller]
    pub fn rows(&self, codes: &Array) -> Array {
        match self.vectors.ndim() {
            2 => self.vectors.take(codes, 0).flatten(-2, -1),
            _ => self.expert_rows(codes, &crate::arange(0, self.vectors.dim(0), 1, Some(Dtype::Uint32))),
        }
    }

    /// The rows of codes [P, ..., n] of experts `[P]`.
    fn expert_rows(&self, codes: &Array, experts: &Array) -> Array {
        if self.vectors.ndim() == 2 {
            return self.rows(codes);
        }
        let axes: Vec<i32> = (1..codes.ndim() as i32).collect();
        let first = (experts.astype(Dtype::Uint32) * self.vectors.dim(1) as u32).expand_dims(axes);
        self.vectors.flatten(0, 1).take(&(codes.astype(Dtype::Uint32) + first), 0).flatten(-2, -1)
    }

    /// How many of `out` rows make a block, where each row has `copies` dense ones of `width`.
    fn block(&self, copies: i32, width: i32, out: i32) -> i32 {
        let row = i64::from(copies.max(1)) * i64::from(width.max(1)) * self.vectors.dtype().size() as i64;
        (BLOCK / row).clamp(1, i64::from(out.max(1))) as i32
    }

    /// x @ W.T for codes [out, in / D] block by block of rows: the dense weight never exists as a whole.
    #[track_caller]
    pub fn matmul(&self, x: &Array, codes: &Array) -> Array {
        let rows = |c: &Array| self.rows(c).astype(x.dtype());
        let block = self.block(1, codes.dim(1) * self.width(), codes.dim(0));
        blocks(codes, 0, block, |c| x.matmul(&rows(c).t()))
    }

    /// x [..., 1 or S, 1, in] with the experts [..., S] of codes [E, out, in / D]: [..., S, 1, out].
    ///
    /// Few pairs look up the rows of their own experts, many share the rows of all.
    #[track_caller]
    pub fn matmul_experts(&self, x: &Array, codes: &Array, experts: &Array, sorted: bool) -> Array {
        let [count, out, n] = codes.dims();
        let width = n * self.width();
        let pairs = experts.size() as i32;
        if pairs < count {
            let ids = experts.flatten(0, -1);
            let x = crate::broadcast_to(x, [experts.shape(), &[1, width]].concat()).reshape([pairs, 1, width]);
            let chosen = codes.take(&ids, 0);
            let y = blocks(&chosen, 1, self.block(pairs, width, out), |c| {
                x.matmul(&self.expert_rows(c, &ids).astype(x.dtype()).swapaxes(-1, -2))
            });
            return y.reshape([experts.shape(), &[1, out]].concat());
        }
        let all = crate::arange(0, count, 1, Some(Dtype::Uint32));
        blocks(codes, 1, self.block(count, width, out), |c| {
            let rows = self.expert_rows(c, &all).astype(x.dtype());
            crate::gather_mm(x, &rows.swapaxes(-1, -2), None, Some(experts), sorted)
        })
    }
}

/// The products of blocks of rows along `axis`, side by side.
fn blocks(codes: &Array, axis: i32, block: i32, product: impl Fn(&Array) -> Array) -> Array {
    let out = codes.dim(axis);
    let part = |at: i32| product(&codes.slice_axis(axis, at..out.min(at + block)));
    let parts: Vec<Array> = (0..out).step_by(block as usize).map(part).collect();
    crate::concatenate(&parts, -1)
}
