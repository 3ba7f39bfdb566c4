//! Launches of recurrent layers (`layers.cuh`).

use super::kernel::{Launch, Scalar};
use super::{COMMON, Gpu, LAYERS, RECURRENT, Spec, Table, kernel};
use crate::fast::layers::{
    Columns, DeltaLayer, HeadGate, LogDecay, ShortConv, SpaceLayer, Stepped, UnitLength, WkvLayer,
};
use crate::{Array, Dtype, zeros};
use smallvec::SmallVec;
use std::fmt::Write as _;

/// Where an array's numbers lie: which of the inputs, and the strides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Place {
    input: u8,
    row: i32,
    head: i32,
    at: i32,
}

impl Place {
    fn text(&self) -> String {
        format!("Rows{{x{}, {}, {}, {}}}", self.input, self.row, self.head, self.at)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Delta {
        key: i32,
        value: i32,
        per: i32,
        /// q, k, v, beta, a, z.
        places: [Place; 6],
        key_heads: i32,
        separate: bool,
        channels: bool,
        bounded: bool,
        after: u8,
    },
    Space {
        key: i32,
        value: i32,
        per: i32,
        /// u, B, C, dt.
        places: [Place; 4],
        heads: i32,
        dt_bias: bool,
        /// None, a number a head, a number a channel.
        skip: u8,
        /// D is float32.
        wide_skip: bool,
    },
    Wkv {
        key: i32,
        value: i32,
        root: bool,
        /// r, k, v, rate, decay, gate, first, share.
        places: [Place; 8],
        mixed: bool,
    },
    Norm {
        place: Place,
        first: bool,
    },
    Mix {
        count: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Layer {
    f16: bool,
    kind: Kind,
    taps: i32,
    /// Convolutions have biases.
    bias: bool,
    /// Arrays with numbers of the layer, one after the other.
    inputs: u8,
    /// `a_log` and `dt_bias` are float32.
    wide: [bool; 2],
}

/// Warps and rows a thread for a block that holds a whole head.
fn whole(key: i32, value: i32) -> Option<[i32; 2]> {
    let rows = if value > 128 { 4 } else { 2 };
    (value <= 256 && (key + 31) / 32 * rows <= 16).then(|| [((value + 4 * rows - 1) / (4 * rows)).max(4), rows])
}

/// Warps and rows a thread otherwise: small blocks, so that few heads fill the card.
pub(super) fn shared(key: i32) -> [i32; 2] {
    [4, if key <= 128 { 2 } else { 1 }]
}

impl Layer {
    fn blocks(&self) -> [i32; 2] {
        match self.kind {
            Kind::Delta { key, value, .. } | Kind::Wkv { key, value, .. } => whole(key, value).unwrap_or([16, 4]),
            Kind::Space { key, .. } => shared(key),
            Kind::Norm { .. } | Kind::Mix { .. } => [8, 1],
        }
    }

    fn stage(&self) -> String {
        let [warps, rows] = self.blocks();
        let (key, value, read, channels) = match self.kind {
            Kind::Delta { key, value, channels, .. } => (key, value, 1, channels),
            Kind::Space { key, value, .. } => (key, value, 0, false),
            Kind::Wkv { key, value, .. } => (key, value, 2, true),
            Kind::Norm { .. } | Kind::Mix { .. } => (4, 4, 0, false),
        };
        format!("Stage<{key}, {value}, {warps}, {rows}, 4, {read}, {channels}>")
    }
}

fn numbers(wide: bool) -> &'static str {
    if wide { "const float*" } else { "const u16*" }
}

impl Spec for Layer {
    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Delta { .. } => "delta",
            Kind::Space { .. } => "space",
            Kind::Wkv { .. } => "wkv",
            Kind::Norm { .. } => "norm",
            Kind::Mix { .. } => "mix",
        };
        format!("{kind}_{self:?}")
    }

