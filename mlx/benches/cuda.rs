//! Times the CUDA kernels: microseconds a call and GB/s of weights (or keys and values) read, beside MLX's own op.
//!
//! Calls form a chain through the residual, so that they run one after the other; weights rotate through more memory
//! than the card's cache. `cargo bench -p mlx --bench cuda [-- NAME]`.

use mlx::fast::{self, DecodeAttention, Fused, Gate, KvBuffers, Matrix, Place, Rotation};
use mlx::{self as mx, Array, Dtype, Quant, QuantMode};
use std::time::Instant;

/// Median seconds of `f`, which builds a graph of `n` calls; per call.
fn time(n: usize, mut f: impl FnMut() -> Array) -> f64 {
    let mut times: Vec<f64> = (0..6)
        .map(|_| {
            let y = f();
            let start = Instant::now();
            y.eval().unwrap();
            start.elapsed().as_secs_f64() / n as f64
        })
        .collect();
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Weight {
    arrays: Vec<Array>,
    quant: Option<Quant>,
}

impl Weight {
    fn new(n: i32, k: i32, quant: Option<Quant>) -> Weight {
        let bf = Dtype::Bfloat16;
        let arrays = match quant {
            None => vec![mx::random::normal([n, k], bf, 0.0, 0.02, None)],
            Some(q) => {
                let words = mx::random::randint(i32::MIN, i32::MAX, [n, k / 32 * q.bits], Dtype::Int32, None);
                let words = words.view(Dtype::Uint32);
                let groups = [n, k / q.group_size];
                if q.mode == QuantMode::Affine {
                    let s = mx::random::uniform(0.001, 0.003, groups, bf, None);
                    let b = &s * -7.5;
                    vec![words, s, b]
                } else {
                    vec![words, mx::full(groups, 120, Some(Dtype::Uint8))]
                }
            }
        };
        mx::eval(&arrays).unwrap();
        Weight { arrays, quant }
    }
    fn bytes(&self) -> usize {
        self.arrays.iter().map(Array::nbytes).sum()
    }
    fn matrix(&self) -> Matrix<'_> {
        match self.quant {
            None => Matrix::dense(&self.arrays[0]),
            Some(q) => Matrix::quantized(&self.arrays[0], &self.arrays[1], self.arrays.get(2), q),
        }
    }
}

fn gemv(name: &str, n: i32, k: i32, m: i32, quant: Option<Quant>, norm: bool, gate: Option<Gate>) {
    let one = Weight::new(if gate.is_some() { 2 * n } else { n }, k, quant);
    let bytes = one.bytes();
    let sets = (200_000_000 / bytes).clamp(2, 40);
    let weights: Vec<Weight> = std::iter::once(one)
        .chain((1..sets).map(|_| Weight::new(if gate.is_some() { 2 * n } else { n }, k, quant)))
        .collect();
    let x = mx::random::normal([m, k], Dtype::Bfloat16, 0.0, 1.0, None);
    let nw = mx::ones([k], Dtype::Bfloat16);
    let y0 = mx::zeros([m, n], Dtype::Bfloat16);
    mx::eval([&x, &nw, &y0]).unwrap();
    let calls = sets.max(400);
    let run = |plain: bool| {
        time(calls, || {
            let mut y = y0.clone();
            for i in 0..calls {
                let f = Fused { norm: norm.then_some((&nw, 1e-5)), gate, residual: Some(&y), ..Default::default() };
                let w = weights[i % sets].matrix();
                y = if plain { fast::linear_plain(&x, &[w], f) } else { fast::linear(&x, &[w], f) };
            }
            y
        })
    };
    let (ours, theirs) = (run(false), run(true));
    let rate = |t: f64| bytes as f64 / t / 1e9;
    println!(
        "{name:24} m {m:2} {:>7.2} us {:>5.0} GB/s   MLX {:>7.2} us {:>5.0} GB/s   {:.2}x",
        ours * 1e6,
        rate(ours),
        theirs * 1e6,
        rate(theirs),
        theirs / ours
    );
}

