use crate::tools::{allowed, card, error, fresh_seed, normal, poison};
use mlx::fast::{self, Fused, Gate, Matrix, RouteScores, RouteWeights, Routing};
use mlx::{self as mx, Array, Device, Dtype, Quant, QuantMode};

/// A weight in one format, and what it stands for in float32 on the CPU.
struct Weight {
    packed: Option<(Array, Array, Option<Array>, Quant)>,
    dense: Array,
    exact: Array,
}

fn weight(shape: &[i32], q: Option<Quant>, dtype: Dtype) -> Weight {
    let dense = normal(shape, dtype, 0.05);
    let (packed, exact) = match q {
        None => (None, dense.astype(Dtype::Float32)),
        Some(q) => {
            let (w, s, b) = mx::quantize(&dense, q);
            mx::eval([&w, &s].into_iter().chain(b.as_ref())).unwrap();
            let wide = |a: &Array| if q.mode == QuantMode::Affine { a.astype(Dtype::Float32) } else { a.clone() };
            let exact = mx::with_device(Device::Cpu, || {
                mx::dequantize(&w, &wide(&s), b.as_ref().map(wide).as_ref(), q, Some(Dtype::Float32))
            });
            (Some((w, s, b, q)), exact)
        }
    };
    Weight { packed, dense, exact }
}

impl Weight {
    /// The same weight with its arrays in one buffer, where that can be.
    fn joined(self) -> Weight {
        let Some((w, s, b, q)) = &self.packed else { return self };
        let arrays: Vec<&Array> = [w, s].into_iter().chain(b).collect();
        let Some(mut shared) = fast::share_buffer(&arrays).unwrap() else { return self };
        let b = b.as_ref().and_then(|_| shared.pop());
        let (Some(s), Some(w)) = (shared.pop(), shared.pop()) else { unreachable!("as many as before") };
        Weight { packed: Some((w, s, b, *q)), ..self }
    }
    fn matrix(&self) -> Matrix<'_> {
        match &self.packed {
            None => Matrix::dense(&self.dense),
            Some((w, s, b, q)) => Matrix::quantized(w, s, b.as_ref(), *q),
        }
    }
}

fn rms(x: &Array, w: &Array, eps: f32) -> Array {
    let x = x.astype(Dtype::Float32);
    let r = ((&x * &x).mean(-1).expand_dims(-1) + eps).rsqrt();
    x * r * w.astype(Dtype::Float32)
}

fn act(gate: Gate, y: &Array) -> Array {
    let h = y.split(2, -1);
    let (g, u) = (&h[0], &h[1]);
    match gate {
        Gate::Silu => g * g.sigmoid() * u,
        Gate::GeluTanh => g * 0.5 * (((g + g * g * g * 0.044715) * 0.797_884_6).tanh() + 1.0) * u,
    }
}

/// One product against float32 on the CPU.
fn check(
    m: i32,
    k: i32,
    n: i32,
    q: Option<Quant>,
    dtype: Dtype,
    norm: bool,
    gate: Option<Gate>,
    sum: bool,
    bias: bool,
) {
    let rows = if gate.is_some() { 2 * n } else { n };
    let w = weight(&[rows, k], q, dtype);
    let x = normal(&[m, k], dtype, 1.0);
    let nw = normal(&[k], dtype, 0.1) + 1.0;
    let (res, b) = (normal(&[m, n], dtype, 1.0), normal(&[rows], dtype, 1.0));
    let f = Fused {
        norm: norm.then_some((&nw, 1e-5)),
        gate,
        residual: sum.then_some(&res),
        next: [bias.then_some(&x), None],
    };
    let matrix = w.matrix().with_bias(bias.then_some(&b));
    poison((m * n * 2) as usize);
    let y = fast::linear(&x, &[matrix], f);
    y.eval().unwrap();
    let want = mx::with_device(Device::Cpu, || {
        let x = if norm { rms(&x, &nw, 1e-5) } else { x.astype(Dtype::Float32) };
        let mut y = x.matmul(&w.exact.t());
        if bias {
            y = y + b.astype(Dtype::Float32);
        }
        if let Some(g) = gate {
            y = act(g, &y);
        }
        if sum { y + res.astype(Dtype::Float32) } else { y }
    });
    let e = error(&y, &want);
    let what = format!("m{m} k{k} n{n} {q:?} {dtype} norm {norm} gate {gate:?} sum {sum} bias {bias}");
    assert!(e < allowed(dtype, 1.2e-2), "{what}: {e:e}");
    // a second call goes through the loaded module
    let again = fast::linear(&x, &[matrix], f);
    assert_eq!(error(&again, &y), 0.0, "{what}: not the same twice");
    let w = w.joined();
    poison((m * n * 2) as usize);
    let joined = fast::linear(&x, &[w.matrix().with_bias(bias.then_some(&b))], f);
    assert_eq!(error(&joined, &y), 0.0, "{what}: not the same from one buffer");
    println!("{what}: {e:.1e}");
}

