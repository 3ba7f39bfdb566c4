use crate::tools::{error, normal};
use mlx::fast::{self, DecodeAttention, Fused, Gate, KvBuffers, Layer, Matrix, Place};
use mlx::{self as mx, Array, Device, Dtype, Quant, Stream};

fn on_cpu(f: impl FnOnce()) {
    mx::with_device(Device::Cpu, f);
}

const STEP: DecodeAttention<'static> = DecodeAttention {
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    scale: 0.2,
    rotation: None,
    qk_norm: None,
    window: None,
    softcap: None,
    sinks: None,
    next: None,
};

fn names(a: &Array) -> Vec<String> {
    mx::graph_ops(std::slice::from_ref(a)).into_keys().collect()
}

#[test]
fn gradients_go_through_the_plain_form() {
    on_cpu(|| {
        let (x, w, nw) = (
            normal(&[3, 64], Dtype::Float32, 1.0),
            normal(&[20, 64], Dtype::Float32, 0.3),
            normal(&[64], Dtype::Float32, 1.0),
        );
        let (p, s, b) = mx::quantize(&w, Quant::affine(32, 8));
        mx::eval([&p, &s].into_iter().chain(b.as_ref())).unwrap();
        let packed = Matrix::quantized(&p, &s, b.as_ref(), Quant::affine(32, 8));
        let dense = mx::dequantize(&p, &s, b.as_ref(), Quant::affine(32, 8), None);
        let layer = |x: &Array, w: Matrix<'_>| {
            fast::linear(x, &[w], Fused { norm: Some((&nw, 1e-5)), gate: Some(Gate::Silu), ..Default::default() })
        };
        let y = layer(&x, packed);
        assert_eq!(names(&y), ["linear"]);
        let plain = |x: &Array| {
            fast::linear_plain(
                x,
                &[Matrix::dense(&dense)],
                Fused { norm: Some((&nw, 1e-5)), gate: Some(Gate::Silu), ..Default::default() },
            )
        };
        let exact = plain(&x);
        assert!(error(&y, &exact) < 1e-5);
        let grad = |f: &dyn Fn(&Array) -> Array| mx::grad(|x: &Array| f(x).sum(()))(&x);
        assert!(error(&grad(&|x| layer(x, packed)), &grad(&plain)) < 1e-5);
    });
}

#[test]
fn views_are_copied_and_not_misread() {
    on_cpu(|| {
        let w = normal(&[24, 48], Dtype::Float32, 0.3);
        let x = normal(&[48, 3], Dtype::Float32, 1.0).t();
        let r = normal(&[3, 48], Dtype::Float32, 1.0).slice_axis(1, 24..48);
        let f = Fused { residual: Some(&r), ..Default::default() };
        let y = fast::linear(&x, &[Matrix::dense(&w)], f);
        assert_eq!(y.eval().map(|_| ()).ok(), Some(()));
        assert!(error(&y, &(x.matmul(&w.t()) + &r)) < 1e-5);
    });
}

/// Two layers in one op, also with 16 bits, several rows, and what cannot be one op.
#[test]
fn a_pair_of_layers_equals_one_after_the_other() {
    on_cpu(|| {
        for (dtype, m) in
            [(Dtype::Float32, 1), (Dtype::Float32, 8), (Dtype::Bfloat16, 3), (Dtype::Float16, 1), (Dtype::Float32, 9)]
        {
            let q = Quant::affine(32, 4);
            let pack = |n: i32, k: i32| {
                let (w, s, b) = mx::quantize(&normal(&[n, k], dtype, 0.2), q);
                mx::eval([&w, &s].into_iter().chain(b.as_ref())).unwrap();
                (w, s, b)
            };
            let (g, u, d) = (pack(96, 64), pack(96, 64), pack(64, 96));
            let [g, u, d] = [&g, &u, &d].map(|(w, s, b)| Matrix::quantized(w, s, b.as_ref(), q));
            let (x, nw) = (normal(&[m, 1, 64], dtype, 1.0), normal(&[64], dtype, 1.0));
            let around = Fused { norm: Some((&nw, 1e-5)), gate: Some(Gate::Silu), ..Default::default() };
            let after = Fused { residual: Some(&x), ..Default::default() };
            let y = fast::linear_pair(&x, Layer { parts: &[g, u], around }, Layer { parts: &[d], around: after });
            assert_eq!(names(&y) == ["linear"], m <= 8);
            let want = fast::linear_plain(&fast::linear_plain(&x, &[g, u], around), &[d], after);
            assert_eq!((y.dtype(), y.shape()), (want.dtype(), want.shape()));
            let allowed = if dtype == Dtype::Float32 { 1e-5 } else { 1.5e-2 };
            assert!(error(&y, &want) < allowed, "{dtype} {m}: {}", error(&y, &want));
        }
    });
}

