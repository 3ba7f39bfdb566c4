//! Norms, softmax, rotary embedding, gated activations.

use crate::support::{Buffer, Rng, TYPES, close};
use mlx_kernels::{
    DType, Freqs, Gate, Isa, Rope, View4, View4Mut, add_rms_norm_on, gated_on, layer_norm_on, plain, rms_norm_on,
    rope_on, softmax_on,
};

#[test]
fn norms_and_softmax_equal_the_plain_form() {
    let mut rng = Rng::new(60);
    for t in TYPES {
        for (rows, dim) in [(1, 1), (3, 7), (5, 64), (2, 576), (70, 333)] {
            let x = rng.floats(t, rows * dim);
            let (w, b) = (rng.floats(t, dim), rng.floats(DType::F32, dim));
            for isa in Isa::available() {
                let what = format!("{t:?} {rows}x{dim} {isa:?}");
                let mut out = Buffer::poison(DType::F32, rows * dim);
                for weight in [None, Some(w.view())] {
                    rms_norm_on(isa, x.view(), dim, weight, 1e-5, out.out()).unwrap();
                    close(&what, &out.values(), &plain::rms_norm(&x.view(), dim, weight, 1e-5), DType::F32, 1e-6);
                    for bias in [None, Some(b.view())] {
                        layer_norm_on(isa, x.view(), dim, weight, bias, 1e-3, out.out()).unwrap();
                        let want = plain::layer_norm(&x.view(), dim, weight, bias, 1e-3);
                        close(&what, &out.values(), &want, DType::F32, 3e-6);
                    }
                }
                softmax_on(isa, x.view(), dim, out.out()).unwrap();
                close(&what, &out.values(), &plain::softmax(&x.view(), dim), DType::F32, 1e-6);
                let mut narrow = Buffer::poison(t, rows * dim);
                rms_norm_on(isa, x.view(), dim, Some(w.view()), 1e-5, narrow.out()).unwrap();
                close(&what, &narrow.values(), &plain::rms_norm(&x.view(), dim, Some(w.view()), 1e-5), t, 1e-6);
            }
        }
    }
}

#[test]
fn the_fused_residual_norm_is_the_sum_then_the_norm() {
    let mut rng = Rng::new(61);
    for t in TYPES {
        let (rows, dim) = (9, 77);
        let (x, y, w) = (rng.floats(t, rows * dim), rng.floats(t, rows * dim), rng.floats(t, dim));
        let sums: Vec<f32> = x.values().iter().zip(y.values()).map(|(a, b)| a + b).collect();
        let sums = Buffer::of(t, &sums);
        let want = plain::rms_norm(&sums.view(), dim, Some(w.view()), 1e-6);
        for isa in Isa::available() {
            let (mut sum, mut out) = (Buffer::poison(t, rows * dim), Buffer::poison(DType::F32, rows * dim));
            add_rms_norm_on(isa, x.view(), y.view(), dim, Some(w.view()), 1e-6, sum.out(), out.out()).unwrap();
            assert_eq!(sum.values(), sums.values(), "{t:?} {isa:?}");
            close(&format!("{t:?} {isa:?}"), &out.values(), &want, DType::F32, 1e-6);
        }
    }
}

#[test]
fn softmax_of_minus_infinity_is_zero_and_large_values_do_not_overflow() {
    // in every lane: a maximum that misses one overflows
    for top in 0..40 {
        let mut x = vec![-1e30f32; 40];
        x[top] = 1e30;
        x[(top + 4) % 40] = f32::NEG_INFINITY;
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; 40];
            softmax_on(isa, (&x).into(), 40, (&mut out).into()).unwrap();
            assert_eq!(out[top], 1.0, "{isa:?} {top}");
            assert!(out.iter().enumerate().all(|(i, v)| i == top || *v == 0.0), "{isa:?} {top}");
        }
    }
}

#[test]
fn rope_turns_pairs_by_their_position() {
    let mut rng = Rng::new(62);
    let periods: Vec<f32> = (0..64).map(|j| 1.0 + 3.1 * j as f32).collect();
    for t in TYPES {
        for (traditional, dims, d, freqs) in [
            (false, 64, 64, Freqs::Base(10000.0)),
            (true, 64, 64, Freqs::Base(10000.0)),
            (false, 20, 50, Freqs::Base(500.0)),
            (true, 6, 7, Freqs::Periods((&periods).into())),
            (false, 128, 128, Freqs::Periods((&periods).into())),
        ] {
            for (l, offsets) in [(1, vec![5]), (13, vec![0]), (4, vec![100, 3])] {
                let (b, h) = (2, 3);
                let x = rng.floats(t, b * h * l * d);
                // as a transposed [B, L, H, D]
                let v = View4::new(x.view(), [b, h, l, d], [l * h * d, d, h * d, 1]).unwrap();
                let r = Rope { dims, traditional, freqs, scale: 0.5, offsets: &offsets };
                let want = plain::rope(&v, &r);
                for isa in Isa::available() {
                    let mut out = Buffer::poison(DType::F32, b * h * l * d);
                    rope_on(isa, &v, &r, View4Mut::contiguous(out.out(), [b, h, l, d]).unwrap()).unwrap();
                    // the angle is an f32: its rounding at position 100 is some 1e-5 of a turn
                    close(&format!("{t:?} {r:.0?} {isa:?}"), &out.values(), &want, DType::F32, 2e-5);
                }
            }
        }
    }
    let x = vec![0f32; 6];
    let v = View4::contiguous((&x).into(), [1, 1, 1, 6]).unwrap();
    for (dims, offsets) in [(3, vec![0]), (8, vec![0]), (4, vec![0, 1])] {
        let r = Rope { dims, traditional: false, freqs: Freqs::Base(10.0), scale: 1.0, offsets: &offsets };
        let mut out = vec![0f32; 6];
        assert!(rope_on(Isa::best(), &v, &r, View4Mut::contiguous((&mut out).into(), [1, 1, 1, 6]).unwrap()).is_err());
    }
}

#[test]
fn gated_activations_equal_the_plain_form_also_as_halves_of_one_row() {
    let mut rng = Rng::new(63);
    for t in TYPES {
        for (rows, cols) in [(1, 1), (3, 37), (2, 20_000), (600, 48)] {
            let fused: Vec<f32> = (0..rows * 2 * cols).map(|_| 9.0 * rng.unit()).collect();
            let both = Buffer::of(t, &fused);
            let half = |from: usize| -> Vec<f32> {
                both.values().chunks(2 * cols).flat_map(|r| r[from..from + cols].to_vec()).collect()
            };
            let (gate, up) = (half(0), half(cols));
            // SAFETY: the second view starts cols elements later and is as much shorter.
            let later = unsafe {
                let size = t.size();
                mlx_kernels::Floats::from_raw(both.bytes_at(cols * size), rows * 2 * cols - cols, t)
            };
            for (act, want) in [
                (Gate::Silu, plain::swiglu(&(&gate).into(), &(&up).into())),
                (Gate::GeluTanh, plain::geglu(&(&gate).into(), &(&up).into())),
            ] {
                for isa in Isa::available() {
                    let mut out = Buffer::poison(DType::F32, rows * cols);
                    gated_on(isa, act, both.view(), later, rows, cols, [2 * cols, 2 * cols], out.out()).unwrap();
                    close(&format!("{act:?} {t:?} {isa:?}"), &out.values(), &want, DType::F32, 1e-6);
                }
            }
        }
    }
}
