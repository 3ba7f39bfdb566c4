//! Launches of the matrix-vector kernels (`gemv.cuh`, `embed.cuh`): which specialisation, how many blocks.

use super::kernel::{Kernel, Launch, Scalar};
use super::{COMMON, EMBED, FORMATS, GEMV, Gpu, Spec, Table, is_half, kernel};
use crate::fast::Gate;
use crate::fast::linear::{Fused, Matrix};
use crate::{Array, Dtype, QuantMode};
use smallvec::SmallVec;
use std::rc::Rc;

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Format {
    Dense,
    Affine { bits: u8, group: u8 },
    Micro { bits: u8, group: u8, nv: bool },
}

impl Format {
    pub(super) fn of(m: &Matrix) -> Option<Format> {
        let Some(q) = m.quant else { return Some(Format::Dense) };
        let (bits, group) = (q.bits as u8, q.group_size as u8);
        q.is_valid().then_some(match q.mode {
            QuantMode::Affine => Format::Affine { bits, group },
            mode => Format::Micro { bits, group, nv: mode == QuantMode::Nvfp4 },
        })
    }
    pub(super) fn class(self) -> String {
        match self {
            Format::Dense => "Dense".into(),
            Format::Affine { bits, group } => format!("Affine<{bits},{group}>"),
            Format::Micro { bits, group, nv } => format!("Micro<{bits},{group},{nv}>"),
        }
    }
    fn name(self) -> String {
        match self {
            Format::Dense => "dense".into(),
            Format::Affine { bits, group } => format!("q{bits}g{group}"),
            Format::Micro { bits, nv, .. } => format!("{}fp{bits}", if nv { "nv" } else { "mx" }),
        }
    }
    /// Blocks of 128 columns that a warp has under way at once without running out of registers.
    pub(super) fn unroll(self) -> i32 {
        match self {
            Format::Affine { bits, .. } if bits <= 4 => 2,
            _ => 1,
        }
    }
    fn has_biases(self) -> bool {
        matches!(self, Format::Affine { .. })
    }
}

/// Whether `rows` normed rows of x fit into shared memory.
pub(crate) fn stages(rows: usize, k: i32) -> bool {
    rows as i64 * (round_up(k, 128) + 32) as i64 * 2 <= (SHARED_MOST - (40 << 10)) as i64
}

/// The largest dynamic shared memory that leaves two blocks a multiprocessor, and the largest at all.
pub(super) const SHARED_TWO: i32 = 112 << 10;
const SHARED_MOST: i32 = 224 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Gemv {
    format: Format,
    f16: bool,
    /// Matrices whose rows follow each other.
    parts: u8,
    /// Arrays of which the start is prefetched.
    next: u8,
    /// Bound of the rows of x.
    rows: u8,
    warps: u8,
    unroll: u8,
    /// x in shared memory, and the 16 KiB steps of it above 48000 bytes: MLX fixes them with the first launch.
    shared: bool,
    shared_steps: u8,
    norm: bool,
    gate: u8,
    bias: bool,
    residual: bool,
    indexed: bool,
    /// Scales and offsets lie behind the weight in its buffer: the host passes one array, not three.
    joined: bool,
}

impl Spec for Gemv {
    fn name(&self) -> String {
        format!(
            "gemv_{}_{}_p{}x{}_m{}_w{}u{}_s{}{}_n{}g{}b{}r{}i{}j{}",
            self.format.name(),
            if self.f16 { "f16" } else { "bf16" },
            self.parts,
            self.next,
            self.rows,
            self.warps,
            self.unroll,
            self.shared as u8,
            self.shared_steps,
            self.norm as u8,
            self.gate,
            self.bias as u8,
            self.residual as u8,
            self.indexed as u8,
            self.joined as u8
        )
    }