#[test]
fn every_format_multiplies_like_its_dense_form() {
    fresh_seed();
    let bf = Dtype::Bfloat16;
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            check(1, 384, 40, Some(Quant::affine(group, bits)), bf, false, None, false, false);
        }
        check(5, 1152, 33, Some(Quant::affine(64, bits)), Dtype::Float16, true, Some(Gate::Silu), false, true);
    }
    for mode in [QuantMode::Mxfp4, QuantMode::Mxfp8, QuantMode::Nvfp4] {
        check(1, 352, 40, Some(Quant::of_mode(mode)), bf, true, None, true, false);
        check(3, 1024, 17, Some(Quant::of_mode(mode)), bf, false, Some(Gate::GeluTanh), false, false);
    }
}

#[test]
fn float32_rows_hold_where_kernels_take_them() {
    if mx::cuda_is_available() {
        return;
    }
    fresh_seed();
    for q in [None, Some(Quant::affine(32, 4)), Some(Quant::affine(64, 6)), Some(Quant::of_mode(QuantMode::Nvfp4))] {
        for m in [1, 2, 7, 8, 9] {
            check(m, 192, 50, q, Dtype::Float32, m != 2, None, true, m == 7);
            check(m, 640, 333, q, Dtype::Float32, m == 2, Some(Gate::Silu), m == 8, m == 1);
        }
    }
}

#[test]
fn odd_sizes_and_row_counts_hold() {
    fresh_seed();
    let (bf, q4, q8) = (Dtype::Bfloat16, Some(Quant::affine(64, 4)), Some(Quant::affine(32, 8)));
    for m in [1, 2, 4, 7, 8, 9, 16, 31, 32, 33, 70] {
        check(m, 2048, 1000, q4, bf, false, None, true, false);
        check(m, 2112, 100, q8, bf, true, Some(Gate::Silu), false, true);
    }
    for (k, n) in [(32, 1), (96, 7), (160, 16), (4096, 4097), (14336, 129)] {
        for dtype in [bf, Dtype::Float16] {
            check(1, k, n, Some(Quant::affine(32, 4)), dtype, true, None, true, true);
            check(1, k, n, None, dtype, true, None, true, true);
            check(6, k, n, None, dtype, k < 4096, Some(Gate::Silu), false, false);
        }
    }
    check(8, 14336, 256, q4, bf, false, None, true, false);
    check(1, 4096, 14336, q4, bf, true, Some(Gate::Silu), false, false);
}

#[test]
fn operands_that_the_kernel_cannot_take_use_the_plain_form() {
    let q = Quant::affine(64, 4);
    let w = weight(&[64, 256], Some(q), Dtype::Bfloat16);
    let wide = normal(&[2, 512], Dtype::Bfloat16, 1.0);
    // a strided view is copied, not misread
    let x = wide.slice_axis(1, 128..384);
    let y = fast::linear(&x, &[w.matrix()], Fused::default());
    let want = mx::with_device(Device::Cpu, || x.astype(Dtype::Float32).matmul(&w.exact.t()));
    assert!(error(&y, &want) < 1.2e-2);
    let x = normal(&[2, 256], Dtype::Float32, 1.0);
    let dense = weight(&[64, 256], None, Dtype::Float32);
    let y = fast::linear(&x, &[dense.matrix()], Fused { residual: Some(&Array::from(1.0f32)), ..Default::default() });
    let want = mx::with_device(Device::Cpu, || x.matmul(&dense.exact.t()) + 1.0);
    assert!(error(&y, &want) < 1e-2);
}

#[test]
fn embeddings_are_rows_of_the_dense_table() {
    fresh_seed();
    let ids = Array::from_slice(&[0u32, 5, 99, 7, 7, 42], [2, 3]);
    for (k, q) in [
        (256, None),
        (160, None),
        (256, Some(Quant::affine(64, 4))),
        (160, Some(Quant::affine(32, 8))),
        (192, Some(Quant::affine(32, 6))),
        (192, Some(Quant::of_mode(QuantMode::Nvfp4))),
        (192, Some(Quant::of_mode(QuantMode::Mxfp8))),
    ] {
        let w = weight(&[100, k], q, Dtype::Bfloat16);
        poison(6 * k as usize * 2);
        let scale = if mx::cuda_is_available() { 2.0 } else { 1.0 };
        let y = fast::embed_fused(&ids, &w.matrix(), scale).expect("a kernel");
        y.eval().unwrap();
        let want = mx::with_device(Device::Cpu, || w.exact.take(&ids.reshape(-1), 0).reshape([2, 3, k]) * scale);
        let e = error(&y, &want);
        assert!(e < 4e-3, "k {k} {q:?}: {e:e}");
    }
}