    fn source(&self, name: &str) -> String {
        let threads = self.blocks()[0] * 32;
        let head = format!(
            "#define HALF {}\n{COMMON}{RECURRENT}{LAYERS}\nextern \"C\" __global__ void __launch_bounds__({threads}) {name}(",
            self.f16 as u8
        );
        let (taps, m) = (self.taps, self.stage());
        let mut p: String = (0..self.inputs).map(|i| format!("const u16* x{i}, ")).collect();
        let convs = |p: &mut String, n: usize| {
            (0..n).for_each(|i| _ = write!(p, "const u16* w{i}, "));
            (0..if self.bias { n } else { 0 }).for_each(|i| _ = write!(p, "const u16* b{i}, "));
            (0..n).for_each(|i| _ = write!(p, "const u16* t{i}, "));
        };
        let conv = |i: usize, width: i32| {
            let bias = if self.bias { format!("b{i}") } else { "nullptr".into() };
            format!("Conv{{w{i}, {bias}, t{i}, o{i}, {width}}}")
        };
        let [a_log, dt_bias] = self.wide;
        match self.kind {
            Kind::Delta { key, value, per, places, key_heads, separate, channels: _, bounded, after } => {
                let n = if separate { 3 } else { 1 };
                convs(&mut p, n);
                let outs: String = (0..n).map(|i| format!("u16* o{i}, ")).collect();
                let (keys, values) = (key_heads * key, key_heads * per * value);
                let (convs, starts) = if separate {
                    ([conv(0, keys), conv(1, keys), conv(2, values)], [0; 3])
                } else {
                    ([0; 3].map(|i| conv(i, 2 * keys + values)), [0, keys, 2 * keys])
                };
                let rows = [0, 1, 2, 4, 3, 5].map(|i: usize| places[i].text()).join(", ");
                format!(
                    "{head}{p}{} a_log, {} dt_bias, const u16* norm, const float* state, u16* out, {outs}float* next, int L, \
                     float bound, float reach, float eps) {{\nrecurrent(Delta<{key}, {per}, {taps}, {}, {after}, {m}>{{{rows}, \
                     {}, {}, {}, {}, {}, {}, Numbers{{a_log, {a_log}}}, Numbers{{dt_bias, {dt_bias}}}, norm, out, bound, reach, \
                     eps}}, state, next, L);\n}}\n",
                    numbers(a_log),
                    numbers(dt_bias),
                    bounded as u8,
                    convs[0],
                    convs[1],
                    convs[2],
                    starts[0],
                    starts[1],
                    starts[2],
                )
            }
            Kind::Space { key, value, per, places, heads, dt_bias: biased, skip, wide_skip } => {
                convs(&mut p, 1);
                let (inner, keys) = (heads * value, heads / per * key);
                let rows = places.map(|r| r.text()).join(", ");
                let optional = |there: bool, name: &str, wide: bool| match there {
                    true => (format!("{} {name}, ", numbers(wide)), format!("Numbers{{{name}, {wide}}}")),
                    false => (String::new(), "Numbers{nullptr, false}".to_string()),
                };
                let (bias, d) = (optional(biased, "dt_bias", dt_bias), optional(skip > 0, "skip", wide_skip));
                format!(
                    "{head}{p}{} a_log, {}{}const float* state, u16* out, u16* o0, float* next, int L, float low, float high) \
                     {{\nrecurrent(Space<{key}, {per}, {taps}, {skip}, {m}>{{{rows}, {}, 0, {inner}, {}, \
                     Numbers{{a_log, {a_log}}}, {}, {}, out, low, high}}, state, next, L);\n}}\n",
                    numbers(a_log),
                    bias.0,
                    d.0,
                    conv(0, inner + 2 * keys),
                    inner + keys,
                    bias.1,
                    d.1,
                )
            }
            Kind::Wkv { key, root, places, mixed, .. } => format!(
                "{head}{p}const u16* kk, const u16* ka, const u16* rk, const u16* weight, const u16* bias, const float* state, \
                 u16* out, float* next, int L, float small, float eps) {{\nrecurrent(Wkv<{key}, {}, {mixed}, {m}>{{{}, kk, ka, \
                 rk, weight, bias, out, small, eps}}, state, next, L);\n}}\n",
                root as u8,
                places.map(|r| r.text()).join(", "),
            ),
            Kind::Norm { place, first } => format!(
                "{head}const u16* y, const u16* x0, const u16* weight, u16* out, int width, float eps) {{\n\
                 gated_norm<{first}>(y, {}, weight, out, width, eps);\n}}\n",
                place.text()
            ),
            Kind::Mix { count } => {
                let list = |f: &dyn Fn(i32) -> String| (0..count).map(f).collect::<Vec<_>>().join(", ");
                format!(
                    "{head}const u16* x, const u16* before, {}, {}, u16* last, int D) {{\n\
                     const u16* const by[{count}] = {{{}}};\nu16* const out[{count}] = {{{}}};\n\
                     token_mix<{count}>(x, before, by, out, last, D);\n}}\n",
                    list(&|i| format!("const u16* p{i}")),
                    list(&|i| format!("u16* o{i}")),
                    list(&|i| format!("p{i}")),
                    list(&|i| format!("o{i}")),
                )
            }
        }
    }
}

