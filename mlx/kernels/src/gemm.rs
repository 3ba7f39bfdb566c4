//! Products with many rows of x (prefill): a block of columns of the result at a time. Rows of w are decoded, transposed into
//! panels `[k][columns]`, and met by panels of x `[k][rows]` in register tiles. With bf16 x and the dot instruction both panels hold
//! pairs of bf16 (codes are exact in bf16; scales and biases are applied in f32 once per group).

use crate::data::{Floats, Out};
use crate::decode::{group_row, matrix_row, row_bf16, widen};
use crate::isa::{Isa, Kernel};
use crate::quant::Matrix;
use crate::scratch::Temp;
use crate::simd::{Simd, add_row, narrow_row, transpose, with_elem};

/// Depth of a panel: what stays in the first cache together with a panel of x.
pub(crate) const KC: usize = 256;

/// Rows of x in a panel.
pub(crate) fn panel_rows(isa: Isa) -> usize {
    if isa.many_registers() { 12 } else { 6 }
}
/// Columns of the result in a block.
pub(crate) fn block_cols(isa: Isa) -> usize {
    2 * isa.lanes()
}

/// acc[m][n] over k steps: `a[k * lda + m * rs]` (broadcast) times `b[k * ldb + n]`.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, const M: usize, const NV: usize>(
    a: *const f32,
    rs: usize,
    lda: usize,
    b: *const f32,
    ldb: usize,
    k: usize,
    acc: &mut [[S::F; NV]; M],
) {
    unsafe {
        for i in 0..k {
            let mut bv = [S::splat(0.0); NV];
            for v in 0..NV {
                bv[v] = S::load(b.add(i * ldb + v * S::N));
            }
            for m in 0..M {
                let av = S::splat(*a.add(i * lda + m * rs));
                for v in 0..NV {
                    acc[m][v] = S::fma(av, bv[v], acc[m][v]);
                }
            }
        }
    }
}

/// As [`tile`] over pairs of bf16, one pair per step.
#[inline(always)]
unsafe fn tile_bf16<S: Simd, const M: usize, const NV: usize>(
    a: *const u32,
    lda: usize,
    b: *const u32,
    ldb: usize,
    k: usize,
    acc: &mut [[S::F; NV]; M],
) {
    unsafe {
        for i in 0..k {
            let mut bv = [S::isplat(0); NV];
            for v in 0..NV {
                bv[v] = S::iload(b.add(i * ldb + v * S::N));
            }
            for m in 0..M {
                let av = S::isplat(*a.add(i * lda + m));
                for v in 0..NV {
                    acc[m][v] = S::dot_bf16(acc[m][v], av, bv[v]);
                }
            }
        }
    }
}

/// How x is packed: panels of `rows` rows, each `[k][rows]` words; a word is an f32 or a pair of bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packing {
    pub rows: usize,
    pub pairs: bool,
    /// Words along k.
    pub depth: usize,
    /// With pairs of a packed w: per panel `[groups][rows]` sums of x over groups after the words.
    pub groups: usize,
    pub group: usize,
}

impl Packing {
    pub fn new(isa: Isa, w: &Matrix<'_>, x_bf16: bool) -> Packing {
        let (quantised, dense_bf16) = match w {
            Matrix::Quantized(q) => (Some(q), false),
            Matrix::Dense { .. } => (None, w.dense_type() == Some(crate::data::DType::BF16)),
        };
        let pairs = isa.dots_bf16() && x_bf16 && (quantised.is_some() || dense_bf16);
        let depth = if pairs { w.cols().div_ceil(2) } else { w.cols() };
        let (groups, group) = match quantised {
            Some(q) if pairs => (q.row_groups(), q.mode.group()),
            _ => (0, 0),
        };
        Packing { rows: panel_rows(isa), pairs, depth, groups, group }
    }
    pub fn panel_len(&self) -> usize {
        self.rows * (self.depth + self.groups)
    }
}