fn attention(name: &str, [heads, kv, d]: [i32; 3], batch: i32, keys: i32, quant: Option<Quant>) {
    let bf = Dtype::Bfloat16;
    let layers = 24usize;
    let shape = [batch, kv, (keys + 256) / 256 * 256, d];
    let fresh = || mx::random::normal(shape, bf, 0.0, 1.0, None);
    let mut caches: Vec<KvBuffers> = (0..layers)
        .map(|_| {
            let (k, v) = (fresh(), fresh());
            let Some(q) = quant else {
                mx::eval([&k, &v]).unwrap();
                return KvBuffers::new(k, v);
            };
            let side = |a: &Array| {
                let (words, scales, biases) = mx::quantize(a, q);
                let all = [words, scales, biases.unwrap()];
                mx::eval(&all).unwrap();
                all
            };
            KvBuffers::packed(side(&k), side(&v), [q, q])
        })
        .collect();
    let qkv = mx::random::normal([batch, (heads + 2 * kv) * d], bf, 0.0, 1.0, None);
    let radians = Array::from((0..d / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / d as f32)).collect::<Vec<_>>());
    mx::eval([&qkv, &radians]).unwrap();
    let a = DecodeAttention {
        heads,
        kv_heads: kv,
        head_dim: d,
        scale: (d as f32).powf(-0.5),
        rotation: Some(Rotation { radians: &radians, traditional: false, feature_scale: 1.0 }),
        qk_norm: None,
        window: None,
        softcap: None,
        sinks: None,
        next: None,
    };
    let t = time(layers, || {
        let mut y = qkv.clone();
        for c in &mut caches {
            // the next step starts from this one's result: one after the other
            let o = c.attend(&y, Place::At(keys - 1), &a);
            y = mx::concatenate(&[o, qkv.slice_axis(1, heads * d..(heads + 2 * kv) * d)], 1);
        }
        y
    });
    let whole = (2 * batch * kv * keys * d * 2) as f64;
    let bytes = quant.map_or(whole, |q| whole / 16.0 * (q.bits as f64 + 32.0 / q.group_size as f64));
    println!(
        "{name:24} b {batch:2} keys {keys:6} {:>7.2} us {:>5.0} GB/s (with the op that joins the chain)",
        t * 1e6,
        bytes / t / 1e9
    );
}

/// Layers with states of their own, one after the other through their outputs: microseconds a layer and GB/s of states,
/// read and written.
fn recurrent(name: &str, state: [i32; 4], mut layer: impl FnMut(&Array, &Array) -> (Array, Array)) {
    let mut states: Vec<Array> = (0..24).map(|_| mx::random::normal(state, Dtype::Float32, 0.0, 0.1, None)).collect();
    let zero = mx::zeros([1], Dtype::Bfloat16);
    mx::eval(states.iter().chain([&zero])).unwrap();
    let (layers, bytes) = (states.len(), 2 * states[0].nbytes());
    let t = time(layers, || {
        let mut join = zero.clone();
        for s in &mut states {
            let (out, next) = layer(&join, s);
            join = out.flatten(0, -1).slice_axis(0, 0..1).astype(Dtype::Bfloat16) * 0.0;
            *s = next;
        }
        join
    });
    println!("{name:24} {:>7.2} us {:>5.0} GB/s (with the ops that join the chain)", t * 1e6, bytes as f64 / t / 1e9);
}

