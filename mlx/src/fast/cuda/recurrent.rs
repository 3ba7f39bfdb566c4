//! Launches of the recurrences (`recurrent.cuh`).

use super::kernel::{Launch, Scalar};
use super::layers::shared;
use super::{COMMON, Gpu, RECURRENT, Spec, Table, is_half, kernel};
use crate::fast::{LinearScan, Rule, SelectiveScan};
use crate::{Array, Dtype, zeros};
use smallvec::SmallVec;

/// f32 or T for each input; what T is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Types {
    f16: bool,
    wide: [bool; 6],
}

impl Types {
    fn of<'a>(arrays: impl Iterator<Item = &'a Array>) -> Option<Types> {
        let (mut half, mut wide) = (None, [false; 6]);
        for (a, w) in arrays.zip(&mut wide) {
            *w = a.dtype() == Dtype::Float32;
            if !*w && (!is_half(a.dtype()) || *half.get_or_insert(a.dtype()) != a.dtype()) {
                return None;
            }
        }
        Some(Types { f16: half == Some(Dtype::Float16), wide })
    }
    fn parameters(&self, n: usize) -> String {
        let of = |w: bool| if w { "float" } else { "u16" };
        (0..n).map(|i| format!("const {}* x{i}, ", of(self.wide[i]))).collect()
    }
    fn numbers(&self, i: usize) -> String {
        format!("Numbers{{x{i}, {}}}", self.wide[i])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// `rule` 0: add, 1: delta, 2: remove.
    Linear {
        key: i32,
        value: i32,
        heads: [i32; 6],
        rule: u8,
        beta: bool,
        channels: bool,
    },
    Selective {
        state: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Recurrence {
    types: Types,
    kind: Kind,
}

/// Warps that bring the next tokens' numbers while the others compute.
const AHEAD: i32 = 4;

/// Lanes that share a channel of [`SelectiveScan`].
const LANES: i32 = 4;

impl Spec for Recurrence {
    fn name(&self) -> String {
        format!("scan_{self:?}")
    }

    fn source(&self, name: &str) -> String {
        let head = format!("#define HALF {}\n{COMMON}{RECURRENT}\nextern \"C\" __global__ void", self.types.f16 as u8);
        match self.kind {
            Kind::Linear { key, value, heads, rule, beta, channels } => {
                let [warps, rows] = shared(key);
                let tokens = if key <= 128 { 8 } else { 4 };
                let extra = if rule == 2 { 2 } else { usize::from(beta) };
                let source = |i: usize| format!("{{{}, {}}}", self.types.numbers(i), heads[i]);
                let none = || "{Numbers{nullptr, false}, 1}".to_string();
                let last = match (rule, beta) {
                    (2, _) => [none(), source(4), source(5)],
                    (_, true) => [source(4), none(), none()],
                    (_, false) => [none(), none(), none()],
                };
                format!(
                    "{head} __launch_bounds__({}) {name}({}const float* state, float* out, float* next, int L) {{\nrecurrent(\
                     Scan<{key}, Stage<{key}, {value}, {warps}, {rows}, {tokens}, {rule}, {channels}>>{{{}, {}, {}, {}, {}, out}}, \
                     state, next, L);\n}}\n",
                    (warps + AHEAD) * 32,
                    self.types.parameters(4 + extra),
                    source(0),
                    source(1),
                    source(2),
                    source(3),
                    last.join(", "),
                )
            }
            Kind::Selective { state } => {
                let all: Vec<String> = (0..6).map(|i| self.types.numbers(i)).collect();
                format!(
                    "{head} __launch_bounds__(128) {name}({}const float* state, float* out, float* next, int L, int D) {{\n\
                     selective<{state}, {LANES}, {}>({}, state, out, next, L, D);\n}}\n",
                    self.types.parameters(6),
                    if state <= 64 { 8 } else { 2 },
                    all.join(", "),
                )
            }
        }
    }
}

thread_local! { static KERNELS: Table<Recurrence> = Table::default(); }

/// Most of the columns and of the batch that the kernels take.
const MOST: (i32, i32) = (256, 65_535);

/// [`crate::fast::linear_scan`]; `None` for types or sizes that no kernel has. The caller has checked all shapes.
pub(crate) fn linear_scan(gpu: &Gpu, i: &LinearScan, state: Option<&Array>) -> Option<(Array, Array)> {
    let ([b, _, l, k], v, h) = (i.q.dims(), i.v.dim(3), i.heads());
    if k % 4 != 0 || k > MOST.0 || b > MOST.1 || h > MOST.1 || v == 0 || b == 0 {
        return None;
    }
    let mut heads = [1; 6];
    heads.iter_mut().zip(i.arrays()).for_each(|(n, a)| *n = a.dim(1));
    let kind = Kind::Linear {
        key: k,
        value: v,
        heads,
        rule: match i.rule {
            Rule::Add { .. } => 0,
            Rule::Delta { .. } => 1,
            Rule::Remove { .. } => 2,
        },
        beta: matches!(i.rule, Rule::Delta { .. } | Rule::Add { beta: Some(_) }),
        channels: i.g.dim(3) > 1,
    };
    let kernel = kernel(&KERNELS, Recurrence { types: Types::of(i.arrays())?, kind }, gpu)?;
    let fresh = || zeros([b, h, v, k], Dtype::Float32);
    let state = state.map_or_else(fresh, |s| s.astype(Dtype::Float32));
    // tokens before heads, as projections give them
    let turned: SmallVec<[Array; 6]> = i.arrays().map(|a| if l == 1 { a.clone() } else { a.swapaxes(1, 2) }).collect();
    let inputs: SmallVec<[&Array; 8]> = turned.iter().chain([&state]).collect();
    let outputs: [(&[i32], Dtype); 2] = [(&[b, l, h, v], Dtype::Float32), (state.shape(), Dtype::Float32)];
    let [warps, rows] = shared(k);
    let block = 4 * warps * rows;
    let launch = Launch { grid: [(v + block - 1) / block, h, b], threads: (warps + AHEAD) * 32, shared: 0 };
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    let mut all = unsafe { kernel.call(&inputs, &outputs, &[Scalar::Int(l)], launch) }.into_iter();
    Some((all.next()?.swapaxes(1, 2), all.next()?))
}

/// [`crate::fast::selective_scan`]; `None` for types or sizes that no kernel has. The caller has checked all shapes.
pub(crate) fn selective_scan(gpu: &Gpu, i: &SelectiveScan, state: Option<&Array>) -> Option<(Array, Array)> {
    let ([b, l, d], n) = (i.u.dims(), i.a.dim(1));
    if n == 0 || n > MOST.0 || b > MOST.1 || b == 0 || d == 0 {
        return None;
    }
    let spec = Recurrence { types: Types::of(i.arrays().into_iter())?, kind: Kind::Selective { state: n } };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let fresh = || zeros([b, d, n], Dtype::Float32);
    let state = state.map_or_else(fresh, |s| s.astype(Dtype::Float32));
    let inputs: SmallVec<[&Array; 7]> = i.arrays().into_iter().chain([&state]).collect();
    let outputs: [(&[i32], Dtype); 2] = [(&[b, l, d], Dtype::Float32), (state.shape(), Dtype::Float32)];
    let block = 128 / LANES;
    let launch = Launch { grid: [(d + block - 1) / block, b, 1], threads: 128, shared: 0 };
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    let mut all = unsafe { kernel.call(&inputs, &outputs, &[Scalar::Int(l), Scalar::Int(d)], launch) }.into_iter();
    Some((all.next()?, all.next()?))
}
