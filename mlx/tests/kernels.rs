//! CPU kernels behind ops against MLX's own forms, computed in float32 from the same inputs.

use mlx::fast::{self, Gate, LinearScan, Mask, Offset, Rope, Rule, Sdpa, SelectiveScan, ShortConv};
use mlx::{self as mx, Array, Dtype, Quant, QuantMode, plain};

const TYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

fn random(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    mx::random::normal(shape, Dtype::Float32, 0.0, 1.0, Some(&mx::random::key(seed))).astype(dtype)
}

fn wide(a: &Array) -> Array {
    a.astype(Dtype::Float32)
}

/// Largest difference of `got` from exact values, as a share of the largest exact value.
fn error(got: &Array, exact: &Array) -> f32 {
    assert_eq!(got.shape(), exact.shape());
    let scale = exact.abs().max(()).item::<f32>().unwrap().max(1e-3);
    (wide(got) - wide(exact)).abs().max(()).item::<f32>().unwrap() / scale
}

/// One rounding of the result is 2^-9 (bf16) or 2^-12 (f16).
fn allowed(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => 2e-6,
        Dtype::Float16 => 1e-3,
        _ => 5e-3,
    }
}

fn check(what: &str, dtype: Dtype, got: &Array, exact: &Array) {
    assert_eq!(got.dtype(), dtype, "{what}");
    let e = error(got, exact);
    assert!(e <= allowed(dtype), "{what} {dtype}: off by {e}");
}

#[test]
fn norms_gates_and_rope_equal_the_plain_forms() {
    for dtype in TYPES {
        for dims in [[2, 3, 64], [1, 5, 100], [3, 1, 16]] {
            let (x, w) = (random(&dims, 1, dtype), random(&dims[2..], 2, dtype));
            check(
                "rms_norm",
                dtype,
                &fast::rms_norm(&x, Some(&w), 1e-5),
                &plain::rms_norm(&wide(&x), Some(&wide(&w)), 1e-5),
            );
            check("rms_norm", dtype, &fast::rms_norm(&x, None, 1e-5), &plain::rms_norm(&wide(&x), None, 1e-5));
            let up = random(&dims, 3, dtype);
            for gate in [Gate::Silu, Gate::GeluTanh] {
                check("gated", dtype, &fast::gated(gate, &x, &up), &plain::gated(gate, &wide(&x), &wide(&up)));
            }
        }
        // as attention has it: heads before positions, not contiguous
        let x = random(&[2, 7, 3, 32], 4, dtype).transpose([0, 2, 1, 3]);
        let freqs = Array::from((1..=8).map(|i| i as f32 * 1.7).collect::<Vec<_>>());
        let rows = Array::from([3i32, 11]);
        for traditional in [false, true] {
            for (dims, freqs) in [(32, None), (16, Some(&freqs))] {
                let rope = Rope { dims, traditional, base: 1000.0, scale: 0.5, freqs };
                for offset in [Offset::At(5), Offset::Array(&rows)] {
                    check("rope", dtype, &fast::rope(&x, rope, offset), &plain::rope(&wide(&x), rope, offset));
                }
            }
        }
    }
}