fn recurrences() {
    let bf = Dtype::Bfloat16;
    let normal = |shape: &[i32]| {
        let a = mx::random::normal(shape, bf, 0.0, 1.0, None);
        a.eval().unwrap();
        a
    };
    for tokens in [1, 16] {
        // qwen3-next
        let (hk, hv, d) = (16, 32, 128);
        let (all, row) = (2 * hk * d + hv * d, 6 * d);
        let (x, ba) = (normal(&[1, tokens, hk * row]), normal(&[1, tokens, 2 * hv]));
        let (w, tail, number, norm) = (normal(&[all, 4, 1]), normal(&[1, 3, all]), normal(&[hv]), normal(&[d]));
        recurrent(&format!("gated delta 32x128x128, {tokens}"), [1, hv, d, d], |join, s| {
            let (x, conv) = (&x + join, fast::ShortConv { weight: &w, bias: None, tail: Some(&tail) });
            let part = |at: i32| fast::Columns { x: &x, at, stride: row };
            let layer = fast::DeltaLayer {
                key_heads: hk,
                value_heads: hv,
                key_dim: d,
                value_dim: d,
                q: part(0),
                k: part(d),
                v: part(2 * d),
                convs: &[conv],
                beta: fast::Columns { x: &ba, at: 0, stride: 4 },
                reach: 1.0,
                a: fast::Columns { x: &ba, at: 2, stride: 4 },
                channels: false,
                decay: fast::LogDecay::Softplus,
                a_log: &number,
                dt_bias: &number,
                norm: (&norm, 1e-6),
                gate: fast::HeadGate::Silu(part(4 * d)),
            };
            let done = fast::delta_fused(&layer, Some(s)).expect("a kernel");
            (done.out, done.state)
        });
        // nemotron-h 8b
        let (h, p, g, n) = (128, 64, 8, 128);
        let c = h * p + 2 * g * n;
        let (x, w) = (normal(&[1, tokens, h * p + c + h]), normal(&[c, 4, 1]));
        let (tail, number) = (normal(&[1, 3, c]), normal(&[h]));
        recurrent(&format!("mamba2 128x64x128, {tokens}"), [1, h, p, n], |join, s| {
            let layer = fast::SpaceLayer {
                heads: h,
                head_dim: p,
                groups: g,
                state: n,
                x: &(&x + join),
                at: h * p,
                dt_at: h * p + c,
                conv: fast::ShortConv { weight: &w, bias: None, tail: Some(&tail) },
                a_log: &number,
                dt_bias: Some(&number),
                skip: Some(&number),
                dt_limit: (0.0, f32::INFINITY),
            };
            let done = fast::space_fused(&layer, Some(s)).expect("a kernel");
            (done.out, done.state)
        });
        // rwkv7 of 2,560 channels
        let (h, k) = (40, 64);
        let (r, by) = (normal(&[1, tokens, h * k]), normal(&[h, k]));
        recurrent(&format!("rwkv7 40x64x64, {tokens}"), [1, h, k, k], |join, s| {
            let x = &r + join;
            let x = fast::Columns::new(&x, 0, k);
            let layer = fast::WkvLayer {
                heads: h,
                key_dim: k,
                value_dim: k,
                r: x,
                k: x,
                v: x,
                rate: x,
                decay: x,
                gate: x,
                first: Some((x, x)),
                k_k: &by,
                k_a: &by,
                r_k: &by,
                norm: (&by, &by, 1e-5),
                unit: fast::UnitLength::AtLeast(1e-12),
            };
            fast::wkv_fused(&layer, Some(s)).expect("a kernel")
        });
    }
    for (tokens, heads, width) in [(2048, 32, 128), (2048, 64, 64)] {
        let q = normal(&[1, tokens, heads, width]).swapaxes(1, 2);
        let k = &q * (width as f32).powf(-0.5);
        let g = -normal(&[1, heads, tokens, 1]).astype(Dtype::Float32).abs();
        let beta = normal(&[1, heads, tokens, 1]).sigmoid();
        mx::eval([&k, &g, &beta]).unwrap();
        recurrent(&format!("delta scan {heads}x{width}x{width}, {tokens}"), [1, heads, width, width], |join, s| {
            let q = &q + join;
            let rule = fast::Rule::Delta { beta: &beta };
            fast::linear_scan(&fast::LinearScan { q: &q, k: &k, v: &q, g: &g, rule }, Some(s.clone()))
        });
    }
}