/// Projections, attention with its cache and output in one op, on batches whose rows begin at places of their own.
#[test]
fn a_branch_of_attention_equals_its_parts() {
    on_cpu(|| {
        for (dtype, b) in [(Dtype::Float32, 1), (Dtype::Float32, 3), (Dtype::Bfloat16, 2)] {
            let (k, parts) = (48, [128, 64, 64]);
            let weights = parts.map(|n| normal(&[n, k], dtype, 0.3));
            let (w_o, x, nw) =
                (normal(&[k, 128], dtype, 0.3), normal(&[b, 1, k], dtype, 1.0), normal(&[k], dtype, 1.0));
            let qkv = [0, 1, 2].map(|i| Matrix::dense(&weights[i]));
            let around = Fused { norm: Some((&nw, 1e-5)), ..Default::default() };
            let after = Fused { residual: Some(&x), ..Default::default() };
            let (before, after) =
                (Layer { parts: &qkv, around }, Layer { parts: &[Matrix::dense(&w_o)], around: after });
            let starts = Array::from_slice(&[0, 5, 2, 0, 0, 0, 0, 0], 8);
            let cache = || normal(&[b, 2, 40, 32], dtype, 1.0);
            let (k0, v0) = (cache(), cache());
            let mut fast = KvBuffers::new(&k0 + 0, &v0 + 0);
            let mut slow = KvBuffers::new(&k0 + 0, &v0 + 0);
            for slot in [7, 8, 39] {
                let place = Place::Padded(slot, &starts);
                let y = fast.attend_between(&x, before, place, &STEP, after);
                let flat = fast::linear_plain(&x, before.parts, before.around);
                let o = slow.attend_plain(&flat, place, &STEP);
                let want = fast::linear_plain(&o, after.parts, after.around);
                let allowed = if dtype == Dtype::Float32 { 1e-5 } else { 2e-2 };
                assert_eq!((y.dtype(), y.shape()), (want.dtype(), want.shape()));
                assert!(error(&y, &want) < allowed, "{dtype} {b} {slot}: {}", error(&y, &want));
            }
            assert!(error(&fast.arrays().0, &slow.arrays().0) < 1e-2);
            assert!(error(&fast.arrays().1, &slow.arrays().1) < 1e-2);
        }
    });
}

/// A cache that is a view, shared or in another order is copied before it is written.
#[test]
fn buffers_that_others_hold_are_copied_first() {
    on_cpu(|| {
        let all = normal(&[2, 10, 2, 32], Dtype::Float32, 1.0);
        let turned = all.transpose([0, 2, 1, 3]);
        let before = turned.to_vec::<f32>().unwrap();
        let qkv = normal(&[2, 1, 8 * 32], Dtype::Float32, 1.0);
        let view = || all.transpose([0, 2, 1, 3]);
        // handles that others hold, and ones of our own to data that others hold
        for buffers in [[turned.clone(), turned.clone()], [view(), view()]] {
            let [k, v] = buffers;
            let mut fast = KvBuffers::new(k, v);
            let mut slow = KvBuffers::new(mx::contiguous(&turned) + 0, mx::contiguous(&turned) + 0);
            let got = fast.attend(&qkv, Place::At(6), &STEP);
            assert!(names(&got).contains(&"decode_attention".to_string()));
            let want = slow.attend_plain(&qkv, Place::At(6), &STEP);
            assert!(error(&got, &want) < 1e-5);
            assert!(error(&fast.arrays().0, &slow.arrays().0) < 1e-6);
            assert_eq!(turned.to_vec::<f32>().unwrap(), before);
        }
    });
}

/// Steps on streams that work at the same time still come one after the other.
#[test]
fn a_step_on_another_stream_waits_for_the_last_one() {
    on_cpu(|| {
        let fresh = || mx::zeros([1, 2, 64, 32], Dtype::Float32) + 0;
        let (mut fast, mut slow) = (KvBuffers::new(fresh(), fresh()), KvBuffers::new(fresh(), fresh()));
        let other = Stream::new(Device::Cpu).unwrap();
        let big = normal(&[256, 256], Dtype::Float32, 0.01);
        let steps: Vec<Array> = (0..24).map(|_| normal(&[1, 1, 8 * 32], Dtype::Float32, 1.0)).collect();
        let mut got = Vec::new();
        for (i, x) in steps.iter().enumerate() {
            // every other step has much to do before
            let late = (0..20).fold(big.clone(), |y, _| y.matmul(&big)).slice_axis(0, 0..1).slice_axis(1, 0..1) * 0.0;
            let late = if i % 2 == 0 { x + late } else { x.clone() };
            let mut step = || fast.attend(&late, Place::At(i as i32), &STEP);
            got.push(if i % 2 == 0 { step() } else { mx::with_stream(&other, step) });
        }
        for (i, x) in steps.iter().enumerate() {
            let want = slow.attend_plain(x, Place::At(i as i32), &STEP);
            assert!(error(&got[i], &want) < 1e-5, "step {i}");
        }
    });
}