#[test]
fn attention_equals_the_plain_form() {
    for dtype in TYPES {
        for (h, kv, l, s, d, dv) in
            [(4, 2, 1, 37, 32, 32), (4, 1, 9, 40, 64, 48), (6, 6, 33, 33, 80, 80), (2, 1, 3, 300, 256, 256)]
        {
            let q = random(&[2, l, h, d], 1, dtype).transpose([0, 2, 1, 3]);
            // a slice of a longer buffer, as a cache gives it
            let k = random(&[2, kv, s + 20, d], 2, dtype).slice_axis(2, 0..s);
            let v = random(&[2, kv, s + 20, dv], 3, dtype).slice_axis(2, 0..s);
            let seen = random(&[l, s], 4, Dtype::Float32).gt(-1.0).logical_or(mx::eye(l, Some(s), 0, Dtype::Bool));
            let add = mx::where_(&seen, 0.0, -3.0).astype(dtype);
            let sinks = random(&[h], 5, dtype);
            for mask in [Mask::None, Mask::Causal, Mask::Array(seen.clone()), Mask::Array(add.clone())] {
                for sinks in [None, Some(&sinks)] {
                    let scale = (d as f32).powf(-0.5);
                    let wide_sinks = sinks.map(wide);
                    let wide_mask = match &mask {
                        Mask::Array(m) if m.dtype() != Dtype::Bool => Mask::Array(wide(m)),
                        m => m.clone(),
                    };
                    let got = fast::scaled_dot_product_attention(
                        &q,
                        &k,
                        &v,
                        Sdpa { scale, mask: Some(&mask), sinks, force_fused: false },
                    );
                    let o = Sdpa { scale, mask: Some(&wide_mask), sinks: wide_sinks.as_ref(), force_fused: false };
                    check("attention", dtype, &got, &plain::sdpa(&wide(&q), &wide(&k), &wide(&v), o));
                }
            }
        }
    }
}

#[test]
fn products_equal_the_dense_form() {
    let affine = [2, 3, 4, 5, 6, 8].iter().flat_map(|&b| [32, 64].map(|g| Quant::affine(g, b)));
    let modes = [QuantMode::Mxfp4, QuantMode::Mxfp8, QuantMode::Nvfp4].map(Quant::of_mode);
    for q in affine.chain(modes) {
        for dtype in TYPES {
            // float32 scales would make the product float32, as in MLX
            let (w, s, b) = mx::quantize(&random(&[40, 128], 1, dtype), q);
            let dense = wide(&mx::dequantize(&w, &wide_scales(&s), b.as_ref().map(wide).as_ref(), q, None));
            for rows in [1, 3, 20] {
                let x = random(&[rows, 128], 2, dtype);
                let got = mx::quantized_matmul(&x, &w, &s, b.as_ref(), true, q);
                check(&format!("{q:?} {rows} rows"), dtype, &got, &wide(&x).matmul(&dense.t()));
            }
        }
    }
    for dtype in TYPES {
        let w = random(&[40, 100], 3, dtype);
        for rows in [1, 4, 50] {
            let x = random(&[rows, 100], 4, dtype);
            let got = x.matmul(&w.t());
            check("linear", dtype, &got, &wide(&x).matmul(&wide(&w).t()));
        }
    }
}

fn wide_scales(s: &Array) -> Array {
    if s.dtype() == Dtype::Uint8 { s.clone() } else { wide(s) }
}

#[test]
fn experts_equal_one_product_each() {
    let q = Quant::affine(32, 4);
    for dtype in TYPES {
        let dense = random(&[5, 24, 64], 1, dtype);
        let (w, s, b) = mx::quantize(&dense, q);
        let packed = mx::dequantize(&w, &wide(&s), b.as_ref().map(wide).as_ref(), q, None);
        for tokens in [1, 30] {
            let x = random(&[tokens, 1, 1, 64], 2, dtype);
            let ids = mx::random::randint(0, 5, [tokens, 2], Dtype::Uint32, Some(&mx::random::key(7)));
            let each = |w: &Array| (wide(&x) * 1.0).matmul(&wide(w).take(&ids, 0).swapaxes(-1, -2));
            let got = fast::gather_linear(&x, &dense, &ids, false);
            check("gather_linear", dtype, &got, &each(&dense));
            let gather = mx::Gather { rhs: Some(&ids), ..Default::default() };
            check("gather_qmm", dtype, &mx::gather_qmm(&x, &w, &s, b.as_ref(), gather, true, q), &each(&packed));
        }
    }
}