/// The projections of a layer of rwkv7 (2,048 channels) in two launches, one layer after the other.
fn products() {
    let (bf, d, layers) = (Dtype::Bfloat16, 2048, 24usize);
    let normal = |shape: &[i32]| mx::random::normal(shape, bf, 0.0, 0.02, None);
    let shapes = [(d, d), (d, d), (d, d), (96, d), (256, d), (96, d), (64, d), (d, 96), (d, 256), (d, 96), (d, 64)];
    for shared in [false, true] {
        let weights: Vec<Vec<Array>> = (0..layers)
            .map(|_| {
                let all: Vec<Array> = shapes.iter().map(|&(n, k)| normal(&[n, k])).collect();
                mx::eval(&all).unwrap();
                let joined = if shared { fast::share_buffer(&all.iter().collect::<Vec<_>>()).unwrap() } else { None };
                joined.unwrap_or(all)
            })
            .collect();
        let (x, by) = (normal(&[1, 1, d]), normal(&[d]));
        mx::eval([&x, &by]).unwrap();
        let run = |plain: bool| {
            time(layers, || {
                let mut y = x.clone();
                for w in &weights {
                    let product = |x, at, toward, w| fast::Product {
                        x: fast::Columns::new(x, at, 0),
                        toward,
                        weight: Matrix::dense(w),
                        after: fast::After::Same,
                    };
                    let all: Vec<_> = w[..7].iter().map(|w| product(&y, 0, Some((&x, &by)), w)).collect();
                    if plain {
                        let down: Vec<Array> = all.iter().map(fast::product_plain).collect();
                        let up =
                            w[7..].iter().zip(&down[3..]).map(|(w, x)| fast::product_plain(&product(x, 0, None, w)));
                        y = up.fold(&down[0] + &down[1] + &down[2], |y, u| y + u);
                        continue;
                    }
                    let down = fast::products_fused(&all).expect("a kernel");
                    let ups: Vec<_> =
                        w[7..].iter().zip(&down[3..]).map(|(w, (x, at))| product(x, *at, None, w)).collect();
                    let up = fast::products_fused(&ups).expect("a kernel");
                    y = up[3].0.slice_axis(-1, 0..d);
                }
                y
            })
        };
        let bytes: usize = weights[0].iter().map(Array::nbytes).sum();
        let (ours, theirs) = (run(false), run(true));
        println!(
            "rwkv7 products, shared {shared} {:>7.2} us {:>5.0} GB/s   MLX {:>7.2} us",
            ours * 1e6,
            bytes as f64 / ours / 1e9,
            theirs * 1e6
        );
    }
}

/// Steps of latent attention in layers one after the other.
fn latent(name: &str, heads: i32, batch: i32, keys: i32) {
    let (bf, layers, rank, rope) = (Dtype::Bfloat16, 24usize, 512, 64);
    let fresh = |d: i32| mx::random::normal([batch, 1, (keys + 256) / 256 * 256, d], bf, 0.0, 1.0, None);
    let mut caches: Vec<KvBuffers> = (0..layers)
        .map(|_| {
            let (k, v) = (fresh(rank), fresh(rope));
            mx::eval([&k, &v]).unwrap();
            KvBuffers::new(k, v)
        })
        .collect();
    let radians = Array::from((0..rope / 2).map(|i| 10000f32.powf(-(i as f32) / 32.0)).collect::<Vec<_>>());
    let norm = mx::ones([rank], bf);
    let a = fast::LatentAttention {
        heads,
        rank,
        rope,
        scale: 0.07,
        rotation: Some(Rotation { radians: &radians, traditional: true, feature_scale: 1.0 }),
        norm: Some((&norm, 1e-6)),
        window: None,
    };
    let q = mx::random::normal([batch, 1, heads * 192], bf, 0.0, 1.0, None);
    let kv = mx::random::normal([batch, 1, rank + rope], bf, 0.0, 1.0, None);
    let first = mx::random::normal([batch, heads, rank], bf, 0.0, 1.0, None);
    mx::eval([&q, &kv, &first, &radians, &norm]).unwrap();
    let t = time(layers, || {
        let mut y = first.clone();
        for c in &mut caches {
            let rotated = fast::Columns { x: &q, at: 128, stride: 192 };
            let kv = fast::Columns::new(&kv, 0, 0);
            y = c.attend_latent(rotated, &y, kv, Place::At(keys - 1), &a).expect("a kernel");
        }
        y
    });
    let bytes = (batch * keys * (rank + rope) * 2) as f64;
    println!("{name:24} b {batch:2} keys {keys:6} {:>7.2} us {:>5.0} GB/s", t * 1e6, bytes / t / 1e9);
}

