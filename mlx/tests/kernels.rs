//! CPU kernels behind ops against MLX's own forms, computed in float32 from the same inputs.

use mlx::fast::{self, Gate, Mask, Offset, Rope, Sdpa};
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