#[test]
fn gradients_and_vmap_go_through_the_plain_form() {
    let (x, w) = (random(&[3, 64], 1, Dtype::Float32), random(&[64], 2, Dtype::Float32));
    let grad = |f: &dyn Fn(&Array) -> Array| mx::grad(|x: &Array| (f(x) * f(x)).sum(()))(&x);
    let kernel = grad(&|x| fast::rms_norm(x, Some(&w), 1e-5));
    let formula = grad(&|x| x * (x.square().mean_keepdims(-1) + 1e-5).rsqrt() * &w);
    assert!(error(&kernel, &formula) < 1e-5);
    let q = Quant::affine(32, 4);
    let (p, s, b) = mx::quantize(&random(&[40, 64], 3, Dtype::Float32), q);
    let dense = mx::dequantize(&p, &s, b.as_ref(), q, None);
    let kernel = grad(&|x| mx::quantized_matmul(x, &p, &s, b.as_ref(), true, q));
    assert!(error(&kernel, &grad(&|x| x.matmul(&dense.t()))) < 1e-5);
    // and with respect to the scales
    let of_scales = mx::grad(|s: &Array| mx::quantized_matmul(&x, &p, s, b.as_ref(), true, q).square().sum(()))(&s);
    let plain = mx::grad(|s: &Array| plain::quantized_matmul(&x, &p, s, b.as_ref(), true, q).square().sum(()))(&s);
    assert!(error(&of_scales, &plain) < 1e-4);
    // tangents: of x; of the scales MLX has none, and says so
    let dx = random(&[3, 64], 4, Dtype::Float32);
    let (_, got) = mx::jvp(|x: &Array| mx::quantized_matmul(x, &p, &s, b.as_ref(), true, q), &x, &dx);
    assert!(error(&got, &dx.matmul(&dense.t())) < 1e-5);
    let of_scales = || mx::jvp(|s: &Array| mx::quantized_matmul(&x, &p, s, b.as_ref(), true, q), &s, &s);
    assert!(mx::catch(of_scales).unwrap_err().to_string().contains("No JVP"));
}

/// Inputs of a linear recurrence: tokens before heads in memory; 2 heads of q and k, 4 of the rest.
fn recurrence(l: i32, fine: bool, dtype: Dtype) -> [Array; 7] {
    let heads = |seed, h, d| random(&[2, l, h, d], seed, dtype).swapaxes(1, 2);
    // harsh at some tokens
    let g = random(&[2, l, 4, if fine { 16 } else { 1 }], 5, Dtype::Float32).abs();
    let g = -mx::where_(g.gt(1.5), &g * 60.0, g * 0.1).swapaxes(1, 2);
    let beta = heads(6, 4, 1).sigmoid();
    let small = |seed| heads(seed, 2, 16) * 0.2;
    [small(1), small(2), heads(3, 4, 20), g, beta, small(7), small(8)]
}

/// Each rule over these inputs.
fn rules(a: &[Array; 7]) -> [LinearScan<'_>; 4] {
    let [q, k, v, g, beta, at, under] = a;
    [Rule::Add { beta: None }, Rule::Add { beta: Some(beta) }, Rule::Delta { beta }, Rule::Remove { at, under }]
        .map(|rule| LinearScan { q, k, v, g, rule })
}