#[test]
fn experts_are_chosen_per_row() {
    if !card("experts_are_chosen_per_row") {
        return;
    }
    fresh_seed();
    let (experts, k, n) = (6, 256, 72);
    for (q, rows, slots) in [
        (None, 3, 2),
        (Some(Quant::affine(64, 4)), 1, 4),
        (Some(Quant::affine(64, 4)), 5, 3),
        (Some(Quant::of_mode(QuantMode::Mxfp4)), 2, 4),
        (Some(Quant::affine(64, 4)), 40, 2),
    ] {
        for gate in [None, Some(Gate::Silu)] {
            let w = weight(&[experts, if gate.is_some() { 2 * n } else { n }, k], q, Dtype::Bfloat16).joined();
            let sorted = rows == 40;
            let mut ids: Vec<u32> = (0..rows * slots).map(|i| (i * 7 + 3) as u32 % experts as u32).collect();
            if sorted {
                ids.sort();
            }
            let chosen = Array::from_slice(&ids, [rows, slots]);
            let x = normal(&[rows, k], Dtype::Bfloat16, 1.0);
            poison((rows * slots * n * 2) as usize);
            let (wide, chosen) = if sorted {
                (mx::repeat(&x, slots, 0).expand_dims(1), chosen.reshape(-1))
            } else {
                (x.expand_dims([-2, -3]), chosen)
            };
            let y = fast::expert_linear(&wide, &[w.matrix()], &chosen, gate, sorted);
            let y = y.reshape([rows * slots, n]);
            y.eval().unwrap();
            let want = mx::with_device(Device::Cpu, || {
                let rows: Vec<Array> = ids
                    .iter()
                    .enumerate()
                    .map(|(i, &e)| {
                        let t = i as i32 / slots;
                        let one = x.slice_axis(0, t..t + 1).astype(Dtype::Float32);
                        let m = w.exact.slice_axis(0, e as i32..e as i32 + 1).squeeze(0);
                        let y = one.matmul(&m.t());
                        gate.map_or(y.clone(), |g| act(g, &y))
                    })
                    .collect();
                mx::concatenate(&rows, 0)
            });
            let e = error(&y, &want);
            assert!(e < 1.2e-2, "{q:?} rows {rows} slots {slots} gate {gate:?}: {e:e}");
        }
    }
}

#[test]
fn parts_are_one_matrix_row_by_row() {
    fresh_seed();
    for (q, sizes) in [
        (None, vec![64, 16, 33]),
        (Some(Quant::affine(64, 4)), vec![48, 16, 16]),
        (Some(Quant::affine(64, 4)), vec![40, 24]),
        (Some(Quant::of_mode(QuantMode::Mxfp8)), vec![96, 31]),
    ] {
        for m in [1, 3, 12] {
            let k = 512;
            let weights: Vec<Weight> = sizes.iter().map(|&n| weight(&[n, k], q, Dtype::Bfloat16).joined()).collect();
            let biases: Vec<Array> = sizes.iter().map(|&n| normal(&[n], Dtype::Bfloat16, 1.0)).collect();
            let parts: Vec<Matrix> = weights.iter().zip(&biases).map(|(w, b)| w.matrix().with_bias(Some(b))).collect();
            let (x, nw) = (normal(&[m, 1, k], Dtype::Bfloat16, 1.0), normal(&[k], Dtype::Bfloat16, 0.1) + 1.0);
            poison((m * sizes.iter().sum::<i32>() * 2) as usize);
            let y = fast::linear(&x, &parts, Fused { norm: Some((&nw, 1e-6)), ..Default::default() });
            y.eval().unwrap();
            let want = mx::with_device(Device::Cpu, || {
                let x = rms(&x, &nw, 1e-6);
                let each: Vec<Array> = weights
                    .iter()
                    .zip(&biases)
                    .map(|(w, b)| x.matmul(&w.exact.t()) + b.astype(Dtype::Float32))
                    .collect();
                mx::concatenate(&each, -1)
            });
            let e = error(&y, &want);
            assert!(e < 1.2e-2, "{q:?} {sizes:?} m {m}: {e:e}");
        }
    }
    // gate and up apart, also chosen by expert
    let (n, k) = (40, 256);
    let q = Some(Quant::affine(64, 4));
    for m in [1, 5] {
        let (g, u) = (weight(&[n, k], q, Dtype::Bfloat16), weight(&[n, k], q, Dtype::Bfloat16));
        let x = normal(&[m, k], Dtype::Bfloat16, 1.0);
        let y = fast::linear(&x, &[g.matrix(), u.matrix()], Fused { gate: Some(Gate::Silu), ..Default::default() });
        let want = mx::with_device(Device::Cpu, || {
            let x = x.astype(Dtype::Float32);
            act(Gate::Silu, &mx::concatenate(&[x.matmul(&g.exact.t()), x.matmul(&u.exact.t())], -1))
        });
        let e = error(&y, &want);
        assert!(e < 1.2e-2, "gate and up, m {m}: {e:e}");
    }
    let (g, u) = (weight(&[3, n, k], q, Dtype::Bfloat16), weight(&[3, n, k], q, Dtype::Bfloat16));
    let (x, ids) = (normal(&[1, 1, 1, 1, k], Dtype::Bfloat16, 1.0), Array::from_slice(&[2u32, 0], [1, 1, 2]));
    let y = fast::expert_linear(&x, &[g.matrix(), u.matrix()], &ids, Some(Gate::Silu), false);
    assert_eq!(y.shape(), [1, 1, 2, 1, n]);
    let want = mx::with_device(Device::Cpu, || {
        let x = x.reshape([1, k]).astype(Dtype::Float32);
        let one = |w: &Array, e: i32| x.matmul(&w.slice_axis(0, e..e + 1).squeeze(0).t());
        let rows = [2, 0].map(|e| act(Gate::Silu, &mx::concatenate(&[one(&g.exact, e), one(&u.exact, e)], -1)));
        mx::concatenate(&rows, 0).reshape([1, 1, 2, 1, n])
    });
    assert!(error(&y, &want) < 1.2e-2);
}

