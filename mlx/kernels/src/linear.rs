//! A linear layer of few rows with what surrounds it, as one job: an RMS norm before, several matrices side by side, a gated activation
//! or a residual sum after. A decode step is made of these, so what counts besides the bytes of the weights is how often threads meet:
//! once.

use crate::data::{DType, Floats, FloatsMut, Out, Scratch};
use crate::error::{Error, Result, room, same};
use crate::gemv::Gemv;
use crate::isa::Isa;
use crate::matmul::{GEMV_BYTES, GEMV_ROWS, SERIAL};
use crate::norm::rms_norm_on;
use crate::pointwise::{Gate, gated_piece};
use crate::pool::{parallel, threads};
use crate::prepare::{Prepare, Prepared};
use crate::quant::Matrix;
use crate::scratch::Temp;

/// Most matrices of one layer.
const PARTS: usize = 4;

/// Arguments of [`linear`].
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// `[M, K]`, M at most 8.
    pub x: Floats<'a>,
    pub m: usize,
    /// x becomes `rms_norm(x)` with this weight `[K]` and epsilon, rounded to the type of x.
    pub norm: Option<(Floats<'a>, f32)>,
    /// Matrices `[N, K]` with their biases `[N]`: results lie side by side.
    pub parts: &'a [(Matrix<'a>, Option<Floats<'a>>)],
    /// The results are a gate and an up half, of one part or of two: `act(gate) * up`.
    pub gate: Option<Gate>,
    /// Added last.
    pub residual: Option<Floats<'a>>,
}

/// `out[M, N] = x @ w^T` with what [`Linear`] puts around it, sums in f32, any mix of types.
///
/// # Errors
/// Sizes that do not fit together, more than 8 rows or 4 parts.
pub fn linear(l: &Linear<'_>, out: FloatsMut<'_>) -> Result<()> {
    linear_on(Isa::best(), l, out)
}

/// [`linear`] with a given instruction set.
///
/// # Errors
/// As [`linear`].
pub fn linear_on(isa: Isa, l: &Linear<'_>, mut out: FloatsMut<'_>) -> Result<()> {
    let Some((first, _)) = l.parts.first() else {
        return Err(Error::Unsupported { what: "parts", why: "there are none" });
    };
    if l.m > GEMV_ROWS || l.parts.len() > PARTS {
        return Err(Error::Unsupported { what: "rows or parts", why: "more than 8 or 4" });
    }
    let k = first.cols();
    room("x", Some(l.m * k), l.x.len())?;
    for (w, bias) in l.parts {
        same("columns of the parts", k, w.cols())?;
        if let Some(b) = bias {
            room("bias", Some(w.rows()), b.len())?;
        }
    }
    let rows: usize = l.parts.iter().map(|(w, _)| w.rows()).sum();
    let n = if l.gate.is_some() { rows / 2 } else { rows };
    if l.gate.is_some() {
        same("rows of gate and up", 2 * n, rows)?;
        if l.parts.len() > 1 {
            same("parts of gate and up", 2, l.parts.len())?;
            same("rows of the gate", n, first.rows())?;
        }
    }
    room("out", Some(l.m * n), out.len())?;
    if let Some(r) = l.residual {
        room("residual", Some(l.m * n), r.len())?;
    }
    let mut normed = Temp::new(if l.norm.is_some() { l.m * k } else { 0 });
    let mut x = l.x;
    if let Some((weight, eps)) = l.norm {
        let p = normed.ptr().cast::<u8>();
        // SAFETY: the scratch holds m * k numbers of four bytes; it is written, then read
        let (dst, src) =
            unsafe { (FloatsMut::from_raw(p, l.m * k, x.dtype()), Floats::from_raw(p, l.m * k, x.dtype())) };
        // SAFETY: m rows of k lie inside x
        let rows = unsafe { Floats::from_raw(x.at(0), l.m * k, x.dtype()) };
        rms_norm_on(isa, rows, k, Some(weight), eps, dst)?;
        x = src;
    }
    // SAFETY: all sizes were checked.
    unsafe { Call { isa, l, x, k, n, out: out.out() }.run() };
    Ok(())
}

struct Call<'a> {
    isa: Isa,
    l: &'a Linear<'a>,
    /// After the norm.
    x: Floats<'a>,
    k: usize,
    n: usize,
    out: Out,
}

/// x as one matrix wants it.
#[derive(Clone, Copy)]
struct Laid {
    prepared: Prepared,
    group: usize,
    x: Scratch<f32>,
}

