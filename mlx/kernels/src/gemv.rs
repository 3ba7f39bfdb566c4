//! Products with few rows of x (decode): memory-bound, so codes are unpacked in registers right where they are used, a few rows of
//! w at a time. Three forms: codes of 2, 4 and 8 bits by masks over whole words (x is permuted to meet them), other codes in order,
//! and dense weights in their own width.

use crate::data::{Floats, Out};
use crate::decode::{group_row, prefetch_groups, widen};
use crate::isa::{Isa, Kernel};
use crate::prepare::{Layout, Prepared};
use crate::quant::{Matrix, Quantized};
use crate::scratch::Temp;
use crate::simd::{Elem, FP4, FP8, Simd, add_elems, add_row, bits, load_upto, narrow_row, with_elem};

/// Rows whose scales are widened at a time (a multiple of every R).
const SPAN: usize = 16;

/// How many bytes ahead weights are prefetched: whole blocks of rows, enough of them to cover the latency of memory.
fn ahead(block: usize) -> usize {
    block * 3072usize.div_ceil(block.max(1))
}

/// Rows `n0 .. n1` of an expert's w times up to `MB` prepared rows of x.
#[derive(Clone, Copy)]
pub(crate) struct Gemv<'a> {
    pub w: &'a Matrix<'a>,
    pub prepared: Prepared,
    /// First row of the expert in w.
    pub row0: usize,
    pub n0: usize,
    pub n1: usize,
    /// Rows of the result have this many elements, and the first of ours is here.
    pub n: usize,
    pub place: usize,
    /// Prepared rows, `prepared.row_len()` apart, and which of them to use.
    pub x: *const f32,
    pub x_rows: &'a [u32],
    /// Where each of the rows goes.
    pub out_rows: &'a [u32],
    pub out: Out,
    pub bias: Option<(Floats<'a>, usize)>,
    /// Added last: as the result.
    pub residual: Option<Floats<'a>>,
}

