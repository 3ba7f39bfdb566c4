//! Linear recurrences and short convolutions.

use crate::support::{Buffer, Rng, TYPES, close};
use mlx_kernels::{
    DType, Isa, LinearScan, Rule, SelectiveScan, ShortConv, View4, View4Mut, linear_scan_on, plain, selective_scan_on,
    short_conv_on,
};

/// Tokens before heads in memory, seen as heads before tokens.
fn heads(data: &Buffer, [b, h, l, d]: [usize; 4]) -> View4<'_> {
    View4::new(data.view(), [b, h, l, d], [l * h * d, d, h * d, 1]).unwrap()
}

/// Log-decays from 0 to e^-100 and nothing at all.
fn decays(rng: &mut Rng, n: usize) -> Buffer {
    let harsh = |rng: &mut Rng| match rng.below(8) {
        0 => 0.0,
        1 => -100.0,
        2 => f32::NEG_INFINITY,
        _ => -rng.unit().abs() * 0.3,
    };
    Buffer::of(DType::F32, &(0..n).map(|_| harsh(rng)).collect::<Vec<_>>())
}

#[test]
fn linear_recurrences_equal_the_plain_form() {
    let mut rng = Rng::new(70);
    // heads of q and k, of v, of decays; widths of keys and of values
    for (i, (hk, hv, hg, dk, dv)) in
        [(1, 1, 1, 1, 1), (2, 4, 4, 16, 5), (3, 3, 1, 33, 7), (1, 2, 2, 64, 20), (2, 2, 2, 128, 6)]
            .into_iter()
            .enumerate()
    {
        for l in [1, 2, 31, 32, 33, 65, 200] {
            let (b, h, t) = (2, hk.max(hv), TYPES[(i + l) % 3]);
            let size = |h: usize, d: usize| b * h * l * d;
            let (q, k, v) = (rng.floats(t, size(hk, dk)), rng.floats(t, size(hk, dk)), rng.floats(t, size(hv, dv)));
            let (r, e) = (rng.floats(t, size(hk, dk)), rng.floats(t, size(hk, dk)));
            let betas: Vec<f32> = (0..size(hv, 1)).map(|_| rng.unit() / dk as f32).collect();
            let betas = Buffer::of(t, &betas);
            let scaled = |x: &Buffer| x.values().iter().map(|x| x / dk as f32).collect::<Vec<_>>();
            let (r, e) = (Buffer::of(t, &scaled(&r)), Buffer::of(DType::F32, &scaled(&e)));
            let beta = heads(&betas, [b, hv, l, 1]);
            let (at, under) = (heads(&r, [b, hk, l, dk]), heads(&e, [b, hk, l, dk]));
            let start = rng.floats(DType::F32, b * h * dv * dk);
            for (fine, slots) in [(1, false), (dk, false), (dv, true)] {
                let g = decays(&mut rng, size(hg, fine));
                for (rule, state) in [
                    (Rule::Add { beta: None }, None),
                    (Rule::Add { beta: Some(beta) }, Some(start.view())),
                    (Rule::Delta { beta }, None),
                    (Rule::Delta { beta }, Some(start.view())),
                    (Rule::Remove { at, under }, Some(start.view())),
                    (Rule::Slots, Some(start.view())),
                ] {
                    if matches!(rule, Rule::Slots) != slots {
                        continue;
                    }
                    let scan = LinearScan {
                        q: heads(&q, [b, hk, l, dk]),
                        k: heads(&k, [b, hk, l, dk]),
                        v: heads(&v, [b, hv, l, dv]),
                        g: heads(&g, [b, hg, l, fine]),
                        rule,
                        state,
                    };
                    let (want, states) = plain::linear_scan(&scan, h);
                    for isa in Isa::available() {
                        let what = format!("{t:?} {hk} {hv} {hg} heads {dk}x{dv} {l} tokens {fine} {rule:?} {isa:?}");
                        let mut out = Buffer::poison(DType::F32, size(h, dv));
                        let mut last = Buffer::poison(DType::F32, b * h * dv * dk);
                        let view = View4Mut::contiguous(out.out(), [b, h, l, dv]).unwrap();
                        linear_scan_on(isa, &scan, view, last.out()).unwrap();
                        close(&what, &out.values(), &want, DType::F32, 3e-6);
                        close(&what, &last.values(), &states, DType::F32, 3e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn an_output_may_have_tokens_before_heads() {
    let mut rng = Rng::new(71);
    let (b, h, l, dk, dv) = (2, 3, 5, 8, 6);
    let (k, v, g) = (rng.floats(DType::F32, b * h * l * dk), rng.floats(DType::F32, b * h * l * dv), [-0.5f32]);
    let k = View4::contiguous(k.view(), [b, h, l, dk]).unwrap();
    let scan = LinearScan {
        q: k,
        k,
        v: View4::contiguous(v.view(), [b, h, l, dv]).unwrap(),
        g: View4::new(g[..].into(), [b, h, l, 1], [0; 4]).unwrap(),
        rule: Rule::Add { beta: None },
        state: None,
    };
    let (want, _) = plain::linear_scan(&scan, h);
    let (mut out, mut last) = (vec![f32::NAN; b * l * h * dv], vec![f32::NAN; b * h * dv * dk]);
    let view = View4Mut::new((&mut out).into(), [b, h, l, dv], [l * h * dv, dv, h * dv, 1]).unwrap();
    linear_scan_on(Isa::best(), &scan, view, (&mut last).into()).unwrap();
    let place = |i: usize| {
        let [b0, h0, l0, d0] = [i / (h * l * dv), i / (l * dv) % h, i / dv % l, i % dv];
        ((b0 * l + l0) * h + h0) * dv + d0
    };
    let swapped: Vec<f32> = (0..out.len()).map(|i| out[place(i)]).collect();
    close("tokens first", &swapped, &want, DType::F32, 1e-6);
}

#[test]
fn selective_recurrences_equal_the_plain_form() {
    let mut rng = Rng::new(72);
    for (i, (d, n)) in [(1, 1), (7, 16), (65, 16), (130, 5), (64, 33)].into_iter().enumerate() {
        for l in [1, 31, 32, 33, 63, 64, 65, 200] {
            let (rows, t) = (2, TYPES[(i + l) % 3]);
            let a: Vec<f32> = (0..d * n)
                .map(|i| match i % 5 {
                    0 => 0.0,
                    1 => -1e30,
                    _ => -rng.unit().abs() * 2.0,
                })
                .collect();
            let steps: Vec<f32> = (0..rows * l * d).map(|_| rng.unit().abs()).collect();
            let (u, dt) = (rng.floats(t, rows * l * d), Buffer::of(DType::F32, &steps));
            let (b, c, skip) = (rng.floats(t, rows * l * n), rng.floats(t, rows * l * n), rng.floats(t, d));
            let start = rng.floats(DType::F32, rows * d * n);
            for state in [None, Some(start.view())] {
                let scan = SelectiveScan {
                    dims: [rows, l, d, n],
                    u: u.view(),
                    dt: dt.view(),
                    a: (&a).into(),
                    b: b.view(),
                    c: c.view(),
                    skip: skip.view(),
                    state,
                };
                let (want, states) = plain::selective_scan(&scan);
                for isa in Isa::available() {
                    let what = format!("{t:?} {l} tokens {d}x{n} {isa:?}");
                    let mut out = Buffer::poison(DType::F32, rows * l * d);
                    let mut last = Buffer::poison(DType::F32, rows * d * n);
                    selective_scan_on(isa, &scan, out.out(), last.out()).unwrap();
                    close(&what, &out.values(), &want, DType::F32, 3e-6);
                    close(&what, &last.values(), &states, DType::F32, 3e-6);
                }
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let x = vec![0f32; 24];
    let view = |d| View4::contiguous((&x).into(), d).unwrap();
    let (q, v, g) = (view([1, 2, 3, 4]), view([1, 4, 3, 2]), view([1, 1, 3, 1]));
    let good = LinearScan { q, k: q, v, g, rule: Rule::Delta { beta: g }, state: None };
    let run = |scan: &LinearScan<'_>, room: usize| {
        let (mut out, mut last) = (vec![0f32; 24], vec![0f32; room]);
        let out = View4Mut::contiguous((&mut out).into(), [1, 4, 3, 2]).unwrap();
        linear_scan_on(Isa::best(), scan, out, (&mut last).into())
    };
    run(&good, 32).unwrap();
    run(&good, 31).unwrap_err();
    run(&LinearScan { q: view([1, 3, 3, 2]), ..good }, 32).unwrap_err();
    run(&LinearScan { g: view([1, 1, 2, 1]), ..good }, 32).unwrap_err();
    run(&LinearScan { g: view([1, 1, 3, 2]), ..good }, 32).unwrap_err();
    run(&LinearScan { rule: Rule::Delta { beta: q }, ..good }, 32).unwrap_err();
    run(&LinearScan { state: Some((&x[..8]).into()), ..good }, 32).unwrap_err();
}

#[test]
fn short_convolutions_equal_the_plain_form() {
    let mut rng = Rng::new(73);
    for (i, (c, taps)) in [(1, 1), (5, 2), (33, 3), (300, 4), (64, 7)].into_iter().enumerate() {
        for l in [1, 2, 31, 32, 33, 70] {
            let (rows, t, wide) = (2, TYPES[(i + l) % 3], c + 9);
            // x lies in the middle of wider rows
            let all = rng.floats(t, rows * l * wide);
            let x = View4::new(all.view(), [rows, 1, l, c], [l * wide, 0, wide, 1]).unwrap();
            let (w, b, before) = (rng.floats(t, c * taps), rng.floats(t, c), rng.floats(t, rows * (taps - 1) * c));
            for (silu, bias, tail) in
                [(false, None, None), (true, None, Some(before.view())), (true, Some(b.view()), Some(before.view()))]
            {
                let conv = ShortConv { x, weight: w.view(), bias, tail, silu };
                let (want, last) = plain::short_conv(&conv);
                for isa in Isa::available() {
                    let what = format!("{t:?} {l} tokens {c} channels {taps} taps {isa:?}");
                    let mut out = Buffer::poison(t, rows * l * c);
                    let mut next = Buffer::poison(t, rows * (taps - 1) * c);
                    short_conv_on(isa, &conv, out.out(), next.out()).unwrap();
                    // with SiLU, three roundings
                    let rounding = if silu && t != DType::F32 { 0.01 } else { 1e-6 };
                    close(&what, &out.values(), &want, t, rounding);
                    close(&what, &next.values(), &last, DType::F32, 0.0);
                }
            }
        }
    }
}
