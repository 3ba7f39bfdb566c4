//! Linear layers with their surroundings, and the attention step, against the plain forms put together.

use crate::support::{Buffer, Packed, Rng, TYPES, close, modes};
use mlx_kernels::{
    DType, DecodeStep, Floats, Gate, Isa, Linear, Matrix, Mode, Rotation, decode_step_on, linear_on, plain,
};

fn values(x: &[f64], dtype: DType) -> Vec<f64> {
    let x: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    Buffer::of(dtype, &x).values().iter().map(|v| f64::from(*v)).collect()
}

fn act(gate: Gate, g: f64, u: f64) -> f64 {
    let (g, u) = ([g as f32], [u as f32]);
    match gate {
        Gate::Silu => plain::swiglu(&g.as_slice().into(), &u.as_slice().into())[0],
        Gate::GeluTanh => plain::geglu(&g.as_slice().into(), &u.as_slice().into())[0],
    }
}

/// What a layer computes, in f64 from the same inputs.
fn wanted(l: &Linear<'_>) -> Vec<f64> {
    let k = l.parts[0].0.cols();
    let mut x: Vec<f64> = (0..l.m * k).map(|i| f64::from(l.x.get(i).unwrap())).collect();
    if let Some((w, eps)) = l.norm {
        x = values(&plain::rms_norm(&l.x, k, Some(w), eps), l.x.dtype());
    }
    let x: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    let parts: Vec<(usize, Vec<f64>)> =
        l.parts.iter().map(|(w, b)| (w.rows(), plain::matmul(&(&x).into(), l.m, w, *b))).collect();
    let mut out = Vec::new();
    for m in 0..l.m {
        let mut row: Vec<f64> = parts.iter().flat_map(|(n, y)| y[m * n..(m + 1) * n].to_vec()).collect();
        if let Some(gate) = l.gate {
            let n = row.len() / 2;
            row = (0..n).map(|i| act(gate, row[i], row[n + i])).collect();
        }
        out.extend(row);
    }
    if let Some(r) = l.residual {
        out.iter_mut().enumerate().for_each(|(i, y)| *y += f64::from(r.get(i).unwrap()));
    }
    out
}

fn check(l: &Linear<'_>, t: DType, what: &str) {
    let want = wanted(l);
    for isa in Isa::available() {
        let mut out = Buffer::poison(t, want.len());
        linear_on(isa, l, out.out()).unwrap();
        // a normed x may be rounded to the other neighbour
        let tolerance = if l.norm.is_some() && l.x.dtype() != DType::F32 { 1e-3 } else { 4e-6 };
        close(&format!("{what} on {isa:?}"), &out.values(), &want, t, tolerance);
    }
}

#[test]
fn a_layer_with_everything_around_it_equals_the_plain_forms() {
    let mut rng = Rng::new(70);
    for (i, mode) in modes().into_iter().enumerate() {
        let (m, k) = ([1, 2, 3, 5, 8][i % 5], mode.group() * [1, 3, 5, 9][i % 4]);
        let (t, scales) = (TYPES[i % 3], TYPES[i / 3 % 3]);
        let x = rng.floats(t, m * k);
        let nw = rng.floats(TYPES[i / 2 % 3], k);
        let n = [7, 36, 130, 33][i % 4];
        // three parts of which one is dense, as checkpoints may mix them
        let (a, b) = (Packed::random(&mut rng, mode, scales, n, k), Packed::random(&mut rng, mode, scales, n + 2, k));
        let dense = rng.floats(t, 5 * k);
        let (bias, residual) = (rng.floats(t, n + 2), rng.floats(t, m * (2 * n + 7)));
        let dense = Matrix::dense(dense.view(), 5, k).unwrap();
        let parts = [(a.matrix(), None), (b.matrix(), Some(bias.view())), (dense, None)];
        let norm = (i % 2 == 0).then(|| (nw.view(), 1e-5));
        let residual = (i % 3 != 0).then(|| residual.view());
        let l = Linear { x: x.view(), m, norm, parts: &parts, gate: None, residual };
        check(&l, DType::F32, &format!("{mode:?} {m} rows of {k} {t:?}"));
        check(&l, t, &format!("{mode:?} {m} rows of {k} {t:?} rounded"));
    }
}

#[test]
fn parts_that_differ_in_their_groups_alone_have_sums_of_their_own() {
    let mut rng = Rng::new(72);
    let parts = [32, 64].map(|group| Packed::random(&mut rng, Mode::Affine { bits: 4, group }, DType::F16, 9, 128));
    let parts = [(parts[0].matrix(), None), (parts[1].matrix(), None)];
    let x = rng.floats(DType::F32, 2 * 128);
    let l = Linear { x: x.view(), m: 2, norm: None, parts: &parts, gate: None, residual: None };
    check(&l, DType::F32, "groups of 32 and 64");
}

