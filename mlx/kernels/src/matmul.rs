//! Products of activations with a dense or packed matrix: the public functions, their checks, and how a call is cut into tasks.

use crate::data::{DType, Floats, FloatsMut, Out, Scratch};
use crate::error::{Error, Result, room, same};
use crate::gemm::{Gemm, Pack, Packing, block_cols};
use crate::gemv::Gemv;
use crate::isa::Isa;
use crate::pool::{parallel, threads};
use crate::prepare::{Prepare, Prepared};
use crate::quant::Matrix;
use crate::scratch::Temp;
use crate::{straight, tiles};

/// Up to so many rows of x per matrix go through the GEMV: it unpacks w once per four rows and needs no transposed panels.
pub(crate) const GEMV_ROWS: usize = 8;
/// Bytes of w that one task of a GEMV reads.
pub(crate) const GEMV_BYTES: usize = 64 << 10;
/// Products with fewer multiplications run on the caller alone.
pub(crate) const SERIAL: usize = 64 << 10;

/// `out[M, N] = x[M, K] @ w[N, K]^T (+ bias[N])`, sums in f32, any mix of types. MLX: `quantized_matmul(transpose=True)`, `matmul`
/// with a transposed weight.
///
/// # Errors
/// Sizes that do not fit together.
pub fn matmul(x: Floats<'_>, m: usize, w: &Matrix<'_>, bias: Option<Floats<'_>>, out: FloatsMut<'_>) -> Result<()> {
    matmul_on(Isa::best(), x, m, w, bias, out)
}

/// [`matmul`] with a given instruction set.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_on(
    isa: Isa,
    x: Floats<'_>,
    m: usize,
    w: &Matrix<'_>,
    bias: Option<Floats<'_>>,
    mut out: FloatsMut<'_>,
) -> Result<()> {
    let (n, k) = (w.rows(), w.cols());
    room("x", m.checked_mul(k), x.len())?;
    room("out", m.checked_mul(n), out.len())?;
    if let Some(b) = bias {
        room("bias", Some(n), b.len())?;
    }
    let rows: Vec<u32> = (0..index(m)?).collect();
    let groups = [Group { expert: 0, start: 0, end: m }];
    let call = Call { isa, w, n, x, x_count: m, x_rows: &rows, out_rows: &rows, bias, out: out.out() };
    // SAFETY: every row of x and out, and every row of w, was checked to lie inside its buffer.
    unsafe { call.run(&groups) }
    Ok(())
}

/// Row `i` of the result is `x[x_rows[i]] @ w[experts[i]]^T (+ bias[experts[i]])`, with w a stack `[E, N, K]` given as a matrix of
/// `E * N` rows. Rows are grouped by expert inside, so a prompt costs a GEMM per expert. MLX: `gather_qmm`, `gather_mm`.
///
/// # Errors
/// Sizes that do not fit together, an index outside.
pub fn gather_matmul(
    x: Floats<'_>,
    w: &Matrix<'_>,
    n: usize,
    x_rows: &[u32],
    experts: &[u32],
    bias: Option<Floats<'_>>,
    out: FloatsMut<'_>,
) -> Result<()> {
    gather_matmul_on(Isa::best(), x, w, n, x_rows, experts, bias, out)
}

/// [`gather_matmul`] with a given instruction set.
///
/// # Errors
/// As [`gather_matmul`].
#[allow(clippy::too_many_arguments)]
pub fn gather_matmul_on(
    isa: Isa,
    x: Floats<'_>,
    w: &Matrix<'_>,
    n: usize,
    x_rows: &[u32],
    experts: &[u32],
    bias: Option<Floats<'_>>,
    mut out: FloatsMut<'_>,
) -> Result<()> {
    let k = w.cols();
    if n == 0 || !w.rows().is_multiple_of(n) {
        return Err(Error::Size { what: "rows of a stack of experts (a multiple of)", expected: n, got: w.rows() });
    }
    let count = w.rows() / n;
    same("expert indices", x_rows.len(), experts.len())?;
    room("out", x_rows.len().checked_mul(n), out.len())?;
    if let Some(b) = bias {
        room("bias", Some(w.rows()), b.len())?;
    }
    let x_count = x.len().checked_div(k).unwrap_or(usize::MAX);
    if let Some(i) = x_rows.iter().find(|i| **i as usize >= x_count) {
        return Err(Error::Index { what: "row of x", index: *i as usize, limit: x_count });
    }
    if let Some(e) = experts.iter().find(|e| **e as usize >= count) {
        return Err(Error::Index { what: "expert", index: *e as usize, limit: count });
    }
    index(x_rows.len())?;
    let mut order: Vec<u32> = (0..x_rows.len() as u32).collect();
    order.sort_by_key(|i| experts[*i as usize]);
    let sorted_x: Vec<u32> = order.iter().map(|i| x_rows[*i as usize]).collect();
    let mut groups = Vec::new();
    let mut start = 0;
    for chunk in order.chunk_by(|a, b| experts[*a as usize] == experts[*b as usize]) {
        groups.push(Group { expert: experts[chunk[0] as usize] as usize, start, end: start + chunk.len() });
        start += chunk.len();
    }
    let x_count = x_rows.iter().map(|i| *i as usize + 1).max().unwrap_or(0);
    let call = Call { isa, w, n, x, x_count, x_rows: &sorted_x, out_rows: &order, bias, out: out.out() };
    // SAFETY: as in `matmul_on`; indices were checked.
    unsafe { call.run(&groups) }
    Ok(())
}