/// Pack one panel of x.
pub(crate) struct Pack<'a> {
    pub packing: Packing,
    pub x: Floats<'a>,
    pub k: usize,
    /// Rows of x that make the panel; fewer than `packing.rows` leave zeros.
    pub x_rows: &'a [u32],
    pub dst: *mut f32,
}

impl Kernel for Pack<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let p = self.packing;
            let rows8 = p.rows.next_multiple_of(8);
            let k8 = self.k.next_multiple_of(16);
            // a word row is at most k8 floats; the transposed block has rows8 columns
            let mut temp = Temp::new(rows8 * k8 + k8 * rows8 + 16);
            temp.slice()[..rows8 * k8].fill(0.0);
            let plain = temp.ptr();
            let turned = plain.add(rows8 * k8);
            for (r, row) in self.x_rows.iter().enumerate() {
                let (from, dst) = (*row as usize * self.k, plain.add(r * k8));
                if p.pairs {
                    std::ptr::copy_nonoverlapping(self.x.at(from), dst.cast::<u8>(), 2 * self.k);
                } else {
                    widen::<S>(self.x, from, self.k, dst);
                }
            }
            transpose::<S>(plain.cast(), k8, turned.cast(), rows8, rows8, p.depth.next_multiple_of(8));
            for i in 0..p.depth {
                std::ptr::copy_nonoverlapping(turned.add(i * rows8), self.dst.add(i * p.rows), p.rows);
            }
            let sums = self.dst.add(p.depth * p.rows);
            for g in 0..p.groups {
                for r in 0..p.rows {
                    let mut acc = 0.0;
                    if r < self.x_rows.len() {
                        let at = (plain.add(r * k8) as *const u16).add(g * p.group);
                        for i in 0..p.group {
                            acc += f32::from_bits(u32::from(*at.add(i)) << 16);
                        }
                    }
                    *sums.add(g * p.rows + r) = acc;
                }
            }
        }
    }
}

/// Columns `n0 .. n1` of the result (at most `block_cols`) for the rows of some panels.
pub(crate) struct Gemm<'a> {
    pub w: &'a Matrix<'a>,
    pub packing: Packing,
    pub row0: usize,
    pub n0: usize,
    pub n1: usize,
    pub n: usize,
    /// First panel.
    pub x: *const f32,
    /// Where the rows of the panels go.
    pub out_rows: &'a [u32],
    pub out: Out,
    pub bias: Option<(Floats<'a>, usize)>,
}

impl Kernel for Gemm<'_> {
    type Out = ();
    const DOTS_BF16: bool = true;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let nb = 2 * S::N;
            let (m, k, p) = (self.out_rows.len(), self.w.cols(), self.packing);
            let panels = m.div_ceil(p.rows);
            // result block, decoded rows, their transposed panel, scales and biases `[groups of KC][nb]` each and one row of them
            let (c_len, groups) = (panels * p.rows * nb, KC / 16);
            let mut temp = Temp::new(c_len + 2 * nb * KC + 2 * groups * nb + 4 * groups + nb);
            let c = temp.ptr();
            let rows = c.add(c_len);
            let panel = rows.add(nb * KC);
            let scales = panel.add(nb * KC);
            let biases = scales.add(groups * nb);
            let small = biases.add(groups * nb);
            temp.slice()[..c_len + nb * KC].fill(0.0);
            let nn = self.n1 - self.n0;
            let mut k0 = 0;
            while k0 < k {
                let kc = KC.min(k - k0);
                let words = if p.pairs { kc.div_ceil(2) } else { kc };
                if !kc.is_multiple_of(16) {
                    std::slice::from_raw_parts_mut(rows, nb * KC).fill(0.0);
                }
                for r in 0..nn {
                    let (row, dst) = (self.row0 + self.n0 + r, rows.add(r * KC));
                    if !p.pairs {
                        matrix_row::<S>(self.w, row, k0, kc, small, dst);
                        continue;
                    }
                    row_bf16::<S>(self.w, row, k0, kc, dst.cast());
                    if let Matrix::Quantized(q) = self.w {
                        let n = kc / p.group;
                        group_row::<S>(q, row, k0 / p.group, n, small, small.add(n));
                        for g in 0..n {
                            *scales.add(g * nb + r) = *small.add(g);
                            *biases.add(g * nb + r) = *small.add(n + g);
                        }
                    }
                }
                transpose::<S>(rows.cast(), KC, panel.cast(), nb, nb, words.next_multiple_of(8));
                for i in 0..panels {
                    let x = self.x.add(i * p.panel_len());
                    let step = Step {
                        x: x.add(p.rows * if p.pairs { k0 / 2 } else { k0 }),
                        sums: x.add(p.rows * (p.depth + if p.groups > 0 { k0 / p.group } else { 0 })),
                        panel,
                        scales,
                        biases,
                        words,
                        packing: p,
                        c: c.add(i * p.rows * nb),
                    };
                    step.rows::<S>((m - i * p.rows).min(p.rows));
                }
                k0 += KC;
            }
            let out = self.out;
            let bias = small.add(4 * groups);
            if let Some((b, from)) = self.bias {
                widen::<S>(b, from + self.n0, nn, bias);
            }
            for (i, row) in self.out_rows.iter().enumerate() {
                let at = *row as usize * self.n + self.n0;
                let src = c.add(i * nb);
                if self.bias.is_some() {
                    add_row::<S>(src, bias, nn);
                }
                with_elem!(out.dtype, T => narrow_row::<S, T>(src, out.at(at).cast(), nn));
            }
        }
    }
}