thread_local! { static KERNELS: Table<Layer> = Table::default(); }

/// The arrays that a launch reads, each once, and where the columns lie in them.
#[derive(Default)]
struct Inputs<'a> {
    arrays: SmallVec<[&'a Array; 20]>,
}

impl<'a> Inputs<'a> {
    fn place(&mut self, c: Columns<'a>) -> Place {
        let same = |a: &&Array| a.as_raw().ctx == c.x.as_raw().ctx;
        let input = self.arrays.iter().position(same).unwrap_or_else(|| {
            self.arrays.push(c.x);
            self.arrays.len() - 1
        });
        Place { input: input as u8, row: c.x.dim(2), head: c.stride, at: c.at }
    }
}

/// The tail of a convolution, zeros before the first token.
fn tail(c: &ShortConv, x: &Array) -> Array {
    let fresh = || zeros([x.dim(0), c.weight.dim(1) - 1, c.weight.dim(0)], x.dtype());
    c.tail.cloned().unwrap_or_else(fresh)
}

fn is_wide(a: &Array) -> bool {
    a.dtype() == Dtype::Float32
}

/// The caller has checked all shapes and dtypes.
pub(crate) fn delta(gpu: &Gpu, i: &DeltaLayer, z: Option<Columns>, state: Option<&Array>) -> Option<Stepped> {
    let (x, [hk, hv, k, v]) = (i.q.x, [i.key_heads, i.value_heads, i.key_dim, i.value_dim]);
    let [b, l, _] = x.dims();
    let [warps, _] = whole(k, v)?;
    let mut inputs = Inputs::default();
    let mut places = [i.q, i.k, i.v, i.beta, i.a, i.q].map(|c| inputs.place(c));
    if let Some(z) = z {
        places[5] = inputs.place(z);
    }
    let kind = Kind::Delta {
        key: k,
        value: v,
        per: hv / hk,
        places,
        key_heads: hk,
        separate: i.convs.len() == 3,
        channels: i.channels,
        bounded: i.decay != LogDecay::Softplus,
        after: match i.gate {
            HeadGate::None => 1,
            HeadGate::Silu(_) => 2,
            HeadGate::Sigmoid(_) => 3,
        },
    };
    let spec = Layer {
        f16: x.dtype() == Dtype::Float16,
        kind,
        taps: i.convs.first()?.weight.dim(1),
        bias: i.convs.first()?.bias.is_some(),
        inputs: inputs.arrays.len() as u8,
        wide: [is_wide(i.a_log), is_wide(i.dt_bias)],
    };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let tails: SmallVec<[Array; 3]> = i.convs.iter().map(|c| tail(c, x)).collect();
    let fresh;
    let state = match state {
        Some(s) => s,
        None => {
            fresh = zeros([b, hv, v, k], Dtype::Float32);
            &fresh
        }
    };
    let mut arrays: SmallVec<[&Array; 20]> = inputs.arrays.iter().copied().collect();
    arrays.extend(i.convs.iter().map(|c| c.weight));
    arrays.extend(i.convs.iter().filter_map(|c| c.bias));
    arrays.extend(&tails);
    arrays.extend([i.a_log, i.dt_bias, i.norm.0, state]);
    let out = [b, l, hv * v];
    let mut outputs: SmallVec<[(&[i32], Dtype); 5]> = SmallVec::new();
    outputs.push((&out, x.dtype()));
    outputs.extend(tails.iter().map(|t| (t.shape(), x.dtype())));
    outputs.push((state.shape(), Dtype::Float32));
    let bound = match i.decay {
        LogDecay::Softplus => 0.0,
        LogDecay::Bounded(bound) => bound,
    };
    let scalars = [Scalar::Int(l), Scalar::Float(bound), Scalar::Float(i.reach), Scalar::Float(i.norm.1)];
    let launch = Launch { grid: [1, hv, b], threads: warps * 32, shared: 0 };
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    split(unsafe { kernel.call(&arrays, &outputs, &scalars, launch) })
}

