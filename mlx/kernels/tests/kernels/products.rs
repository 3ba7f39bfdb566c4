//! Products with packed and dense matrices.

use crate::support::{Buffer, Packed, Rng, TYPES, close, modes};
use mlx_kernels::{
    DType, Error, Floats, Isa, Matrix, Mode, Quantized, embed_on, gather_matmul_on, matmul, matmul_on,
    matmul_straight_on, plain,
};

fn check(isa: Isa, x: &Buffer, m: usize, w: &Matrix<'_>, bias: Option<Floats<'_>>, want: &[f64], what: &str) {
    let mut out = Buffer::poison(DType::F32, m * w.rows());
    matmul_on(isa, x.view(), m, w, bias, out.out()).unwrap();
    close(&format!("{what} on {isa:?}"), &out.values(), want, DType::F32, 1.5e-6);
}

#[test]
fn packed_products_equal_the_plain_form_for_every_format_and_row_count() {
    let mut rng = Rng::new(1);
    for mode in modes() {
        let group = mode.group();
        for (i, m) in [1, 2, 3, 5, 8, 9, 13].into_iter().enumerate() {
            let k = group * [1, 3, 5, 2, 7, 3, 9][i];
            let n = [1, 7, 33, 70, 18, 45, 67][i];
            let types = [(0, 0), (1, 2), (2, 1), (0, 1), (1, 1), (2, 2), (2, 0)][i];
            let w = Packed::random(&mut rng, mode, TYPES[types.0], n, k);
            let x = rng.floats(TYPES[types.1], m * k);
            let want = plain::matmul(&x.view(), m, &w.matrix(), None);
            for isa in Isa::available() {
                check(isa, &x, m, &w.matrix(), None, &want, &format!("{mode:?} {m}x{n}x{k} {types:?}"));
            }
        }
    }
}

#[test]
fn every_input_type_meets_every_scale_type() {
    let mut rng = Rng::new(2);
    let affine = |bits, group| Mode::Affine { bits, group };
    for mode in [affine(4, 32), affine(8, 32), affine(4, 64), affine(5, 64), Mode::Mxfp4, Mode::Nvfp4] {
        for (s, t) in (0..9).map(|i| (TYPES[i / 3], TYPES[i % 3])) {
            for m in [1, 4, 25] {
                let (n, k) = (37, 576);
                let w = Packed::random(&mut rng, mode, s, n, k);
                let x = rng.floats(t, m * k);
                let bias = rng.floats(t, n);
                let want = plain::matmul(&x.view(), m, &w.matrix(), Some(bias.view()));
                for isa in Isa::available() {
                    check(isa, &x, m, &w.matrix(), Some(bias.view()), &want, &format!("{mode:?} {s:?} {t:?} m={m}"));
                }
            }
        }
    }
}

#[test]
fn products_are_rounded_once_to_the_output_type() {
    let mut rng = Rng::new(3);
    let (n, k) = (40, 256);
    let w = Packed::random(&mut rng, Mode::Affine { bits: 4, group: 64 }, DType::BF16, n, k);
    for t in TYPES {
        for m in [1, 11] {
            let x = rng.floats(t, m * k);
            let want = plain::matmul(&x.view(), m, &w.matrix(), None);
            for isa in Isa::available() {
                let mut out = Buffer::poison(t, m * n);
                matmul_on(isa, x.view(), m, &w.matrix(), None, out.out()).unwrap();
                close(&format!("{t:?} m={m} {isa:?}"), &out.values(), &want, t, 1.5e-6);
            }
        }
    }
}

