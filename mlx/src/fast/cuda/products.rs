//! Launches of several products at once (`gemv.cuh`): each takes its share of the grid's blocks.

use super::gemv::{Format, SHARED_TWO, fits, round_up};
use super::kernel::{Launch, Scalar};
use super::{COMMON, FORMATS, GEMV, Gpu, Spec, Table, kernel};
use crate::fast::products::{After, MOST, Product};
use crate::{Array, Dtype};
use smallvec::SmallVec;
use std::fmt::Write as _;

/// An array among the inputs: which one, and how far behind its start, in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct At {
    input: u8,
    by: i32,
}

impl At {
    fn text(self, kind: &str) -> String {
        format!("(const {kind}*)(x{} + {}ll * 16)", self.input, self.by)
    }
}

/// One product: everything about it that is the same in each layer of a model, so that a launch has no scalars for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Job {
    x: At,
    x_row: i32,
    toward: Option<[At; 2]>,
    weight: At,
    scales: Option<At>,
    biases: Option<At>,
    bias: Option<At>,
    n: i32,
    k: i32,
    /// Its first column of the output, and its first block.
    column: i32,
    block: i32,
    after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Products {
    format: Format,
    f16: bool,
    count: u8,
    jobs: [Job; MOST],
    inputs: u8,
    /// All columns, all blocks.
    columns: i32,
    blocks: i32,
    /// Bound of the rows.
    rows: u8,
    warps: u8,
    unroll: u8,
    /// x in shared memory, and the 16 KiB steps of it above 48000 bytes: MLX fixes them with the first launch.
    shared: bool,
    shared_steps: u8,
}

impl Spec for Products {
    fn name(&self) -> String {
        format!("prods_{self:?}")
    }

    fn source(&self, name: &str) -> String {
        let threads = i32::from(self.warps) * 32;
        let inputs: String = (0..self.inputs).map(|i| format!("const u8* x{i}, ")).collect();
        let mut choose = String::new();
        let jobs = &self.jobs[..usize::from(self.count)];
        for (i, j) in jobs.iter().enumerate() {
            let text = |at: Option<At>, kind: &str| at.map_or("nullptr".to_string(), |a| a.text(kind));
            let end = jobs.get(i + 1).map_or(self.blocks, |next| next.block);
            let act = match j.after {
                After::Same => "SAME",
                After::Sigmoid => "SIGMOID",
                After::Tanh => "TANH",
                After::SquaredRelu => "SQUARED_RELU",
            };
            let last = if i + 1 == jobs.len() { String::new() } else { format!("if (blockIdx.x < {end}) ") };
            let otherwise = if i > 0 { "else " } else { "" };
            _ = writeln!(
                choose,
                "{otherwise}{last}{{ x = {}; p = Part{{{}, {}, {}, {}}}; N = {}; K = {}; column = {}; \
                 a = Around{{(int)blockIdx.x - {}, {}, {}, {}, {}, {}, {act}}}; }}",
                j.x.text("u16"),
                j.weight.text("u8"),
                text(j.scales, "u8"),
                text(j.biases, "u8"),
                text(j.bias, "u16"),
                j.n,
                j.k,
                j.column,
                j.block,
                end - j.block,
                j.x_row,
                self.columns,
                text(j.toward.map(|t| t[0]), "u16"),
                text(j.toward.map(|t| t[1]), "u16"),
            );
        }
        format!(
            "#define HALF {}\n{COMMON}{FORMATS}{GEMV}\nextern \"C\" __global__ void __launch_bounds__({threads}, {}) \
             {name}({inputs}u16* out, int M) {{\nconst u16* x; Part p; Around a; int N, K, column;\n{choose}\
             gemv<{}, 1, {}, {}, {}, {}, false, 0, false>(x, nullptr, p, p, p, nullptr, nullptr, nullptr, nullptr, out + column, M, \
             N, K, N, N, 1, 1, 0, 0.f, a);\n}}\n",
            self.f16 as u8,
            512 / threads,
            self.format.class(),
            self.rows,
            self.warps,
            self.unroll,
            self.shared,
        )
    }
}

thread_local! { static KERNELS: Table<Products> = Table::default(); }