#[test]
fn gates_meet_their_up_halves_whether_they_are_one_part_or_two() {
    let mut rng = Rng::new(71);
    for (i, mode) in
        [Mode::Affine { bits: 4, group: 32 }, Mode::Affine { bits: 6, group: 64 }, Mode::Mxfp4].into_iter().enumerate()
    {
        for (m, n, k) in [(1, 5, 64), (3, 333, 128), (8, 70, 192), (1, 1500, 576)] {
            let t = TYPES[(i + m) % 3];
            let x = rng.floats(t, m * k);
            let (g, u) =
                (Packed::random(&mut rng, mode, DType::F16, n, k), Packed::random(&mut rng, mode, DType::F16, n, k));
            let both = Packed::random(&mut rng, mode, DType::F16, 2 * n, k);
            let bias = rng.floats(t, 2 * n);
            let residual = rng.floats(t, m * n);
            let (two, one) = ([(g.matrix(), None), (u.matrix(), None)], [(both.matrix(), Some(bias.view()))]);
            for (gate, parts) in [(Gate::Silu, &two[..]), (Gate::GeluTanh, &one[..])] {
                let residual = (m == 3).then(|| residual.view());
                let l = Linear { x: x.view(), m, norm: None, parts, gate: Some(gate), residual };
                check(&l, DType::F32, &format!("{gate:?} {mode:?} {m}x{n}x{k}"));
            }
        }
    }
}

#[test]
fn layers_whose_sizes_do_not_fit_are_refused() {
    let (x, w, mut out) = (vec![0f32; 96], vec![0f32; 96], vec![0f32; 96]);
    let matrix = |n, k| (Matrix::dense((&w).into(), n, k).unwrap(), None);
    let none = Linear { x: (&x).into(), m: 1, norm: None, parts: &[], gate: None, residual: None };
    let mut refused = |l: &Linear<'_>| assert!(linear_on(Isa::best(), l, (&mut out).into()).is_err());
    let parts = [matrix(4, 8), matrix(3, 8)];
    refused(&none);
    refused(&Linear { m: 9, parts: &parts, ..none });
    refused(&Linear { gate: Some(Gate::Silu), parts: &parts, ..none });
    refused(&Linear { parts: &[matrix(4, 8), matrix(4, 6)], ..none });
    refused(&Linear { m: 7, parts: &[matrix(3, 16)], ..none });
    refused(&Linear { parts: &parts, residual: Some(Floats::from(&x[..6])), ..none });
    refused(&Linear { parts: &parts, norm: Some((Floats::from(&x[..7]), 1e-5)), ..none });
}

struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    dims: usize,
    capacity: usize,
    traditional: bool,
    norm: bool,
    window: Option<usize>,
    softcap: Option<f32>,
    sinks: bool,
}

fn case(heads: usize, kv_heads: usize, d: usize) -> Case {
    Case {
        batch: 1,
        heads,
        kv_heads,
        d,
        dims: d,
        capacity: 40,
        traditional: false,
        norm: false,
        window: None,
        softcap: None,
        sinks: false,
    }
}

/// One step in f64: (out, keys, values).
fn step(s: &DecodeStep<'_>, keys: &[f32], values: &[f32], cache: DType) -> [Vec<f64>; 3] {
    let (h, hk, d, t) = (s.heads, s.kv_heads, s.head_dim, s.capacity);
    let get = |x: &Floats<'_>, i: usize| f64::from(x.get(i).unwrap());
    let [mut k_all, mut v_all] = [keys, values].map(|a| a.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>());
    let mut out = Vec::new();
    for b in 0..s.batch {
        let start = s.starts.map_or(0, |a| a[b]);
        let head = |i: usize, norm: Option<Floats<'_>>, turn: bool| {
            let mut row: Vec<f64> = (0..d).map(|c| get(&s.qkv, (b * (h + 2 * hk) + i) * d + c)).collect();
            if let (Some(w), Some((.., eps))) = (norm, s.qk_norm) {
                let r = (row.iter().map(|v| v * v).sum::<f64>() / d as f64 + f64::from(eps)).sqrt();
                row = (0..d).map(|c| row[c] / r * get(&w, c)).collect();
            }
            if let (Some(r), true) = (s.rotation, turn) {
                let half = r.radians.len();
                let old = row.clone();
                for j in 0..half {
                    let angle = f64::from((s.position - start) as f32 * r.radians.get(j).unwrap());
                    let (x, y) = if r.traditional { (2 * j, 2 * j + 1) } else { (j, half + j) };
                    let f = f64::from(r.feature_scale);
                    row[x] = f * (old[x] * angle.cos() - old[y] * angle.sin());
                    row[y] = f * (old[x] * angle.sin() + old[y] * angle.cos());
                }
            }
            row
        };
        for i in 0..hk {
            let at = ((b * hk + i) * t + s.slot) * d;
            let k = values_of(&head(h + i, s.qk_norm.map(|n| n.1), true), cache);
            k_all[at..at + d].copy_from_slice(&k);
            v_all[at..at + d].copy_from_slice(&head(h + hk + i, None, false));
        }
        for i in 0..h {
            let q = head(i, s.qk_norm.map(|n| n.0), true);
            let at = |j: usize| ((b * hk + i / (h / hk)) * t + j) * d;
            let first = s.window.map_or(0, |w| s.last as i64 + 1 - w as i64).max(i64::from(start)).max(0) as usize;
            let mut scores: Vec<f64> = (first..=s.last)
                .map(|j| {
                    let dot: f64 = (0..d).map(|c| q[c] * k_all[at(j) + c]).sum::<f64>() * f64::from(s.scale);
                    s.softcap.map_or(dot, |cap| f64::from(cap) * (dot / f64::from(cap)).tanh())
                })
                .collect();
            scores.extend(s.sinks.map(|x| get(&x, i)));
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - top).exp()).sum();
            let weight = |j: usize| (scores[j - first] - top).exp() / sum;
            out.extend((0..d).map(|c| (first..=s.last).map(|j| weight(j) * v_all[at(j) + c]).sum::<f64>()));
        }
    }
    [out, k_all, v_all]
}