impl Call<'_> {
    /// # Safety
    /// All sizes fit.
    unsafe fn run(&self) {
        let m = self.l.m;
        if m == 0 || self.n == 0 {
            return;
        }
        // parts of one format read x in one layout
        let wanted = |w: &Matrix<'_>| {
            let group = if let Matrix::Quantized(q) = w { q.mode.group() } else { 1 };
            (Prepared::new(self.isa, w, self.x.dtype() == DType::BF16), group)
        };
        let mut temps: [Option<Temp>; PARTS] = Default::default();
        let mut laid: [Option<Laid>; PARTS] = [None; PARTS];
        for (i, (w, _)) in self.l.parts.iter().enumerate() {
            let (prepared, group) = wanted(w);
            laid[i] = laid[..i].iter().flatten().find(|l| l.prepared == prepared && l.group == group).copied();
            if laid[i].is_none() {
                let x = Scratch(temps[i].insert(Temp::new(m * prepared.row_len())).ptr());
                let new = Laid { prepared, group, x };
                self.prepare(&new);
                laid[i] = Some(new);
            }
        }
        let laid = |i: usize| laid[i].unwrap_or_else(|| unreachable!("every part was laid out"));

        // pieces of about equal bytes, small enough that no thread waits long for another one's last
        let halves = if self.l.gate.is_some() { 2 } else { 1 };
        let total = self.l.parts.iter().map(|p| p.0.rows()).sum::<usize>() / halves;
        let even = total.div_ceil(8 * threads()).next_multiple_of(8);
        let piece = |part: usize| {
            let bytes = halves * self.l.parts[part].0.row_bytes();
            (GEMV_BYTES / bytes.max(1)).next_multiple_of(4).min(even).max(4)
        };
        let rows = |part: usize| self.l.parts[part].0.rows() / if self.l.parts.len() == 1 { halves } else { 1 };
        // gate and up are computed together
        let apart = if halves == 2 { 1 } else { self.l.parts.len() };
        let count = (0..apart).map(|p| rows(p).div_ceil(piece(p))).sum();
        let job = |mut i: usize| {
            let (mut part, mut before) = (0, 0);
            while i >= rows(part).div_ceil(piece(part)) {
                i -= rows(part).div_ceil(piece(part));
                before += rows(part);
                part += 1;
            }
            let (n0, n1) = (i * piece(part), (i * piece(part) + piece(part)).min(rows(part)));
            // SAFETY: pieces are disjoint
            unsafe {
                match self.l.gate {
                    None => {
                        let g = self.product(part, laid(part), 0, n0, n1);
                        let place = before + n0;
                        Gemv { n: self.n, place, out: self.out, residual: self.l.residual, ..g }.run(self.isa);
                    }
                    Some(act) => {
                        let up = self.l.parts.len() - 1;
                        let row0 = if up == 0 { self.n } else { 0 };
                        let parts = [self.product(0, laid(0), 0, n0, n1), self.product(up, laid(up), row0, n0, n1)];
                        self.gated(act, parts, n0, n1);
                    }
                }
            }
        };
        if self.n * self.k * m * halves < SERIAL { (0..count).for_each(job) } else { parallel(count, job) }
    }

    fn prepare(&self, laid: &Laid) {
        let (m, k) = (self.l.m, self.k);
        let row = |i: usize| {
            let dst = laid.x.at(i * laid.prepared.row_len());
            let job = Prepare { prepared: laid.prepared, group: laid.group, x: self.x, from: i * k, k, dst };
            // SAFETY: row i of the scratch is this task's
            unsafe { self.isa.run(job) }
        };
        if m * k < SERIAL { (0..m).for_each(row) } else { parallel(m, row) }
    }

    /// Rows `row0 + n0 .. row0 + n1` of a part; where the result goes is left to the caller.
    fn product(&self, part: usize, laid: Laid, row0: usize, n0: usize, n1: usize) -> Gemv<'_> {
        let (w, bias) = &self.l.parts[part];
        let rows = &ROWS[..self.l.m];
        Gemv {
            w,
            prepared: laid.prepared,
            row0,
            n0,
            n1,
            n: n1 - n0,
            place: 0,
            x: laid.x.at(0),
            x_rows: rows,
            out_rows: rows,
            out: self.out,
            bias: bias.map(|b| (b, row0)),
            residual: None,
        }
    }

    /// # Safety
    /// The columns `n0 .. n1` of the result are written by nobody else.
    unsafe fn gated(&self, act: Gate, parts: [Gemv<'_>; 2], n0: usize, n1: usize) {
        let (m, width) = (self.l.m, n1 - n0);
        let mut temp = Temp::new(2 * m * width);
        let halves = [temp.ptr(), temp.ptr().wrapping_add(m * width)];
        for (g, half) in parts.into_iter().zip(halves) {
            // SAFETY: each half holds m rows of this piece; `Gemv` writes all of them
            unsafe { Gemv { out: Out::floats(half), ..g }.run(self.isa) };
        }
        for r in 0..m {
            let at = r * self.n + n0;
            let residual = self.l.residual.map(|x| (x, at));
            // SAFETY: as above
            unsafe {
                let [g, u] = halves.map(|h| Floats::from_raw(h.wrapping_add(r * width).cast(), width, DType::F32));
                gated_piece(self.isa, act, g, u, residual, (self.out, at));
            }
        }
    }
}

const ROWS: [u32; GEMV_ROWS] = [0, 1, 2, 3, 4, 5, 6, 7];