/// The arrays that a launch reads: those that lie in one buffer are passed once, since each costs the host as much as an
/// op does.
#[derive(Default)]
struct Inputs<'a> {
    arrays: SmallVec<[(&'a Array, Option<(usize, i64)>); 12]>,
}

impl<'a> Inputs<'a> {
    /// Where `a` lies from its element `from` on, which is a multiple of 16 bytes away from its start.
    fn at(&mut self, a: &'a Array, from: i32) -> At {
        let ahead = from * a.dtype().size() as i32 / 16;
        // MLX copies what is not contiguous: such an array has an input of its own
        let place = a.buffer().filter(|_| a.is_row_contiguous());
        for (input, &(other, known)) in self.arrays.iter().enumerate() {
            let by = match (place, known) {
                _ if other.as_raw().ctx == a.as_raw().ctx => Some(0),
                (Some((buffer, at)), Some((same, start))) if buffer == same && (at - start) % 16 == 0 => {
                    i32::try_from((at - start) / 16).ok()
                }
                _ => None,
            };
            if let Some(by) = by {
                return At { input: input as u8, by: by + ahead };
            }
        }
        self.arrays.push((a, place));
        At { input: (self.arrays.len() - 1) as u8, by: ahead }
    }
}

/// The caller has checked that the shapes of each product belong together, and that there are at most [`MOST`].
pub(crate) fn products(gpu: &Gpu, all: &[Product<'_>], [b, l]: [i32; 2]) -> Option<Array> {
    let first = all.first()?;
    let (dtype, rows) = (first.x.x.dtype(), b * l);
    let format = Format::of(&first.weight)?;
    let bound = [1, 8, 16, 32].into_iter().find(|&bound| rows <= bound)?;
    let widest = all.iter().map(|p| p.weight.inputs()).max()?;
    if !all.iter().all(|p| fits(dtype, &p.weight, p.weight.inputs()) && p.weight.outputs() > 0) {
        return None;
    }
    let tiles = |p: &Product<'_>| (p.weight.outputs() + 15) / 16;
    let total: i32 = all.iter().map(tiles).sum();
    let warps = if widest < 1024 { 4 } else { 8 };
    let slots = gpu.multiprocessors * 16 / warps;
    let rounds = (total + slots - 1) / slots;
    let fixed = (bound + warps) * 4 + 2 * warps * 16 * if bound == 1 { 1 } else { bound } * 4;
    let staged = fixed + rows * (round_up(widest, 128) + 32) * 2;
    let shared = staged <= SHARED_TWO;
    if !shared && all.iter().any(|p| p.toward.is_some()) {
        return None;
    }
    let bytes = if shared { staged } else { fixed };
    let steps = if bytes <= 48_000 { 0 } else { (bytes + 16_383) / 16_384 };
    let whole = |p: &Product<'_>| {
        let (blocks, wide) = ((p.weight.inputs() + 127) / 128, format.unroll());
        blocks % wide == 0 && blocks >= wide * warps
    };
    let mut inputs = Inputs::default();
    let mut jobs = [Job::default(); MOST];
    let (mut column, mut block) = (0, 0);
    for (job, p) in jobs.iter_mut().zip(all) {
        let w = &p.weight;
        *job = Job {
            x: inputs.at(p.x.x, p.x.at),
            x_row: p.x.x.dim(2),
            toward: p.toward.map(|(before, by)| [inputs.at(before, 0), inputs.at(by, 0)]),
            weight: inputs.at(w.weight, 0),
            scales: w.scales.map(|a| inputs.at(a, 0)),
            biases: w.biases.map(|a| inputs.at(a, 0)),
            bias: w.bias.map(|a| inputs.at(a, 0)),
            n: w.outputs(),
            k: w.inputs(),
            column,
            block,
            after: p.after,
        };
        column += w.outputs();
        block += (tiles(p) + rounds - 1) / rounds;
    }
    let spec = Products {
        format,
        f16: dtype == Dtype::Float16,
        count: all.len() as u8,
        jobs,
        inputs: inputs.arrays.len() as u8,
        columns: column,
        blocks: block,
        rows: bound as u8,
        warps: warps as u8,
        unroll: if bound <= 8 && all.iter().all(whole) { format.unroll() as u8 } else { 1 },
        shared,
        shared_steps: steps as u8,
    };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let arrays: SmallVec<[&Array; 12]> = inputs.arrays.iter().map(|a| a.0).collect();
    let bytes = if steps == 0 { bytes } else { steps * 16_384 };
    let launch = Launch { grid: [block, 1, 1], threads: warps * 32, shared: bytes };
    let out = [b, l, column];
    // SAFETY: shapes were checked by the caller; the kernel reads these arrays and writes all columns of `out`
    unsafe { kernel.call(&arrays, &[(&out, dtype)], &[Scalar::Int(rows)], launch) }.into_iter().next()
}