#[test]
fn recurrences_equal_the_plain_forms() {
    for dtype in TYPES {
        for l in [1, 63, 64, 65, 200] {
            for fine in [false, true] {
                let inputs = recurrence(l, fine, dtype);
                let start = random(&[2, 4, 20, 16], 9, Dtype::Float32);
                for scan in rules(&inputs) {
                    for state in [None, Some(start.clone())] {
                        let what = format!("{l} tokens, {:?}", scan.rule);
                        let (o, s) = fast::linear_scan(&scan, state.clone());
                        let (want, last) = plain::linear_scan(&scan, state);
                        // chunks subtract sums of decays, which costs digits
                        for (got, want) in [(&o, &want), (&s, &last)] {
                            let e = error(got, want);
                            assert!(e < 2e-4 && got.dtype() == Dtype::Float32, "{what}: off by {e}");
                        }
                    }
                }
            }
            let [q, k, v, ..] = &recurrence(l, true, dtype);
            let g = -random(&[2, 2, l, 20], 11, Dtype::Float32).abs();
            let s = v.slice_axis(1, 0..2);
            for state in [None, Some(random(&[2, 2, 20, 16], 9, Dtype::Float32))] {
                let (o, last) = fast::slot_scan(q, k, &s, &g, state.clone());
                let (want, end) = plain::slot_scan(q, k, &s, &g, state);
                assert!(error(&o, &want) < 1e-5 && error(&last, &end) < 1e-5, "slots: {l} tokens {dtype}");
            }
            let x = |seed, n| random(&[2, l, n], seed, dtype);
            let (u, b, c, skip) = (x(1, 70), x(2, 16), x(3, 16), random(&[70], 4, dtype));
            let (dt, a) = (x(5, 70).abs(), -random(&[70, 16], 6, Dtype::Float32).abs() * 9.0);
            let scan = SelectiveScan { u: &u, dt: &dt, a: &a, b: &b, c: &c, skip: &skip };
            for state in [None, Some(random(&[2, 70, 16], 7, Dtype::Float32))] {
                let (y, s) = fast::selective_scan(&scan, state.clone());
                let (want, last) = plain::selective_scan(&scan, state);
                assert!(error(&y, &want) < 1e-5 && error(&s, &last) < 1e-5, "{l} tokens {dtype}: {}", error(&y, &want));
            }
        }
    }
}

/// A sequence cut anywhere is the whole one.
#[test]
fn recurrences_go_on_from_their_state() {
    let inputs = recurrence(130, true, Dtype::Float32);
    let cut = |from: i32, to: i32| inputs.each_ref().map(|a| a.slice_axis(2, from..to));
    for (i, scan) in rules(&inputs).into_iter().enumerate() {
        let (whole, last) = fast::linear_scan(&scan, None);
        for at in [1, 32, 63, 129] {
            let (first, second) = (cut(0, at), cut(at, 130));
            let (a, state) = fast::linear_scan(&rules(&first)[i], None);
            let (b, end) = fast::linear_scan(&rules(&second)[i], Some(state));
            assert_eq!(error(&mx::concatenate(&[a, b], 2), &whole), 0.0, "cut at {at}");
            assert_eq!(error(&end, &last), 0.0, "cut at {at}");
        }
    }
}

#[test]
fn recurrences_differentiate_vectorise_and_compile() {
    let inputs = recurrence(70, false, Dtype::Float32);
    type Scan = fn(&LinearScan<'_>, Option<Array>) -> (Array, Array);
    for which in 0..4 {
        let run = move |scan: Scan, a: &[Array; 7]| {
            let (o, s) = scan(&rules(a)[which], None);
            o.square().sum(()) + s.square().sum(())
        };
        for arg in [1, 2, 3, 4] {
            let of = |scan: Scan| {
                mx::grad(|x: &Array| {
                    let mut all = inputs.clone();
                    all[arg] = x.clone();
                    run(scan, &all)
                })(&inputs[arg])
            };
            let (got, want) = (of(fast::linear_scan), of(plain::linear_scan));
            assert!(error(&got, &want) < 1e-4, "rule {which}, argument {arg}: {}", error(&got, &want));
        }
        let scaled = |by: &Array| {
            let mut all = inputs.clone();
            all[2] = &all[2] * by;
            all
        };
        let each = mx::vmap(|by: &Array| run(fast::linear_scan, &scaled(by)))(&Array::from([1f32, -2.0]));
        let want = [1.0, -2.0].map(|by: f32| run(plain::linear_scan, &scaled(&Array::from(by))));
        assert!(error(&each, &mx::stack(&want, 0)) < 1e-4, "rule {which}");
        let got = mx::compile(move |a: &[Array; 7]| run(fast::linear_scan, a)).call(&inputs);
        assert!(error(&got, &run(plain::linear_scan, &inputs)) < 1e-4, "rule {which}");
    }
}

#[test]
fn shapes_that_do_not_belong_together_are_refused_by_name() {
    let inputs = recurrence(3, true, Dtype::Float32);
    let [good, ..] = rules(&inputs);
    let refused = |scan: LinearScan<'_>, state: Option<Array>| {
        let e = mx::catch(|| fast::linear_scan(&scan, state)).unwrap_err().to_string();
        assert!(e.contains("linear_scan") && e.contains("shapes"), "{e}");
    };
    let narrow = inputs[0].slice_axis(3, 0..15);
    refused(LinearScan { q: &narrow, ..good }, None);
    refused(LinearScan { g: &narrow, ..good }, None);
    refused(LinearScan { rule: Rule::Delta { beta: &narrow }, ..good }, None);
    refused(LinearScan { k: &inputs[1].slice_axis(2, 0..2), ..good }, None);
    refused(LinearScan { v: &mx::concatenate(&[&inputs[2], &inputs[2].slice_axis(1, 0..1)], 1), ..good }, None);
    refused(good, Some(mx::zeros([2, 4, 16, 20], Dtype::Float32)));
}