fn split(outputs: Vec<Array>) -> Option<Stepped> {
    let mut all = outputs.into_iter();
    let out = all.next()?;
    let mut tails: Vec<Array> = all.collect();
    let state = tails.pop()?;
    Some(Stepped { out, tails, state })
}

/// The caller has checked all shapes and dtypes.
pub(crate) fn space(gpu: &Gpu, i: &SpaceLayer, state: Option<&Array>) -> Option<Stepped> {
    let (x, [h, p, g, n]) = (i.x, [i.heads, i.head_dim, i.groups, i.state]);
    let [b, l, _] = x.dims();
    if (n + 31) / 32 > 8 {
        return None;
    }
    let mut inputs = Inputs::default();
    let columns = |at: i32, width: i32| Columns::new(x, at, width);
    let (keys, queries) = (i.at + h * p, i.at + h * p + g * n);
    let places = [columns(i.at, p), columns(keys, n), columns(queries, n), columns(i.dt_at, 1)];
    let kind = Kind::Space {
        key: n,
        value: p,
        per: h / g,
        places: places.map(|c| inputs.place(c)),
        heads: h,
        dt_bias: i.dt_bias.is_some(),
        skip: i.skip.map_or(0, |d| if d.size() as i32 == h { 1 } else { 2 }),
        wide_skip: i.skip.is_some_and(is_wide),
    };
    let spec = Layer {
        f16: x.dtype() == Dtype::Float16,
        kind,
        taps: i.conv.weight.dim(1),
        bias: i.conv.bias.is_some(),
        inputs: 1,
        wide: [is_wide(i.a_log), i.dt_bias.is_some_and(is_wide)],
    };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let [warps, rows] = shared(n);
    let tail = tail(&i.conv, x);
    let fresh;
    let state = match state {
        Some(s) => s,
        None => {
            fresh = zeros([b, h, p, n], Dtype::Float32);
            &fresh
        }
    };
    let mut arrays: SmallVec<[&Array; 10]> = SmallVec::new();
    arrays.extend([x, i.conv.weight]);
    arrays.extend(i.conv.bias);
    arrays.extend([&tail, i.a_log]);
    arrays.extend(i.dt_bias);
    arrays.extend(i.skip);
    arrays.push(state);
    let out = [b, l, h * p];
    let outputs: [(&[i32], Dtype); 3] = [(&out, x.dtype()), (tail.shape(), x.dtype()), (state.shape(), Dtype::Float32)];
    let scalars = [Scalar::Int(l), Scalar::Float(i.dt_limit.0), Scalar::Float(i.dt_limit.1)];
    let block = 4 * warps * rows;
    let launch = Launch { grid: [(p + block - 1) / block, h, b], threads: warps * 32, shared: 0 };
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    split(unsafe { kernel.call(&arrays, &outputs, &scalars, launch) })
}