#[test]
fn dense_products_equal_the_plain_form() {
    let mut rng = Rng::new(4);
    for (i, (m, n, k)) in [
        (1, 5, 3),
        (1, 66, 257),
        (2, 9, 64),
        (4, 31, 100),
        (7, 33, 515),
        (9, 1, 31),
        (14, 65, 300),
        (30, 40, 16),
        (50, 96, 530),
    ]
    .into_iter()
    .enumerate()
    {
        for j in 0..9 {
            let (wt, xt) = (TYPES[j / 3], TYPES[j % 3]);
            let data = rng.floats(wt, n * k);
            let w = Matrix::dense(data.view(), n, k).unwrap();
            let x = rng.floats(xt, m * k);
            let bias = rng.floats(wt, n);
            let bias = (i % 2 == 0).then(|| bias.view());
            let want = plain::matmul(&x.view(), m, &w, bias);
            for isa in Isa::available() {
                check(isa, &x, m, &w, bias, &want, &format!("dense {wt:?} {xt:?} {m}x{n}x{k}"));
            }
        }
    }
}

#[test]
fn gathered_products_take_each_row_to_its_expert() {
    let mut rng = Rng::new(5);
    let (experts, n, k) = (5, 35, 192);
    let packed = Packed::random(&mut rng, Mode::Affine { bits: 4, group: 64 }, DType::BF16, experts * n, k);
    let six = Packed::random(&mut rng, Mode::Affine { bits: 6, group: 32 }, DType::F16, experts * n, k);
    let data = rng.floats(DType::BF16, experts * n * k);
    let dense = Matrix::dense(data.view(), experts * n, k).unwrap();
    for w in [packed.matrix(), six.matrix(), dense] {
        // (rows of x, rows of the result): decode shares one row, prefill has its own, one expert gets most of them
        for (x_count, rows) in [(1, 3), (6, 6), (40, 60), (90, 30)] {
            for t in [DType::F32, DType::BF16] {
                let x = rng.floats(t, x_count * k);
                let x_rows: Vec<u32> = (0..rows).map(|_| rng.below(x_count) as u32).collect();
                let chosen: Vec<u32> = (0..rows).map(|_| [0, 1, 3, 3, 3, 4][rng.below(6)]).collect();
                let bias = rng.floats(t, experts * n);
                let want = plain::gather_matmul(&x.view(), &w, n, &x_rows, &chosen, Some(bias.view()));
                for isa in Isa::available() {
                    let mut out = Buffer::poison(DType::F32, rows * n);
                    gather_matmul_on(isa, x.view(), &w, n, &x_rows, &chosen, Some(bias.view()), out.out()).unwrap();
                    close(&format!("gather {t:?} {rows} {isa:?}"), &out.values(), &want, DType::F32, 1.5e-6);
                }
            }
        }
    }
}

#[test]
fn straight_products_read_the_matrix_along_its_rows() {
    let mut rng = Rng::new(6);
    for mode in modes() {
        let (m, n, k) = (1 + rng.below(9), mode.group() * (1 + rng.below(5)), 1 + rng.below(150));
        let (s, t) = (TYPES[rng.below(3)], TYPES[rng.below(3)]);
        let w = Packed::random(&mut rng, mode, s, k, n);
        let x = rng.floats(t, m * k);
        let want = plain::matmul_straight(&x.view(), m, &w.matrix());
        for isa in Isa::available() {
            let mut out = Buffer::poison(DType::F32, m * n);
            matmul_straight_on(isa, x.view(), m, &w.matrix(), out.out()).unwrap();
            close(&format!("straight {mode:?} {m}x{n}x{k} {isa:?}"), &out.values(), &want, DType::F32, 1.5e-6);
        }
    }
}

#[test]
fn embedding_rows_are_dequantised_exactly() {
    let mut rng = Rng::new(7);
    for mode in modes() {
        let (rows, k) = (9, mode.group() * 3);
        let w = Packed::random(&mut rng, mode, DType::F16, rows, k);
        let ids = [8, 0, 3, 3];
        let want: Vec<f64> = ids
            .iter()
            .flat_map(|r| (0..k).map(|c| (*r, c)))
            .map(|(r, c)| plain::element(&w.matrix(), r as usize, c))
            .collect();
        for isa in Isa::available() {
            let mut out = Buffer::poison(DType::F32, ids.len() * k);
            embed_on(isa, &w.matrix(), &ids, out.out()).unwrap();
            close(&format!("{mode:?} {isa:?}"), &out.values(), &want, DType::F32, 1e-7);
        }
    }
}