fn main() {
    if !mx::cuda_is_available() {
        println!("no CUDA device");
        return;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| name.contains(o.as_str()));
    let (q4, q8) = (Some(Quant::affine(64, 4)), Some(Quant::affine(64, 8)));
    let silu = Some(Gate::Silu);
    let cases: &[(&str, i32, i32, Option<Quant>, bool, Option<Gate>)] = &[
        ("8b qkv q4 norm", 6144, 4096, q4, true, None),
        ("8b o q4", 4096, 4096, q4, false, None),
        ("8b gate_up q4 norm", 14336, 4096, q4, true, silu),
        ("8b down q4", 4096, 14336, q4, false, None),
        ("8b head q4 norm", 128256, 4096, q4, true, None),
        ("1b qkv q4 norm", 3072, 2048, q4, true, None),
        ("1b gate_up q4 norm", 8192, 2048, q4, true, silu),
        ("1b down q4", 2048, 8192, q4, false, None),
        ("0.6b qkv bf16 norm", 4096, 1024, None, true, None),
        ("0.6b o bf16", 1024, 2048, None, false, None),
        ("0.6b gate_up bf16 norm", 3072, 1024, None, true, silu),
        ("0.6b down bf16", 1024, 3072, None, false, None),
        ("8b o q8", 4096, 4096, q8, false, None),
        ("8b gate_up q8 norm", 14336, 4096, q8, true, silu),
        ("8b o q6", 4096, 4096, Some(Quant::affine(64, 6)), false, None),
        ("8b o q3", 4096, 4096, Some(Quant::affine(64, 3)), false, None),
        ("8b o mxfp4", 4096, 4096, Some(Quant::of_mode(QuantMode::Mxfp4)), false, None),
        ("8b gate_up bf16 norm", 14336, 4096, None, true, silu),
    ];
    for &(name, n, k, q, norm, gate) in cases.iter().filter(|c| wanted(c.0)) {
        gemv(name, n, k, 1, q, norm, gate);
    }
    for m in [2, 4, 8, 16, 32] {
        for &(name, n, k, q, norm, gate) in cases[..4].iter().chain(&cases[8..9]).filter(|c| wanted(c.0)) {
            gemv(name, n, k, m, q, norm, gate);
        }
    }
    if wanted("recurrent") {
        recurrences();
    }
    if wanted("products") {
        products();
    }
    if wanted("latent") {
        for keys in [512, 2048, 8192, 32768] {
            latent("latent, 16 heads", 16, 1, keys);
            latent("latent, 128 heads", 128, 1, keys);
        }
        latent("latent, 16 heads", 16, 8, 2048);
    }
    if wanted("attention") {
        for keys in [512, 2048, 8192, 32768] {
            attention("8b attention", [32, 8, 128], 1, keys, None);
            attention("8b attention, q8", [32, 8, 128], 1, keys, q8);
            attention("8b attention, q4", [32, 8, 128], 1, keys, q4);
        }
        attention("0.6b attention", [16, 8, 128], 1, 512, None);
        attention("1b attention", [32, 8, 64], 1, 512, None);
        attention("8b attention", [32, 8, 128], 8, 512, None);
        attention("8b attention", [32, 8, 128], 8, 4096, None);
        for keys in [512, 8192] {
            attention("16 queries a key", [32, 2, 128], 1, keys, None);
        }
    }
}