fn values_of(x: &[f64], dtype: DType) -> Vec<f64> {
    values(x, dtype)
}

fn attend(seed: u64, t: DType, c: &Case, places: &[(usize, usize, i32)], starts: Option<&[i32]>) {
    let mut rng = Rng::new(seed);
    let (b, h, hk, d) = (c.batch, c.heads, c.kv_heads, c.d);
    let n = b * hk * c.capacity * d;
    let (k0, v0) = (rng.floats(t, n), rng.floats(t, n));
    let radians: Vec<f32> = (0..c.dims / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / c.dims as f32)).collect();
    let (qn, kn, sinks) = (rng.floats(t, d), rng.floats(DType::F32, d), rng.floats(t, h));
    for &(slot, last, position) in places {
        let qkv = rng.floats(t, b * (h + 2 * hk) * d);
        let s = DecodeStep {
            qkv: qkv.view(),
            batch: b,
            heads: h,
            kv_heads: hk,
            head_dim: d,
            capacity: c.capacity,
            scale: 2.0 / (d as f32).sqrt(),
            rotation: (c.dims > 0).then(|| Rotation {
                radians: (&radians).into(),
                traditional: c.traditional,
                feature_scale: 1.25,
            }),
            qk_norm: c.norm.then(|| (qn.view(), kn.view(), 1e-6)),
            window: c.window,
            softcap: c.softcap,
            sinks: c.sinks.then(|| sinks.view()),
            slot,
            last,
            position,
            starts,
        };
        let [want, keys, values] = step(&s, &k0.values(), &v0.values(), t);
        for isa in Isa::available() {
            let what = format!("{t:?} d{d} {h}/{hk} b{b} at {slot} of {last} on {isa:?}");
            let (mut k, mut v) = (Buffer::of(t, &k0.values()), Buffer::of(t, &v0.values()));
            let mut out = Buffer::poison(DType::F32, want.len());
            decode_step_on(isa, &s, k.out(), v.out(), out.out()).unwrap();
            // keys are rounded to their type, perhaps to the other neighbour
            close(&what, &out.values(), &want, DType::F32, if t == DType::F32 { 5e-6 } else { 4e-3 });
            close(&format!("keys, {what}"), &k.values(), &keys, t, 1e-6);
            close(&format!("values, {what}"), &v.values(), &values, t, 0.0);
        }
    }
}

#[test]
fn a_decode_step_appends_and_attends_like_the_plain_form() {
    let at = |slot: usize| (slot, slot, slot as i32);
    for (i, t) in TYPES.into_iter().enumerate() {
        let i = i as u64;
        attend(80 + i, t, &case(9, 3, 64), &[at(0), at(1), at(17), at(39)], None);
        attend(83 + i, t, &Case { norm: true, dims: 20, ..case(6, 2, 36) }, &[at(0), at(38)], None);
        attend(86 + i, t, &Case { traditional: true, dims: 24, batch: 2, ..case(4, 4, 40) }, &[at(5)], None);
        attend(89 + i, t, &Case { dims: 0, norm: true, sinks: true, ..case(8, 1, 128) }, &[at(30)], None);
        attend(92 + i, t, &Case { window: Some(7), softcap: Some(1.5), ..case(2, 1, 96) }, &[at(3), at(33)], None);
        attend(95 + i, t, &Case { capacity: 1300, sinks: true, ..case(6, 2, 64) }, &[at(1290)], None);
        attend(96 + i, t, &Case { capacity: 1300, window: Some(700), ..case(6, 2, 64) }, &[at(1299)], None);
    }
}

#[test]
fn rings_and_padded_rows_are_seen_as_they_stand() {
    for (i, t) in TYPES.into_iter().enumerate() {
        let i = i as u64;
        // filling, full, wrapped around
        let ring = [(4, 4, 4), (39, 39, 39), (0, 39, 40), (17, 39, 1000)];
        attend(100 + i, t, &Case { norm: true, sinks: true, ..case(4, 2, 64) }, &ring, None);
        let rows = Case { batch: 3, ..case(4, 2, 64) };
        attend(103 + i, t, &rows, &[(17, 17, 17), (30, 30, 30)], Some(&[0, 3, 17]));
        attend(106 + i, t, &Case { window: Some(20), ..rows }, &[(30, 30, 30)], Some(&[0, 3, 29]));
    }
}
