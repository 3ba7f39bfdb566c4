//! A decode step over pages: full ones that stay as they are, and an open one that the step writes.

use super::cuda::{self, attention};
use super::decode::counters;
use super::{DecodeAttention, KvBuffers, Place};
use crate::error::refuse;
use crate::{Array, Dtype, concatenate};
use smallvec::SmallVec;

/// Most pages that one launch takes.
const MOST: usize = 64;

impl KvBuffers {
    /// Whether one kernel does [`attend_pages`](Self::attend_pages) behind `full` pages.
    pub fn is_pages_supported(&self, full: usize, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        super::backend::has_layer_kernels() && full < MOST && self.arrays.len() == 2 && self.is_supported(dtype, a)
    }

    /// [`attend`](Self::attend) with these buffers as the open page behind `full` pages (keys, values) of the same shape.
    /// Places count from the first page on.
    #[track_caller]
    pub fn attend_pages(
        &mut self,
        qkv: &Array,
        full: &[(&Array, &Array)],
        place: Place<'_>,
        a: &DecodeAttention<'_>,
    ) -> Array {
        let (size, before) = (self.capacity(), full.len() as i32);
        let (Place::At(slot) | Place::Padded(slot, _)) = place else { refuse("attend_pages", "pages are no ring") };
        let same = |x: &Array| x.shape() == self.arrays[0].shape() && x.dtype() == self.arrays[0].dtype();
        if self.arrays.len() != 2 || slot / size != before || !full.iter().all(|p| same(p.0) && same(p.1)) {
            refuse(
                "attend_pages",
                format!("{place:?} and {before} full pages of {size} tokens do not belong together"),
            );
        }
        let own = match place {
            Place::Padded(slot, starts) => Place::Padded(slot % size, starts),
            _ => Place::At(slot % size),
        };
        self.check(qkv.shape(), own, a);
        if self.is_pages_supported(full.len(), qkv.dtype(), a)
            && !full.iter().flat_map(|p| [p.0, p.1]).chain([qkv, &self.arrays[0]]).any(super::backend::is_traced)
            && let Some(gpu) = cuda::current_gpu()
        {
            self.own();
            let groups = self.rows() * a.kv_heads;
            let counters = counters(&mut self.counters, groups);
            // few lengths of the list, so few kernels; what is behind the open page is never read
            let count = (full.len() + 1).next_power_of_two();
            let list = |side: usize| {
                let open = &self.arrays[side];
                let pages = full.iter().map(move |p| if side == 0 { p.0 } else { p.1 });
                pages.chain(std::iter::repeat_n(open, count - full.len()))
            };
            let buffers: SmallVec<[&Array; 32]> = list(0).chain(list(1)).collect();
            let out = attention::attend(gpu, qkv, (&buffers, None, Some(size)), counters, place, a);
            drop(buffers);
            if let Some(out) = out {
                self.began(&out);
                return out;
            }
        }
        self.attend_pages_plain(qkv, full, place, a)
    }

    /// [`attend_pages`](Self::attend_pages) from plain ops, over all pages joined.
    #[track_caller]
    pub fn attend_pages_plain(
        &mut self,
        qkv: &Array,
        full: &[(&Array, &Array)],
        place: Place<'_>,
        a: &DecodeAttention<'_>,
    ) -> Array {
        self.settle();
        let size = self.capacity();
        let join = |side: usize| {
            let pages = full.iter().map(|p| if side == 0 { p.0 } else { p.1 });
            concatenate(&pages.chain([&self.arrays[side]]).cloned().collect::<Vec<_>>(), 2)
        };
        let mut joined = KvBuffers::new(join(0), join(1));
        let out = joined.attend_plain(qkv, place, a);
        let (keys, values) = joined.into_arrays();
        let open = |x: &Array| crate::contiguous(&x.slice_axis(2, x.dim(2) - size..x.dim(2)));
        (self.arrays[0], self.arrays[1]) = (open(&keys), open(&values));
        self.foreign = true;
        out
    }
}