#[test]
fn short_convolutions_equal_the_plain_form_and_go_on_from_their_tail() {
    for dtype in TYPES {
        // a part of wider rows
        let x = random(&[2, 70, 60], 1, dtype).slice_axis(-1, 7..47);
        let (weight, bias) = (random(&[40, 4, 1], 2, dtype), random(&[40], 3, dtype));
        let before = random(&[2, 3, 40], 4, dtype);
        for (bias, tail, silu) in [(None, None, false), (None, Some(&before), true), (Some(&bias), Some(&before), true)]
        {
            let conv = ShortConv { weight: &weight, bias, tail };
            let wides = [Some(&weight), bias, tail].map(|a| a.map(wide));
            let exact =
                ShortConv { weight: wides[0].as_ref().unwrap(), bias: wides[1].as_ref(), tail: wides[2].as_ref() };
            let (y, next) = fast::short_conv(&x, &conv, silu);
            let (want, last) = plain::short_conv(&wide(&x), &exact, silu);
            // SiLU behind it makes three roundings of one
            let (e, most) = (error(&y, &want), allowed(dtype) * if silu { 3.0 } else { 1.0 });
            assert!(e <= most && y.dtype() == dtype, "{dtype}: off by {e}");
            assert_eq!(error(&next, &last), 0.0, "{dtype}");
            let cut = |from: i32, to: i32| x.slice_axis(1, from..to);
            // a single token of 16 bits is rounded otherwise
            for at in if dtype == Dtype::Float32 { [1, 2, 69] } else { [2, 35, 68] } {
                let (a, middle) = fast::short_conv(&cut(0, at), &conv, silu);
                let (b, end) = fast::short_conv(&cut(at, 70), &ShortConv { tail: Some(&middle), ..conv }, silu);
                assert_eq!(error(&mx::concatenate(&[a, b], 1), &y), 0.0, "{dtype} cut at {at}");
                assert_eq!(error(&end, &next), 0.0, "{dtype} cut at {at}");
            }
        }
    }
    let (x, weight) = (random(&[1, 9, 5], 1, Dtype::Float32), random(&[5, 3, 1], 2, Dtype::Float32));
    let of = |conv: fn(&Array, &ShortConv<'_>, bool) -> (Array, Array)| {
        mx::grad(|w: &Array| conv(&x, &ShortConv { weight: w, bias: None, tail: None }, true).0.square().sum(()))(
            &weight,
        )
    };
    assert!(error(&of(fast::short_conv), &of(plain::short_conv)) < 1e-5);
}