/// `out[M, N] = x[M, K] @ w[K, N]` with w stored `[K, N]` (packed along N). MLX: `quantized_matmul(transpose=False)`.
///
/// # Errors
/// Sizes that do not fit together.
pub fn matmul_straight(x: Floats<'_>, m: usize, w: &Matrix<'_>, out: FloatsMut<'_>) -> Result<()> {
    matmul_straight_on(Isa::best(), x, m, w, out)
}

/// [`matmul_straight`] with a given instruction set.
///
/// # Errors
/// As [`matmul_straight`].
pub fn matmul_straight_on(isa: Isa, x: Floats<'_>, m: usize, w: &Matrix<'_>, mut out: FloatsMut<'_>) -> Result<()> {
    room("x", m.checked_mul(w.rows()), x.len())?;
    room("out", m.checked_mul(w.cols()), out.len())?;
    index(m)?;
    // SAFETY: sizes were checked.
    unsafe { straight::run(isa, x, m, w, out.out()) }
    Ok(())
}

fn index(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Unsupported { what: "rows", why: "more than 2^32" })
}

/// Rows `start .. end` of the sorted lists belong to one expert.
struct Group {
    expert: usize,
    start: usize,
    end: usize,
}

struct Call<'a> {
    isa: Isa,
    w: &'a Matrix<'a>,
    n: usize,
    x: Floats<'a>,
    /// Rows of x that are used lie below this.
    x_count: usize,
    x_rows: &'a [u32],
    out_rows: &'a [u32],
    bias: Option<Floats<'a>>,
    out: Out,
}

/// A piece of work: columns `n0 .. n1` for sorted rows `start .. end` of an expert. Tall pieces start at `panel`.
struct Task {
    expert: usize,
    start: usize,
    end: usize,
    n0: usize,
    n1: usize,
    panel: Option<usize>,
}