impl Gemv<'_> {
    /// # Safety
    /// Sizes were checked: w rows, prepared x, out rows and bias are inside their buffers.
    pub unsafe fn run(mut self, isa: Isa) {
        unsafe {
            let (mut rest, mut x_rest) = (self.out_rows, self.x_rows);
            while !rest.is_empty() {
                let (mb, take) = match rest.len() {
                    1 => (1, 1),
                    2 => (2, 2),
                    n => (4, n.min(4)),
                };
                (self.out_rows, self.x_rows) = (&rest[..take], &x_rest[..take]);
                match mb {
                    1 => self.blocks::<1, 4>(isa),
                    2 => self.blocks::<2, 2>(isa),
                    _ => self.blocks::<4, 2>(isa),
                }
                (rest, x_rest) = (&rest[take..], &x_rest[take..]);
            }
        }
    }
    unsafe fn blocks<const MB: usize, const R: usize>(self, isa: Isa) {
        unsafe {
            match self.w {
                Matrix::Dense { data, .. } => {
                    with_elem!(data.dtype(), T => isa.run(Dense::<T, MB, R>(self, data.at(0).cast())))
                }
                Matrix::Quantized(q) => match self.prepared.layout {
                    Layout::Nibbles if q.mode.code() == FP4 => isa.run(Nibbles::<true, MB, R>(self, q)),
                    Layout::Nibbles => isa.run(Nibbles::<false, MB, R>(self, q)),
                    Layout::Slots { code: 2 } => isa.run(Slots::<2, MB, R>(self, q)),
                    Layout::Slots { code: 4 } => isa.run(Slots::<4, MB, R>(self, q)),
                    Layout::Slots { code: FP4 } => isa.run(Slots::<FP4, MB, R>(self, q)),
                    Layout::Slots { .. } => isa.run(Slots::<8, MB, R>(self, q)),
                    Layout::Plain => match q.mode.code() {
                        3 => isa.run(Codes::<3, MB, R>(self, q)),
                        5 => isa.run(Codes::<5, MB, R>(self, q)),
                        6 => isa.run(Codes::<6, MB, R>(self, q)),
                        _ => isa.run(Codes::<FP8, MB, R>(self, q)),
                    },
                },
            }
        }
    }
    /// Pointers to the rows of x, the last repeated.
    #[inline(always)]
    fn xs<const MB: usize>(&self) -> [*const f32; MB] {
        std::array::from_fn(|m| {
            let row = self.x_rows[m.min(self.x_rows.len() - 1)];
            self.x.wrapping_add(row as usize * self.prepared.row_len())
        })
    }
    /// Write the block `y[MB][n1 - n0]`.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, y: *mut f32) {
        unsafe {
            let (out, nn) = (self.out, self.n1 - self.n0);
            let bias = self.bias.map(|(b, from)| {
                let mut t = Temp::new(nn);
                widen::<S>(b, from + self.n0, nn, t.ptr());
                t
            });
            for (m, row) in self.out_rows.iter().enumerate() {
                let y = y.add(m * nn);
                if let Some(b) = &bias {
                    add_row::<S>(y, b.as_ptr(), nn);
                }
                let at = *row as usize * self.n + self.place;
                if let Some(r) = self.residual {
                    with_elem!(r.dtype(), T => add_elems::<S, T>(y, r.at(at).cast(), nn));
                }
                with_elem!(out.dtype, T => narrow_row::<S, T>(y, out.at(at).cast(), nn));
            }
        }
    }
    /// Put the results of rows n .. n + rows into the block.
    #[inline(always)]
    unsafe fn keep<const MB: usize, const R: usize>(&self, block: *mut f32, n: usize, rows: usize, y: [[f32; R]; MB]) {
        for m in 0..MB {
            for r in 0..rows {
                unsafe { *block.add(m * (self.n1 - self.n0) + n - self.n0 + r) = y[m][r] }
            }
        }
    }
    /// Walk the rows R at a time, with their scales and biases in f32 a row of groups apart. What is read beyond a row's groups
    /// belongs to the next row or is zero, and meets zeros.
    #[inline(always)]
    unsafe fn walk<S: Simd, B: Body<MB, R>, const MB: usize, const R: usize>(&self, q: &Quantized<'_>, body: &B) {
        unsafe {
            let groups = q.row_groups();
            let len = SPAN * groups + 32;
            let mut temp = Temp::new(2 * len + MB * (self.n1 - self.n0));
            let s = temp.ptr();
            let b = s.add(len);
            let block = b.add(len);
            let mut n = self.n0;
            while n < self.n1 {
                let span = SPAN.min(self.n1 - n);
                group_row::<S>(q, self.row0 + n, 0, span * groups, s, b);
                if n + span < self.n1 {
                    prefetch_groups::<S>(q, self.row0 + n + span, span * groups);
                }
                for t in [s, b] {
                    std::slice::from_raw_parts_mut(t.add(span * groups), 32).fill(0.0);
                }
                let mut i = 0;
                while i < span {
                    let rows = R.min(span - i);
                    let mut w = [std::ptr::null(); R];
                    let mut sr = [s.cast_const(); R];
                    let mut br = [b.cast_const(); R];
                    for r in 0..R {
                        let row = i + r.min(rows - 1);
                        w[r] = q.words.as_ptr().add((self.row0 + n + row) * q.row_bytes());
                        sr[r] = s.add(row * groups);
                        br[r] = b.add(row * groups);
                    }
                    let y = body.rows::<S>(w, sr, br);
                    self.keep(block, n + i, rows, y);
                    i += rows;
                }
                n += span;
            }
            self.finish::<S>(block);
        }
    }
    /// Lane sums of the accumulators plus the biases' part.
    #[inline(always)]
    unsafe fn close<S: Simd, const MB: usize, const R: usize>(
        &self,
        acc: [[S::F; R]; MB],
        b: [*const f32; R],
        xs: [*const f32; MB],
        groups: usize,
    ) -> [[f32; R]; MB] {
        unsafe {
            let mut y = [[0f32; R]; MB];
            for m in 0..MB {
                let sums = xs[m].add(self.prepared.x_len);
                for r in 0..R {
                    let mut a = acc[m][r];
                    let mut g = 0;
                    while g < groups {
                        a = S::fma(S::load(b[r].add(g)), S::load(sums.add(g)), a);
                        g += S::N;
                    }
                    y[m][r] = S::sum(a);
                }
            }
            y
        }
    }
}

/// The product of R packed rows with MB rows of x.
trait Body<const MB: usize, const R: usize> {
    unsafe fn rows<S: Simd>(&self, w: [*const u8; R], s: [*const f32; R], b: [*const f32; R]) -> [[f32; R]; MB];
}

/// Codes of 2, 4 or 8 bits: lane l of a vector of words meets slot i of word l by a mask (by a table for small floats).
struct Slots<'a, const CODE: u32, const MB: usize, const R: usize>(Gemv<'a>, &'a Quantized<'a>);