#[test]
fn codes_have_the_values_that_mlx_gives_them() {
    // by hand: scale 2 (e8m0 128, e4m3 0x40), codes 0..15
    let words: Vec<u8> = (0..8).map(|i| (2 * i) | (2 * i + 1) << 4).collect();
    let mut values = vec![0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    values.extend(values.clone().iter().map(|v| -v));
    let q: Matrix = Quantized::float(Mode::Nvfp4, 1, 16, &words, &[0x40]).unwrap().into();
    let ones = vec![1.0f32];
    for isa in Isa::available() {
        let mut out = vec![0f32; 16];
        matmul_straight_on(isa, (&ones).into(), 1, &q, (&mut out).into()).unwrap();
        assert_eq!(out, values.iter().map(|v: &f32| v * 2.0).collect::<Vec<_>>());
        // e4m3: 1.0, the largest, the smallest, what would be NaN, minus 1.75
        let mut words = vec![0u8; 32];
        words[..5].copy_from_slice(&[0x38, 0x7e, 0x01, 0x7f, 0xbe]);
        let q: Matrix = Quantized::float(Mode::Mxfp8, 1, 32, &words, &[126]).unwrap().into();
        let mut out = vec![0f32; 32];
        matmul_straight_on(isa, (&ones).into(), 1, &q, (&mut out).into()).unwrap();
        assert_eq!(out[..6], [0.5, 224.0, 0.000_976_562_5, 240.0, -0.875, 0.0]);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let (x, s) = (vec![0f32; 64], vec![0f32; 8]);
    let words = vec![0u8; 4 * 32];
    let affine =
        |bits, group, cols| Quantized::affine(bits, group, 4, cols, &words, (&s).into(), (&s).into()).map(|_| ());
    assert!(affine(4, 32, 64).is_ok());
    assert!(matches!(affine(7, 32, 64), Err(Error::Unsupported { what: "bits", .. })));
    assert!(matches!(affine(4, 16, 64), Err(Error::Unsupported { what: "group", .. })));
    assert!(matches!(affine(4, 64, 96), Err(Error::Unsupported { what: "columns", .. })));
    assert!(matches!(affine(4, 32, 128), Err(Error::Short { what: "packed words", .. })));
    assert!(matches!(affine(2, 32, 128), Err(Error::Short { what: "scales", need: 16, have: 8 })));
    let w = Matrix::from(Quantized::affine(4, 32, 4, 64, &words, (&s).into(), (&s).into()).unwrap());
    let mut out = vec![0f32; 4];
    assert!(matches!(matmul((&x).into(), 2, &w, None, (&mut out).into()), Err(Error::Short { what: "x", .. })));
    let mut none = vec![0f32; 3];
    assert!(matches!(matmul((&x).into(), 1, &w, None, (&mut none).into()), Err(Error::Short { what: "out", .. })));
    let e = gather_matmul_on(Isa::best(), (&x).into(), &w, 2, &[0], &[2], None, (&mut out).into());
    assert!(matches!(e, Err(Error::Index { what: "expert", index: 2, limit: 2 })));
    let e = gather_matmul_on(Isa::best(), (&x).into(), &w, 2, &[1], &[0], None, (&mut out).into());
    assert!(matches!(e, Err(Error::Index { what: "row of x", index: 1, limit: 1 })));
    let e = embed_on(Isa::best(), &w, &[4], (&mut vec![0f32; 64]).into());
    assert!(matches!(e, Err(Error::Index { index: 4, limit: 4, .. })));
}

#[test]
fn calls_from_several_threads_at_once_give_the_same_result() {
    let mut rng = Rng::new(8);
    let (m, n, k) = (20, 300, 256);
    let w = Packed::random(&mut rng, Mode::Affine { bits: 4, group: 32 }, DType::F16, n, k);
    let x = rng.floats(DType::F32, m * k);
    let run = || {
        let mut out = Buffer::poison(DType::F32, m * n);
        matmul(x.view(), m, &w.matrix(), None, out.out()).unwrap();
        out.values()
    };
    let want = run();
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..25).for_each(|_| assert_eq!(run(), want)));
        }
    });
}