    fn source(&self, name: &str) -> String {
        let (scaled, affine) = (self.format != Format::Dense, self.format.has_biases());
        let mut parameters = String::from("const u16* x, ");
        let mut declare = |on: bool, kind: &str, name: &str| {
            if !on {
                return "nullptr".to_string();
            }
            parameters += &format!("const {kind}* {name}, ");
            name.to_string()
        };
        let norm = declare(self.norm, "u16", "norm");
        let parts: Vec<String> = (0..3)
            .map(|i| {
                let on = i < self.parts;
                let w = declare(on, "u8", &format!("w{i}"));
                let behind =
                    |on: bool, what: &str| if on { format!("{w} + 16ll * {what}_at{i}") } else { "nullptr".into() };
                let (scales, biases) = match self.joined {
                    true => (behind(on, "scales"), behind(on && affine, "biases")),
                    false => (
                        declare(on && scaled, "u8", &format!("scales{i}")),
                        declare(on && affine, "u8", &format!("biases{i}")),
                    ),
                };
                let bias = declare(on && self.bias, "u16", &format!("bias{i}"));
                format!("Part{{{w}, {scales}, {biases}, {bias}}}")
            })
            .collect();
        let parts = parts.join(", ");
        let res = declare(self.residual, "u16", "res");
        let idx = declare(self.indexed, "u32", "idx");
        let next = [declare(self.next > 0, "u8", "next0"), declare(self.next > 1, "u8", "next1")].join(", ");
        let at =
            |i: u8| format!("int scales_at{i}, {}", if affine { format!("int biases_at{i}, ") } else { String::new() });
        let places: String = (0..if self.joined { self.parts } else { 0 }).map(at).collect();
        let threads = u32::from(self.warps) * 32;
        // 16 warps of a multiprocessor share its registers
        let blocks = 512 / threads;
        format!(
            "#define HALF {}\n{COMMON}{FORMATS}{GEMV}\nextern \"C\" __global__ void __launch_bounds__({threads}, {blocks}) \
             {name}({parameters}u16* out, {places}int M, int N, int K, int end0, int end1, int share, int experts, \
             int next_bytes, float eps) {{\n\
             gemv<{}, {}, {}, {}, {}, {}, {}, {}, {}>(x, {norm}, {parts}, {res}, {idx}, {next}, out, M, N, K, end0, end1, \
             share, experts, next_bytes, eps, Around{{(int)blockIdx.x, (int)gridDim.x, K, N, nullptr, nullptr, SAME}});\n}}\n",
            self.f16 as u8,
            self.format.class(),
            self.parts,
            self.rows,
            self.warps,
            self.unroll,
            self.shared,
            self.norm,
            self.gate,
            self.indexed
        )
    }
}

thread_local! {
    static GEMVS: Table<Gemv> = Table::default();
    static EMBEDS: Table<Embed> = Table::default();
}

pub(super) fn round_up(n: i32, to: i32) -> i32 {
    n.div_euclid(to) * to + if n % to == 0 { 0 } else { to }
}

/// Whether dtypes and sizes are what the kernels take; the caller has checked that shapes belong together.
pub(super) fn fits(dtype: Dtype, m: &Matrix, k: i32) -> bool {
    let half = match m.quant.map(|q| q.mode) {
        None => m.weight.dtype() == dtype,
        Some(QuantMode::Affine) => {
            m.scales.is_some_and(|s| s.dtype() == dtype) && m.biases.is_some_and(|b| b.dtype() == dtype)
        }
        Some(_) => m.scales.is_some_and(|s| s.dtype() == Dtype::Uint8) && m.biases.is_none(),
    };
    is_half(dtype) && half && k % 32 == 0 && k > 0
}

/// Experts of a stack: row i of the output takes x row i / share and matrix idx[i] (uint32, clipped).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Experts<'a> {
    pub idx: &'a Array,
    pub share: i32,
}

/// Bytes of the next weight that are brought into the cache: about what the card reads between two launches.
const PREFETCH: usize = 8 << 20;