impl<const CODE: u32, const MB: usize, const R: usize> Kernel for Slots<'_, CODE, MB, R> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe { self.0.walk::<S, Self, MB, R>(self.1, &self) }
    }
}

impl<const CODE: u32, const MB: usize, const R: usize> Body<MB, R> for Slots<'_, CODE, MB, R> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, w: [*const u8; R], s: [*const f32; R], b: [*const f32; R]) -> [[f32; R]; MB] {
        let (g, q) = (&self.0, self.1);
        unsafe {
            let width = bits(CODE);
            let per = 32 / width;
            let words = q.cols / per;
            let group_words = q.mode.group() / per;
            let xs = g.xs::<MB>();
            let ahead = ahead(R * q.row_bytes());
            {
                let mut acc = [[S::splat(0.0); R]; MB];
                let mut at = 0;
                while at < words {
                    let left = words - at;
                    let mut wv = [S::isplat(0); R];
                    for r in 0..R {
                        let p = w[r].add(4 * at);
                        S::prefetch(p.wrapping_add(ahead));
                        wv[r] = if left >= S::N { S::iload(p.cast()) } else { S::iload_n(p.cast(), left) };
                    }
                    let mut sums = [[S::splat(0.0); R]; MB];
                    for i in 0..per {
                        let mut xv = [S::splat(0.0); MB];
                        for m in 0..MB {
                            xv[m] = S::load(xs[m].add(at * per + i * S::N));
                        }
                        for r in 0..R {
                            let v = if CODE == FP4 {
                                S::fp4(S::ishr(wv[r], 4 * i as u32))
                            } else if i == per - 1 {
                                S::to_f(S::ishr(wv[r], 32 - width as u32))
                            } else {
                                S::to_f(S::iand(wv[r], S::isplat(((1 << width) - 1) << (width * i))))
                            };
                            for m in 0..MB {
                                sums[m][r] = S::fma(v, xv[m], sums[m][r]);
                            }
                        }
                    }
                    for r in 0..R {
                        let sv = S::spread(s[r].add(at / group_words), group_words);
                        for m in 0..MB {
                            acc[m][r] = S::fma(sums[m][r], sv, acc[m][r]);
                        }
                    }
                    at += S::N;
                }
                g.close::<S, MB, R>(acc, b, xs, q.row_groups())
            }
        }
    }
}

/// Four-bit codes with bf16 x: nibbles to bf16 by a table, exact products summed in f32 by the dot instruction.
struct Nibbles<'a, const FLOAT: bool, const MB: usize, const R: usize>(Gemv<'a>, &'a Quantized<'a>);

impl<const FLOAT: bool, const MB: usize, const R: usize> Kernel for Nibbles<'_, FLOAT, MB, R> {
    type Out = ();
    const DOTS_BF16: bool = true;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe { self.0.walk::<S, Self, MB, R>(self.1, &self) }
    }
}

impl<const FLOAT: bool, const MB: usize, const R: usize> Body<MB, R> for Nibbles<'_, FLOAT, MB, R> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, w: [*const u8; R], s: [*const f32; R], b: [*const f32; R]) -> [[f32; R]; MB] {
        let (g, q) = (&self.0, self.1);
        if const { !S::DOTS_BF16 } {
            return [[0.0; R]; MB]; // `Prepared::new` chooses this layout only with the instruction
        }
        unsafe {
            let words = q.cols / 8;
            let group_words = q.mode.group() / 8;
            let xs = g.xs::<MB>();
            let ahead = ahead(R * q.row_bytes());
            {
                let mut acc = [[S::splat(0.0); R]; MB];
                let mut at = 0;
                while at < words {
                    let left = words - at;
                    let mut wv = [S::isplat(0); R];
                    for r in 0..R {
                        let p = w[r].add(4 * at);
                        S::prefetch(p.wrapping_add(ahead));
                        wv[r] = if left >= S::N { S::iload(p.cast()) } else { S::iload_n(p.cast(), left) };
                    }
                    let mut sums = [[S::splat(0.0); R]; MB];
                    for i in 0..4 {
                        let mut xv = [S::isplat(0); MB];
                        for m in 0..MB {
                            xv[m] = S::iload((xs[m] as *const u16).add(at * 8 + i * 32).cast());
                        }
                        for r in 0..R {
                            // bits from the next nibbles up do not reach the table's index: they are masked off
                            let v = S::nibbles_to_bf16::<FLOAT>(S::ishr(wv[r], 4 * i as u32));
                            for m in 0..MB {
                                sums[m][r] = S::dot_bf16(sums[m][r], v, xv[m]);
                            }
                        }
                    }
                    for r in 0..R {
                        let sv = S::spread(s[r].add(at / group_words), group_words);
                        for m in 0..MB {
                            acc[m][r] = S::fma(sums[m][r], sv, acc[m][r]);
                        }
                    }
                    at += S::N;
                }
                g.close::<S, MB, R>(acc, b, xs, q.row_groups())
            }
        }
    }
}