/// One panel of x against one panel of w.
struct Step {
    x: *const f32,
    sums: *const f32,
    panel: *const f32,
    scales: *const f32,
    biases: *const f32,
    words: usize,
    packing: Packing,
    c: *mut f32,
}

impl Step {
    /// The first `rows` rows of the panel, with the smallest tile that covers them.
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, rows: usize) {
        unsafe {
            if const { S::N == 16 } {
                match rows {
                    0..=4 => self.tile::<S, 4>(12),
                    5..=8 => self.tile::<S, 8>(12),
                    _ => self.tile::<S, 12>(12),
                }
            } else {
                match rows {
                    0..=3 => self.tile::<S, 3>(6),
                    _ => self.tile::<S, 6>(6),
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(&self, ld: usize) {
        unsafe {
            let nb = 2 * S::N;
            if const { S::DOTS_BF16 } && self.packing.groups > 0 {
                let steps = self.packing.group / 2;
                for g in 0..self.words / steps {
                    let mut acc = [[S::splat(0.0); 2]; M];
                    let at = g * steps;
                    tile_bf16::<S, M, 2>(
                        self.x.add(at * ld).cast(),
                        ld,
                        self.panel.add(at * nb).cast(),
                        nb,
                        steps,
                        &mut acc,
                    );
                    for v in 0..2 {
                        let sv = S::load(self.scales.add(g * nb + v * S::N));
                        let bv = S::load(self.biases.add(g * nb + v * S::N));
                        for m in 0..M {
                            let c = self.c.add(m * nb + v * S::N);
                            let sum = S::splat(*self.sums.add(g * ld + m));
                            S::store(c, S::fma(acc[m][v], sv, S::fma(sum, bv, S::load(c))));
                        }
                    }
                }
                return;
            }
            let mut acc = [[S::splat(0.0); 2]; M];
            for m in 0..M {
                for v in 0..2 {
                    acc[m][v] = S::load(self.c.add(m * nb + v * S::N));
                }
            }
            if const { S::DOTS_BF16 } && self.packing.pairs {
                tile_bf16::<S, M, 2>(self.x.cast(), ld, self.panel.cast(), nb, self.words, &mut acc);
            } else {
                tile::<S, M, 2>(self.x, 1, ld, self.panel, nb, self.words, &mut acc);
            }
            for m in 0..M {
                for v in 0..2 {
                    S::store(self.c.add(m * nb + v * S::N), acc[m][v]);
                }
            }
        }
    }
}