/// The kernel's result for x [..., K] and the rows of all parts, of shape `out`; `None` where no kernel fits.
///
/// The caller has checked that the shapes of parts, `f` and `out` belong together.
pub(crate) fn gemv(
    gpu: &Gpu,
    x: &Array,
    parts: &[Matrix],
    f: &Fused,
    experts: Option<Experts>,
    out: &[i32],
) -> Option<Array> {
    let (first, rest) = parts.split_first()?;
    let format = Format::of(first)?;
    let k = x.dim(-1);
    let n = *out.last()?;
    let same = rest.iter().all(|p| p.quant == first.quant && p.bias.is_some() == first.bias.is_some());
    // a tile lies in one part
    let whole_tiles = f.gate.is_some() || parts[..parts.len() - 1].iter().all(|p| p.outputs() % 16 == 0);
    let most = if f.gate.is_some() { 2 } else { 3 };
    if !parts.iter().all(|p| fits(x.dtype(), p, k)) || n == 0 || !same || !whole_tiles || parts.len() > most {
        return None;
    }
    let total: i32 = out[..out.len() - 1].iter().product();
    let rows = if experts.is_some() { 1 } else { total };
    let bound = match rows {
        1 => 1,
        2..=8 => 8,
        9..=16 => 16,
        17..=32 => 32,
        _ => return None,
    };
    let tiles = if f.gate.is_some() { (n + 7) / 8 } else { (n + 15) / 16 };
    let (warps, blocks) = shape_of(gpu, tiles * if experts.is_some() { total } else { 1 }, k, bound);
    let columns = if bound == 1 { 1 } else { bound };
    let fixed = (bound + warps) * 4 + 2 * warps * 16 * columns * 4;
    let staged = fixed + rows * (round_up(k, 128) + 32) * 2;
    let shared = staged <= if f.norm.is_some() { SHARED_MOST } else { SHARED_TWO };
    if f.norm.is_some() && !shared {
        return None;
    }
    let bytes = if shared { staged } else { fixed };
    let steps = if bytes <= 48000 { 0 } else { (bytes + 16383) / 16384 };
    let columns_of_blocks = (k + 127) / 128;
    let wide = format.unroll();
    let unroll =
        if bound <= 8 && columns_of_blocks % wide == 0 && columns_of_blocks >= wide * warps { wide } else { 1 };
    let next: SmallVec<[&Array; 2]> = f.next.into_iter().flatten().collect();
    let places: Option<SmallVec<[[Option<i32>; 2]; 3]>> = parts.iter().map(places).collect();
    let spec = Gemv {
        format,
        f16: x.dtype() == Dtype::Float16,
        parts: parts.len() as u8,
        next: next.len() as u8,
        rows: bound as u8,
        warps: warps as u8,
        unroll: unroll as u8,
        shared,
        shared_steps: steps as u8,
        norm: f.norm.is_some(),
        gate: match f.gate {
            None => 0,
            Some(Gate::Silu) => 1,
            Some(Gate::GeluTanh) => 2,
        },
        bias: first.bias.is_some(),
        residual: f.residual.is_some(),
        indexed: experts.is_some(),
        joined: places.is_some(),
    };
    let kernel = kernel(&GEMVS, spec, gpu)?;
    let mut inputs: SmallVec<[&Array; 16]> = SmallVec::new();
    inputs.push(x);
    inputs.extend(f.norm.map(|n| n.0));
    for p in parts {
        inputs.push(p.weight);
        if places.is_none() {
            inputs.extend([p.scales, p.biases].into_iter().flatten());
        }
        inputs.extend(p.bias);
    }
    inputs.extend([f.residual, experts.map(|e| e.idx)].into_iter().flatten());
    inputs.extend(next.iter().copied());
    let launch = Launch {
        grid: [blocks.min(tiles), experts.map_or(1, |_| total), 1],
        threads: warps * 32,
        shared: if steps == 0 { bytes } else { steps * 16384 },
    };
    let end = |i: usize| parts[..i.min(parts.len())].iter().map(Matrix::outputs).sum::<i32>();
    let ahead = next.iter().map(|a| a.nbytes()).min().unwrap_or(0).min(PREFETCH / next.len().max(1));
    let mut scalars: SmallVec<[Scalar; 16]> =
        places.iter().flatten().flatten().flatten().copied().map(Scalar::Int).collect();
    scalars.extend([
        Scalar::Int(rows),
        Scalar::Int(n),
        Scalar::Int(k),
        Scalar::Int(end(1)),
        Scalar::Int(end(2)),
        Scalar::Int(experts.map_or(1, |e| e.share)),
        Scalar::Int(if first.weight.ndim() > 2 { first.weight.dim(0) } else { 1 }),
        Scalar::Int(ahead as i32),
        Scalar::Float(f.norm.map_or(0.0, |n| n.1)),
    ]);
    // SAFETY: the kernel reads `rows` (or `total`) rows of K and all rows of the parts in this format, of `next` the
    // first `ahead` bytes, and writes `out`
    let result = unsafe { kernel.call(&inputs, &[(out, x.dtype())], &scalars, launch) };
    result.into_iter().next()
}