/// Any code, unpacked in order.
struct Codes<'a, const CODE: u32, const MB: usize, const R: usize>(Gemv<'a>, &'a Quantized<'a>);

impl<const CODE: u32, const MB: usize, const R: usize> Kernel for Codes<'_, CODE, MB, R> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe { self.0.walk::<S, Self, MB, R>(self.1, &self) }
    }
}

impl<const CODE: u32, const MB: usize, const R: usize> Body<MB, R> for Codes<'_, CODE, MB, R> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, w: [*const u8; R], s: [*const f32; R], b: [*const f32; R]) -> [[f32; R]; MB] {
        let (g, q) = (&self.0, self.1);
        unsafe {
            let (group, groups) = (q.mode.group(), q.row_groups());
            let step = bits(CODE) * S::N / 8;
            let xs = g.xs::<MB>();
            let ahead = ahead(R * q.row_bytes());
            let mut w = w;
            {
                let mut acc = [[S::splat(0.0); R]; MB];
                for gi in 0..groups {
                    let mut sums = [[S::splat(0.0); R]; MB];
                    let mut k = 0;
                    while k < group {
                        let mut xv = [S::splat(0.0); MB];
                        for m in 0..MB {
                            xv[m] = S::load(xs[m].add(gi * group + k));
                        }
                        for r in 0..R {
                            let v = S::unpack::<CODE>(w[r]);
                            w[r] = w[r].add(step);
                            for m in 0..MB {
                                sums[m][r] = S::fma(v, xv[m], sums[m][r]);
                            }
                        }
                        k += S::N;
                    }
                    for r in 0..R {
                        S::prefetch(w[r].wrapping_add(ahead));
                        let sv = S::splat(*s[r].add(gi));
                        for m in 0..MB {
                            acc[m][r] = S::fma(sums[m][r], sv, acc[m][r]);
                        }
                    }
                }
                g.close::<S, MB, R>(acc, b, xs, groups)
            }
        }
    }
}

/// Dense weights, widened in registers.
struct Dense<'a, T, const MB: usize, const R: usize>(Gemv<'a>, *const T);

impl<T: Elem, const MB: usize, const R: usize> Kernel for Dense<'_, T, MB, R> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.0;
        unsafe {
            let k = g.w.cols();
            let ahead = ahead(R * k * size_of::<T>());
            let xs = g.xs::<MB>();
            let mut temp = Temp::new(MB * (g.n1 - g.n0));
            let block = temp.ptr();
            let mut n = g.n0;
            while n < g.n1 {
                let rows = R.min(g.n1 - n);
                let mut w = [self.1; R];
                for r in 0..R {
                    w[r] = self.1.add((g.row0 + n + r.min(rows - 1)) * k);
                }
                let mut acc = [[S::splat(0.0); R]; MB];
                let mut i = 0;
                while i < k {
                    let mut xv = [S::splat(0.0); MB];
                    for m in 0..MB {
                        xv[m] = S::load(xs[m].add(i));
                    }
                    for r in 0..R {
                        let p = w[r].add(i);
                        S::prefetch(p.cast::<u8>().wrapping_add(ahead));
                        let v = if k - i >= S::N { T::load::<S>(p) } else { load_upto::<S, T>(p, k - i) };
                        for m in 0..MB {
                            acc[m][r] = S::fma(v, xv[m], acc[m][r]);
                        }
                    }
                    i += S::N;
                }
                let mut y = [[0f32; R]; MB];
                for m in 0..MB {
                    for r in 0..R {
                        y[m][r] = S::sum(acc[m][r]);
                    }
                }
                g.keep(block, n, rows, y);
                n += rows;
            }
            g.finish::<S>(block);
        }
    }
}