impl Call<'_> {
    /// # Safety
    /// All indices and sizes are inside the buffers.
    unsafe fn run(&self, groups: &[Group]) {
        let k = self.w.cols();
        if self.n == 0 || self.out_rows.is_empty() {
            return;
        }
        let x_bf16 = self.x.dtype() == DType::BF16;
        let tall = |g: &Group| g.end - g.start > GEMV_ROWS;
        let (any_tall, any_short) = (groups.iter().any(tall), groups.iter().any(|g| !tall(g)));
        let serial = self.n * k * self.out_rows.len() < SERIAL;
        let each = |count: usize, f: &(dyn Fn(usize) + Sync)| {
            if serial { (0..count).for_each(f) } else { parallel(count, f) }
        };

        // prepared rows of x, by row of x or by sorted row, whichever is fewer
        let prepared = Prepared::new(self.isa, self.w, x_bf16);
        let by_row = self.x_count <= self.x_rows.len();
        let count = if by_row { self.x_count } else { self.x_rows.len() };
        let len = prepared.row_len();
        let mut short_x = Temp::new(if any_short { count * len } else { 0 });
        let own: Vec<u32> = if by_row { Vec::new() } else { (0..count as u32).collect() };
        let short_rows = if by_row { self.x_rows } else { &own };
        let dst = Scratch(short_x.ptr());
        if any_short {
            let group = if let Matrix::Quantized(q) = self.w { q.mode.group() } else { 1 };
            let prepare = |i: usize| {
                let row = if by_row { i } else { self.x_rows[i] as usize };
                let job = Prepare { prepared, group, x: self.x, from: row * k, k, dst: dst.at(i * len) };
                // SAFETY: row i of the scratch is this task's.
                unsafe { self.isa.run(job) }
            };
            if count * k < SERIAL { (0..count).for_each(prepare) } else { parallel(count, prepare) }
        }

        // packed panels of x for the tall groups
        let packing = Packing::new(self.isa, self.w, x_bf16);
        let tiles = self.isa.has_tiles();
        let panel_rows = if tiles { tiles::SIDE } else { packing.rows };
        let mut panels: Vec<(usize, usize)> = Vec::new();
        let mut first_panel = Vec::with_capacity(groups.len());
        for g in groups {
            first_panel.push(panels.len());
            if tall(g) {
                let starts = (g.start..g.end).step_by(panel_rows);
                panels.extend(starts.map(|s| (s, (s + panel_rows).min(g.end))));
            }
        }
        let len = if tiles { tiles::panel_len(self.x.dtype(), k) } else { packing.panel_len() };
        let mut tall_x = Temp::new(if any_tall { panels.len() * len } else { 0 });
        let packed = Scratch(tall_x.ptr());
        parallel(panels.len(), |i| {
            let (start, end) = panels[i];
            let (x_rows, dst) = (&self.x_rows[start..end], packed.at(i * len));
            // SAFETY: panel i of the scratch is this task's.
            unsafe {
                if tiles {
                    self.isa.run(tiles::Pack { x: self.x, k, x_rows, dst });
                } else {
                    self.isa.run(Pack { packing, x: self.x, k, x_rows, dst });
                }
            }
        });

        let mut tasks = Vec::new();
        for (g, first) in groups.iter().zip(first_panel) {
            if tall(g) { self.tall_tasks(g, first, panel_rows, &mut tasks) } else { self.short_tasks(g, &mut tasks) }
        }
        each(tasks.len(), &|i| {
            let t = &tasks[i];
            let (row0, out_rows) = (t.expert * self.n, &self.out_rows[t.start..t.end]);
            let (w, n, n0, n1, out) = (self.w, self.n, t.n0, t.n1, self.out);
            let bias = self.bias.map(|b| (b, row0));
            // SAFETY: tasks write disjoint parts of the result; everything else is only read.
            unsafe {
                match t.panel {
                    Some(panel) => {
                        let x = packed.at(panel * len);
                        if tiles {
                            let x_type = self.x.dtype();
                            return self.isa.run(tiles::Gemm { w, x_type, row0, n0, n1, n, x, out_rows, out, bias });
                        }
                        self.isa.run(Gemm { w, packing, row0, n0, n1, n, x, out_rows, out, bias });
                    }
                    None => {
                        let x_rows = &short_rows[t.start..t.end];
                        let x = dst.at(0);
                        let g = Gemv {
                            w,
                            prepared,
                            row0,
                            n0,
                            n1,
                            n,
                            place: n0,
                            x,
                            x_rows,
                            out_rows,
                            out,
                            bias,
                            residual: None,
                        };
                        g.run(self.isa);
                    }
                }
            }
        });
    }

    fn short_tasks(&self, g: &Group, tasks: &mut Vec<Task>) {
        let even = self.n.div_ceil(4 * threads()).next_multiple_of(4);
        let rows = (GEMV_BYTES / self.w.row_bytes().max(1)).next_multiple_of(4).min(even).max(4);
        for n0 in (0..self.n).step_by(rows) {
            let n1 = (n0 + rows).min(self.n);
            tasks.push(Task { expert: g.expert, start: g.start, end: g.end, n0, n1, panel: None });
        }
    }

    fn tall_tasks(&self, g: &Group, first: usize, panel_rows: usize, tasks: &mut Vec<Task>) {
        let mut cols = block_cols(self.isa);
        if self.isa.has_tiles() {
            cols *= (self.n.div_ceil(cols) / (3 * threads())).clamp(1, 4);
        }
        let panels = (g.end - g.start).div_ceil(panel_rows);
        // w is decoded once per piece, so rows are cut only when there are too few blocks for the threads, and then into big pieces
        let want = (4 * threads()).div_ceil(self.n.div_ceil(cols));
        let per = panels.div_ceil(want).max(8);
        for n0 in (0..self.n).step_by(cols) {
            let n1 = (n0 + cols).min(self.n);
            for p in (0..panels).step_by(per) {
                let start = g.start + p * panel_rows;
                let end = (start + per * panel_rows).min(g.end);
                tasks.push(Task { expert: g.expert, start, end, n0, n1, panel: Some(first + p) });
            }
        }
    }
}