#[test]
fn routing_takes_the_best_and_their_weights() {
    if !card("routing_takes_the_best_and_their_weights") {
        return;
    }
    fresh_seed();
    for (e, top, scores, weights, corrected) in [
        (128, 8, RouteScores::Softmax, RouteWeights::Normalised(0.0), false),
        (60, 4, RouteScores::Softmax, RouteWeights::Scores, false),
        (8, 2, RouteScores::Logits, RouteWeights::Softmax, false),
        (257, 6, RouteScores::Sigmoid, RouteWeights::Normalised(1e-20), true),
    ] {
        let logits = normal(&[2, 3, e], Dtype::Bfloat16, 2.0);
        let c = normal(&[e], Dtype::Float32, 0.3);
        let r = Routing { top, scores, weights, correction: corrected.then_some(&c), scale: 1.5 };
        let (ids, w) = fast::route_fused(&logits, &r).expect("a kernel");
        let (ids, w) = (ids.to_vec::<u32>().unwrap(), w.to_vec::<f32>().unwrap());
        let all = logits.to_vec::<f32>().unwrap();
        let c = c.to_vec::<f32>().unwrap();
        for (row, l) in all.chunks(e as usize).enumerate() {
            let max = l.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = l.iter().map(|x| (x - max).exp()).sum();
            let s: Vec<f32> = l
                .iter()
                .map(|x| match scores {
                    RouteScores::Logits => *x,
                    RouteScores::Softmax => (x - max).exp() / sum,
                    RouteScores::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                })
                .collect();
            let key = |i: &usize| s[*i] + if corrected { c[*i] } else { 0.0 };
            let mut order: Vec<usize> = (0..e as usize).collect();
            order.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
            order.truncate(top as usize);
            let at = row * top as usize;
            let got: Vec<usize> = ids[at..at + top as usize].iter().map(|&i| i as usize).collect();
            // equal scores up to rounding may change places
            for (g, o) in got.iter().zip(&order) {
                assert!((key(g) - key(o)).abs() < 1e-5, "e {e} row {row}: {got:?} {order:?}");
            }
            let chosen: Vec<f32> = got.iter().map(|&i| s[i]).collect();
            let total: f32 = chosen.iter().sum();
            let exp: Vec<f32> = chosen.iter().map(|x| x.exp()).collect();
            for (k, &x) in chosen.iter().enumerate() {
                let want = 1.5
                    * match weights {
                        RouteWeights::Scores => x,
                        RouteWeights::Normalised(eps) => x / (total + eps),
                        RouteWeights::Softmax => exp[k] / exp.iter().sum::<f32>(),
                    };
                assert!((w[at + k] - want).abs() < 1e-4 * want.abs().max(1e-3), "e {e} row {row} slot {k}");
            }
        }
        let (x, y) = (normal(&[2, 3, 72], Dtype::Bfloat16, 1.0), normal(&[2, 3, top, 72], Dtype::Bfloat16, 1.0));
        let w = Array::from_slice(&w, [2, 3, top]);
        poison(2 * 3 * 72 * 2);
        let got = fast::combine_fused(&x, &y, &w).expect("a kernel");
        got.eval().unwrap();
        let want = mx::with_device(Device::Cpu, || {
            x.astype(Dtype::Float32) + (y.astype(Dtype::Float32) * w.expand_dims(-1)).sum(-2)
        });
        assert!(error(&got, &want) < 6e-3);
    }
}