/// The caller has checked all shapes and dtypes.
pub(crate) fn wkv(gpu: &Gpu, i: &WkvLayer, state: Option<&Array>) -> Option<(Array, Array)> {
    let (x, [h, k, v]) = (i.r.x, [i.heads, i.key_dim, i.value_dim]);
    let [b, l, _] = x.dims();
    let [warps, _] = whole(k, v)?;
    let mut inputs = Inputs::default();
    let (first, share) = i.first.unwrap_or((i.v, i.v));
    let places = [i.r, i.k, i.v, i.rate, i.decay, i.gate, first, share].map(|c| inputs.place(c));
    let (root, small) = match i.unit {
        UnitLength::AtLeast(eps) => (false, eps),
        UnitLength::Root(eps) => (true, eps),
    };
    let kind = Kind::Wkv { key: k, value: v, root, places, mixed: i.first.is_some() };
    let f16 = x.dtype() == Dtype::Float16;
    let spec = Layer { f16, kind, taps: 1, bias: false, inputs: inputs.arrays.len() as u8, wide: [false; 2] };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let fresh;
    let state = match state {
        Some(s) => s,
        None => {
            fresh = zeros([b, h, v, k], Dtype::Float32);
            &fresh
        }
    };
    let mut arrays: SmallVec<[&Array; 20]> = inputs.arrays.iter().copied().collect();
    arrays.extend([i.k_k, i.k_a, i.r_k, i.norm.0, i.norm.1, state]);
    let out = [b, l, h * v];
    let outputs: [(&[i32], Dtype); 2] = [(&out, x.dtype()), (state.shape(), Dtype::Float32)];
    let scalars = [Scalar::Int(l), Scalar::Float(small), Scalar::Float(i.norm.2)];
    let launch = Launch { grid: [1, h, b], threads: warps * 32, shared: 0 };
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    let mut all = unsafe { kernel.call(&arrays, &outputs, &scalars, launch) }.into_iter();
    Some((all.next()?, all.next()?))
}

/// The caller has checked all shapes and dtypes.
pub(crate) fn gated_norm(
    gpu: &Gpu,
    y: &Array,
    z: Columns,
    weight: &Array,
    eps: f32,
    groups: i32,
    first: bool,
) -> Option<Array> {
    let width = y.dim(2) / groups;
    let place = Place { input: 0, row: z.x.dim(2), head: width, at: z.at };
    let f16 = y.dtype() == Dtype::Float16;
    let spec = Layer { f16, kind: Kind::Norm { place, first }, taps: 1, bias: false, inputs: 0, wide: [false; 2] };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let rows = y.dim(0) * y.dim(1);
    let launch = Launch { grid: [groups, rows, 1], threads: 256, shared: 0 };
    let scalars = [Scalar::Int(width), Scalar::Float(eps)];
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    unsafe { kernel.call(&[y, z.x, weight], &[(y.shape(), y.dtype())], &scalars, launch) }.into_iter().next()
}

/// The caller has checked all shapes and dtypes.
pub(crate) fn token_mix(gpu: &Gpu, x: &Array, before: Option<&Array>, by: &[&Array]) -> Option<(Vec<Array>, Array)> {
    let [b, l, d] = x.dims();
    let kind = Kind::Mix { count: by.len() as i32 };
    let f16 = x.dtype() == Dtype::Float16;
    let spec = Layer { f16, kind, taps: 1, bias: false, inputs: 0, wide: [false; 2] };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let before = before.cloned().unwrap_or_else(|| zeros([b, 1, d], x.dtype()));
    let mut arrays: SmallVec<[&Array; 10]> = SmallVec::new();
    arrays.extend([x, &before]);
    arrays.extend(by.iter().copied());
    let last = [b, 1, d];
    let mut outputs: SmallVec<[(&[i32], Dtype); 8]> = by.iter().map(|_| (x.shape(), x.dtype())).collect();
    outputs.push((&last, x.dtype()));
    let launch = Launch { grid: [(d + 255) / 256, l, b], threads: 256, shared: 0 };
    // SAFETY: shapes were checked by the caller; the kernel reads and writes these and no more
    let mut all = unsafe { kernel.call(&arrays, &outputs, &[Scalar::Int(d)], launch) };
    let last = all.pop()?;
    Some((all, last))
}