/// Where scales and offsets start, in 16 bytes from the start of the weight, if all lie in one buffer.
fn places(m: &Matrix) -> Option<[Option<i32>; 2]> {
    let (buffer, start) = m.weight.buffer()?;
    let place = |a: &Array| {
        let (b, at) = a.buffer()?;
        let from = at - start;
        (b == buffer && from % 16 == 0).then(|| i32::try_from(from / 16).ok())?
    };
    let scales = Some(place(m.scales?)?);
    Some([
        scales,
        match m.biases {
            Some(b) => Some(place(b)?),
            None => None,
        },
    ])
}

/// Warps a block and blocks of the grid: enough blocks to fill the card, each with equally many tiles.
fn shape_of(gpu: &Gpu, tiles: i32, k: i32, bound: i32) -> (i32, i32) {
    let sms = gpu.multiprocessors;
    if k < 1024 {
        return (4, sms * 4);
    }
    // idle share of the last round of blocks
    let waste = |slots: i32| {
        let rounds = (tiles + slots - 1) / slots;
        let at_once = if tiles <= slots { (tiles + sms - 1) / sms * sms } else { rounds * slots };
        at_once as f32 / tiles.max(1) as f32
    };
    // each block stages x by itself: with several rows few large blocks are better
    let warps = if bound == 1 && waste(sms * 4) < 0.9 * waste(sms * 2) { 4 } else { 8 };
    let slots = sms * 16 / warps;
    let rounds = (tiles + slots - 1) / slots;
    (warps, (tiles + rounds - 1) / rounds)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Embed {
    format: Format,
    f16: bool,
}

impl Spec for Embed {
    fn name(&self) -> String {
        format!("embed_{}_{}", self.format.name(), if self.f16 { "f16" } else { "bf16" })
    }
    fn source(&self, name: &str) -> String {
        let scaled = self.format != Format::Dense;
        let (scales, biases) = (scaled, self.format.has_biases());
        format!(
            "#define HALF {}\n{COMMON}{FORMATS}{EMBED}\nextern \"C\" __global__ void __launch_bounds__(128) \
             {name}(const u32* ids, const u8* w, {}{}u16* out, int rows, int K, float scale) {{\n\
             embed<{}>(ids, w, {}, {}, out, rows, K, scale);\n}}\n",
            self.f16 as u8,
            if scales { "const u8* scales, " } else { "" },
            if biases { "const u8* biases, " } else { "" },
            self.format.class(),
            if scales { "scales" } else { "nullptr" },
            if biases { "biases" } else { "nullptr" },
        )
    }
}

/// Rows `ids` (uint32 [..]) of an embedding table [V, K] times `scale`; `None` where no kernel fits.
pub(crate) fn embed(gpu: &Gpu, ids: &Array, m: &Matrix, k: i32, dtype: Dtype, scale: f32) -> Option<Array> {
    let format = Format::of(m)?;
    let count = ids.size() as i32;
    if !fits(dtype, m, k) || ids.dtype() != Dtype::Uint32 || count == 0 {
        return None;
    }
    let kernel: Rc<Kernel> = kernel(&EMBEDS, Embed { format, f16: dtype == Dtype::Float16 }, gpu)?;
    let mut inputs: SmallVec<[&Array; 4]> = SmallVec::new();
    inputs.extend([ids, m.weight]);
    inputs.extend([m.scales, m.biases].into_iter().flatten());
    let mut shape: SmallVec<[i32; 4]> = ids.shape().into();
    shape.push(k);
    let scalars = [Scalar::Int(m.weight.dim(-2)), Scalar::Int(k), Scalar::Float(scale)];
    let launch = Launch { grid: [count, 1, 1], threads: 128, shared: 0 };
    // SAFETY: one block an id; ids are clipped to the table's rows
    unsafe { kernel.call(&inputs, &[(&shape, dtype)], &scalars, launch) }.into_iter().next()
}
