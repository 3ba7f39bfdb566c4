//! Gated activations and rows of an embedding table.

use crate::data::{Floats, FloatsMut, Out, Scratch};
use crate::decode::matrix_row;
use crate::error::{Error, Result, room};
use crate::isa::{Isa, Kernel};
use crate::pool::parallel;
use crate::quant::Matrix;
use crate::scratch::Temp;
use crate::simd::{Simd, exp, load_upto, narrow_row, store_upto, with_elem};

/// The activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `g * sigmoid(g)`
    Silu,
    /// The tanh form of GELU.
    GeluTanh,
}

/// `out[rows, cols] = act(gate) * up`. Rows of gate and up start `strides` elements apart, so both may be halves of one fused product.
/// MLX: `nn.silu(gate) * up`.
///
/// # Errors
/// Sizes that do not fit together.
pub fn gated(
    act: Gate,
    gate: Floats<'_>,
    up: Floats<'_>,
    rows: usize,
    cols: usize,
    strides: [usize; 2],
    out: FloatsMut<'_>,
) -> Result<()> {
    gated_on(Isa::best(), act, gate, up, rows, cols, strides, out)
}

/// [`gated`] with a given instruction set.
///
/// # Errors
/// As [`gated`].
#[allow(clippy::too_many_arguments)]
pub fn gated_on(
    isa: Isa,
    act: Gate,
    gate: Floats<'_>,
    up: Floats<'_>,
    rows: usize,
    cols: usize,
    strides: [usize; 2],
    mut out: FloatsMut<'_>,
) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let need = |stride: usize| stride.checked_mul(rows - 1).and_then(|v| v.checked_add(cols));
    room("gate", need(strides[0]), gate.len())?;
    room("up", need(strides[1]), up.len())?;
    room("out", rows.checked_mul(cols), out.len())?;
    let out = out.out();
    // long rows are cut too
    let piece = 8192.min(cols);
    let pieces = cols.div_ceil(piece);
    let per = 8192usize.div_ceil(cols);
    parallel(rows.div_ceil(per) * pieces, |i| {
        let (i, p) = (i / pieces, i % pieces);
        for r in i * per..(i * per + per).min(rows) {
            let (c0, c1) = (p * piece, (p * piece + piece).min(cols));
            let job = GatedRow {
                act,
                gate,
                up,
                g: r * strides[0] + c0,
                u: r * strides[1] + c0,
                residual: None,
                n: c1 - c0,
                out,
                at: r * cols + c0,
            };
            // SAFETY: sizes were checked; tasks write their own pieces.
            unsafe { isa.run(job) }
        }
    });
    Ok(())
}

/// [`gated`] with [`Gate::Silu`] over equal contiguous buffers.
///
/// # Errors
/// As [`gated`].
pub fn swiglu(gate: Floats<'_>, up: Floats<'_>, out: FloatsMut<'_>) -> Result<()> {
    let n = gate.len();
    gated(Gate::Silu, gate, up, 1, n, [n, n], out)
}

/// `out[at ..] = act(gate) * up (+ residual)` over the length of gate, on this thread.
///
/// # Safety
/// up is as long; residual and out have as many elements from their places on, and nobody else uses those of out.
pub(crate) unsafe fn gated_piece(
    isa: Isa,
    act: Gate,
    gate: Floats<'_>,
    up: Floats<'_>,
    residual: Option<(Floats<'_>, usize)>,
    (out, at): (Out, usize),
) {
    unsafe { isa.run(GatedRow { act, gate, up, g: 0, u: 0, residual, n: gate.len(), out, at }) }
}

struct GatedRow<'a> {
    act: Gate,
    gate: Floats<'a>,
    up: Floats<'a>,
    g: usize,
    u: usize,
    residual: Option<(Floats<'a>, usize)>,
    n: usize,
    out: Out,
    at: usize,
}

impl Kernel for GatedRow<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let mut i = 0;
            while i < self.n {
                let left = self.n - i;
                let g = with_elem!(self.gate.dtype(), T => load_upto::<S, T>(self.gate.at(self.g + i).cast(), left));
                let u = with_elem!(self.up.dtype(), T => load_upto::<S, T>(self.up.at(self.u + i).cast(), left));
                let arg = match self.act {
                    Gate::Silu => g,
                    Gate::GeluTanh => {
                        // g/2 (1 + tanh z) = g sigmoid(2 z), z = sqrt(2/pi) (g + 0.044715 g^3)
                        let cube = S::mul(S::mul(g, g), g);
                        S::mul(S::fma(cube, S::splat(0.044_715), g), S::splat(1.595_769))
                    }
                };
                let e = exp::<S>(S::sub(S::splat(0.0), arg));
                let mut v = S::mul(S::div(g, S::add(S::splat(1.0), e)), u);
                if let Some((r, from)) = self.residual {
                    let r = with_elem!(r.dtype(), T => load_upto::<S, T>(r.at(from + i).cast(), left));
                    v = S::add(v, r);
                }
                with_elem!(self.out.dtype, T => store_upto::<S, T>(self.out.at(self.at + i).cast(), left, v));
                i += S::N;
            }
        }
    }
}

/// `out[i] = table[ids[i]]`, dequantised. MLX: `nn.QuantizedEmbedding`, `take`.
///
/// # Errors
/// An id outside the table, a buffer too short.
pub fn embed(table: &Matrix<'_>, ids: &[u32], out: FloatsMut<'_>) -> Result<()> {
    embed_on(Isa::best(), table, ids, out)
}

/// [`embed`] with a given instruction set.
///
/// # Errors
/// As [`embed`].
pub fn embed_on(isa: Isa, table: &Matrix<'_>, ids: &[u32], mut out: FloatsMut<'_>) -> Result<()> {
    let (rows, k) = (table.rows(), table.cols());
    room("out", ids.len().checked_mul(k), out.len())?;
    if let Some(i) = ids.iter().find(|i| **i as usize >= rows) {
        return Err(Error::Index { what: "row of the table", index: *i as usize, limit: rows });
    }
    let out = out.out();
    let per = 8192usize.div_ceil(k.max(1));
    parallel(ids.len().div_ceil(per), |i| {
        for t in i * per..(i * per + per).min(ids.len()) {
            let mut temp = Temp::new(3 * k);
            let tmp = Scratch(temp.ptr());
            // SAFETY: the id was checked; each task writes its own rows.
            unsafe { isa.run(Row { table, row: ids[t] as usize, tmp: tmp.at(0), out, at: t * k }) }
        }
    });
    Ok(())
}

struct Row<'a> {
    table: &'a Matrix<'a>,
    row: usize,
    tmp: *mut f32,
    out: Out,
    at: usize,
}

impl Kernel for Row<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let k = self.table.cols();
            let row = self.tmp.add(2 * k);
            matrix_row::<S>(self.table, self.row, 0, k, self.tmp, row);
            with_elem!(self.out.dtype, T => narrow_row::<S, T>(row, self.out.at(self.at).cast(), k));
        }
    }
}
