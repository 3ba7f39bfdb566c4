use crate::tools::{card, error, fresh_seed, normal, poison};
use mlx::fast::{
    Columns, DeltaLayer, HeadGate, LinearScan, LogDecay, Rule, SelectiveScan, ShortConv, SpaceLayer, UnitLength,
    WkvLayer,
};
use mlx::{self as mx, Array, Device, Dtype, fast};

const BF: Dtype = Dtype::Bfloat16;
const F32: Dtype = Dtype::Float32;

fn wide(a: &Array) -> Array {
    a.astype(F32)
}

fn host(a: &Array) -> Vec<f32> {
    wide(a).to_vec().unwrap()
}

/// Both results against the same call on the CPU in float32.
fn check_scan(what: &str, i: &LinearScan, state: Option<&Array>) {
    let [b, _, l, _] = i.q.dims();
    poison((b * 8 * l * i.v.dim(3) * 4) as usize);
    let (o, s) = fast::linear_scan(i, state.cloned());
    mx::eval([&o, &s]).unwrap();
    let (want, want_state) = mx::with_device(Device::Cpu, || {
        let (q, k, v, g) = (wide(i.q), wide(i.k), wide(i.v), wide(i.g));
        let (a, c);
        let rule = match i.rule {
            Rule::Add { beta: None } => Rule::Add { beta: None },
            Rule::Add { beta: Some(beta) } => {
                a = wide(beta);
                Rule::Add { beta: Some(&a) }
            }
            Rule::Delta { beta } => {
                a = wide(beta);
                Rule::Delta { beta: &a }
            }
            Rule::Remove { at, under } => {
                (a, c) = (wide(at), wide(under));
                Rule::Remove { at: &a, under: &c }
            }
        };
        let (o, s) = fast::linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, state.cloned());
        mx::eval([&o, &s]).unwrap();
        (o, s)
    });
    let e = error(&o, &want).max(error(&s, &want_state));
    println!("{what}: {e:.1e}");
    assert!(e < 2e-5, "{what}: {e:e}");
}

#[test]
fn linear_scans_equal_the_plain_form() {
    if !card("linear_scans_equal_the_plain_form") {
        return;
    }
    fresh_seed();
    // rows, heads of q, k, v, g and the rule, tokens, widths of keys and values
    for (b, [hq, hk, hv, hg, hr], l, k, v) in [
        (1, [2, 2, 4, 4, 4], 1, 128, 128),
        (2, [1, 1, 2, 2, 2], 3, 64, 40),
        (3, [2, 1, 2, 2, 1], 17, 36, 70),
        (1, [2, 2, 2, 2, 2], 130, 64, 64),
        (1, [1, 1, 1, 1, 1], 9, 256, 33),
        (2, [1, 1, 4, 4, 4], 70, 16, 64),
    ] {
        for channels in [false, true] {
            let unit = |h: i32, dtype| {
                let a = normal(&[b, l, h, k], F32, 1.0);
                let a = (&a * (a.square().sum_keepdims(-1) + 1e-6).rsqrt()).astype(dtype);
                a.eval().unwrap();
                a.swapaxes(1, 2)
            };
            let (q, key) = (unit(hq, BF), unit(hk, F32));
            let values = normal(&[b, l, hv, v], BF, 1.0).swapaxes(1, 2);
            let g = -normal(&[b, hg, l, if channels { k } else { 1 }], F32, 0.5).abs();
            let beta = normal(&[b, l, hr, 1], BF, 1.0).sigmoid().swapaxes(1, 2);
            let (at, under) = (unit(hr, F32), unit(hr, BF));
            let state = normal(&[b, [hq, hk, hv, hg, hr].into_iter().max().unwrap(), v, k], F32, 0.3);
            mx::eval([&g, &beta]).unwrap();
            let what = format!("b {b} l {l} k {k} v {v} channels {channels}");
            let scan = |rule| LinearScan { q: &q, k: &key, v: &values, g: &g, rule };
            check_scan(&format!("add, {what}"), &scan(Rule::Add { beta: Some(&beta) }), Some(&state));
            check_scan(&format!("add 1, {what}"), &scan(Rule::Add { beta: None }), None);
            check_scan(&format!("delta, {what}"), &scan(Rule::Delta { beta: &beta }), Some(&state));
            check_scan(&format!("remove, {what}"), &scan(Rule::Remove { at: &at, under: &under }), Some(&state));
        }
    }
}

#[test]
fn selective_scans_equal_the_plain_form() {
    if !card("selective_scans_equal_the_plain_form") {
        return;
    }
    fresh_seed();
    for (b, l, d, n) in [(1, 1, 70, 16), (2, 9, 33, 5), (1, 100, 128, 16), (3, 2, 1, 64)] {
        let (u, dt) = (normal(&[b, l, d], BF, 1.0), normal(&[b, l, d], F32, 1.0).abs());
        let (a, skip) = (-normal(&[d, n], F32, 1.0).abs(), normal(&[d], BF, 1.0));
        let (bs, cs, state) = (normal(&[b, l, n], BF, 1.0), normal(&[b, l, n], F32, 1.0), normal(&[b, d, n], F32, 1.0));
        mx::eval([&dt, &a]).unwrap();
        poison((b * l * d * 4) as usize);
        let i = SelectiveScan { u: &u, dt: &dt, a: &a, b: &bs, c: &cs, skip: &skip };
        let (y, s) = fast::selective_scan(&i, Some(state.clone()));
        mx::eval([&y, &s]).unwrap();
        let (want, want_state) = mx::with_device(Device::Cpu, || {
            let (u, bs, skip) = (wide(&u), wide(&bs), wide(&skip));
            let i = SelectiveScan { u: &u, b: &bs, skip: &skip, ..i };
            let (y, s) = fast::selective_scan(&i, Some(state.clone()));
            mx::eval([&y, &s]).unwrap();
            (y, s)
        });
        let e = error(&y, &want).max(error(&s, &want_state));
        assert!(e < 2e-5, "b {b} l {l} d {d} n {n}: {e:e}");
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The convolution with SiLU of x [B, L, C] by a loop, and the inputs to keep.
fn convolved(x: &[f32], [b, l, c, taps]: [usize; 4], conv: &ShortConv) -> (Vec<f32>, Vec<f32>) {
    let (w, bias) = (host(conv.weight), conv.bias.map(host));
    let tail = conv.tail.map_or(vec![0.0; b * (taps - 1) * c], host);
    let before = |row: usize, t: isize, i: usize| match usize::try_from(t) {
        Ok(t) => x[(row * l + t) * c + i],
        Err(_) => tail[(row * (taps - 1) + (taps as isize - 1 + t) as usize) * c + i],
    };
    let (mut y, mut kept) = (vec![0.0; b * l * c], Vec::new());
    for row in 0..b {
        for t in 0..l as isize {
            for i in 0..c {
                let sum: f32 =
                    (0..taps).map(|j| w[i * taps + j] * before(row, t - taps as isize + 1 + j as isize, i)).sum();
                y[(row * l + t as usize) * c + i] = silu(sum + bias.as_ref().map_or(0.0, |b| b[i]));
            }
        }
        for n in 0..taps - 1 {
            kept.extend((0..c).map(|i| before(row, l as isize - taps as isize + 1 + n as isize, i)));
        }
    }
    (y, kept)
}

fn close(what: &str, got: &Array, want: &[f32], most: f32) {
    let e = error(&got.reshape(-1), &Array::from(want.to_vec()));
    println!("{what}: {e:.1e}");
    assert!(e < most, "{what}: {e:e}");
}

#[test]
fn delta_layers_equal_a_loop() {
    if !card("delta_layers_equal_a_loop") {
        return;
    }
    fresh_seed();
    // rows, tokens, key heads, value heads, widths, one projection for all, decays by channel, bound
    for (b, l, hk, hv, k, v, packed, channels, bound, fresh) in [
        (1, 1, 2, 4, 128, 128, true, false, None, false),
        (2, 5, 2, 4, 64, 96, true, false, None, false),
        (1, 13, 1, 1, 128, 200, false, false, Some(-5.0), true),
        (3, 1, 2, 2, 64, 64, false, true, None, false),
        (1, 9, 2, 2, 36, 40, false, true, Some(-4.0), true),
    ] {
        let (per, taps) = (hv / hk, 4);
        let (keys, values) = (hk * k, hv * v);
        let (all, row) = (2 * keys + values, 2 * (k + per * v));
        // rows of a key head: q, k, v, z; or all of q, all of k, all of v
        let x = normal(&[b, l, if packed { hk * row } else { all }], BF, 1.0);
        let z_own = normal(&[b, l, values], BF, 1.0);
        let ba = normal(&[b, l, 2 * hv], BF, 1.0);
        let f = normal(&[b, l, hv * k], BF, 1.0);
        let (w, bias) = (normal(&[all, taps, 1], BF, 0.5), normal(&[all], BF, 0.5));
        let tail = normal(&[b, taps - 1, all], BF, 1.0);
        let (a_log, dt_bias) = (normal(&[hv], F32, 0.5), normal(&[if channels { hv * k } else { hv }], BF, 1.0));
        let norm = normal(&[v], BF, 0.2) + 1.0;
        let state = normal(&[b, hv, v, k], F32, 0.2);
        norm.eval().unwrap();
        let part = |at: i32, stride: i32| Columns { x: &x, at, stride };
        let qkv = match packed {
            true => [part(0, row), part(k, row), part(2 * k, row)],
            false => [part(0, k), part(keys, k), part(2 * keys, per * v)],
        };
        let z = if packed { part(2 * k + per * v, row) } else { Columns::new(&z_own, 0, per * v) };
        let conv = ShortConv { weight: &w, bias: Some(&bias), tail: (!fresh).then_some(&tail) };
        let gate = match (packed, channels) {
            (true, _) => HeadGate::Silu(z),
            (false, true) => HeadGate::Sigmoid(z),
            (false, false) => HeadGate::None,
        };
        let layer = DeltaLayer {
            key_heads: hk,
            value_heads: hv,
            key_dim: k,
            value_dim: v,
            q: qkv[0],
            k: qkv[1],
            v: qkv[2],
            convs: &[conv],
            beta: Columns { x: &ba, at: 0, stride: 2 * per },
            reach: 2.0,
            a: if channels { Columns::new(&f, 0, k) } else { Columns { x: &ba, at: per, stride: 2 * per } },
            channels,
            decay: bound.map_or(LogDecay::Softplus, LogDecay::Bounded),
            a_log: &a_log,
            dt_bias: &dt_bias,
            norm: (&norm, 1e-6),
            gate,
        };
        poison((b * l * values * 2) as usize);
        let got = fast::delta_fused(&layer, (!fresh).then_some(&state)).expect("a kernel");
        mx::eval([&got.out, &got.tails[0], &got.state]).unwrap();

        let [bu, lu, hku, hvu, ku, vu, peru] = [b, l, hk, hv, k, v, per].map(|n| n as usize);
        let (xs, zs, bas, fs) = (host(&x), host(&z_own), host(&ba), host(&f));
        let width = x.dim(2) as usize;
        // channels in the order of the convolution
        let column = |c: usize| match packed {
            false => c,
            true => {
                let (keys, row) = (keys as usize, row as usize);
                match c {
                    c if c < keys => c / ku * row + c % ku,
                    c if c < 2 * keys => (c - keys) / ku * row + ku + (c - keys) % ku,
                    c => (c - 2 * keys) / (peru * vu) * row + 2 * ku + (c - 2 * keys) % (peru * vu),
                }
            }
        };
        let flat: Vec<f32> = (0..bu * lu)
            .flat_map(|t| (0..all as usize).map(move |c| (t, c)))
            .map(|(t, c)| xs[t * width + column(c)])
            .collect();
        let (y, kept) = convolved(&flat, [bu, lu, all as usize, taps as usize], &conv);
        let mut s = if fresh { vec![0.0; bu * hvu * vu * ku] } else { host(&state) };
        let (al, db, nw) = (host(&a_log), host(&dt_bias), host(&norm));
        let mut want = vec![0.0; bu * lu * hvu * vu];
        for (row, h) in (0..bu).flat_map(|r| (0..hvu).map(move |h| (r, h))) {
            let s = &mut s[(row * hvu + h) * vu * ku..][..vu * ku];
            let (kh, sub) = (h / peru, h % peru);
            for t in row * lu..(row + 1) * lu {
                let unit = |at: usize| {
                    let a = &y[t * all as usize + at..][..ku];
                    let n = (a.iter().map(|x| x * x).sum::<f32>() + 1e-6).sqrt();
                    a.iter().map(|x| x / n).collect::<Vec<_>>()
                };
                let (q, key) = (unit(kh * ku), unit((hku + kh) * ku));
                let beta = 2.0 * sigmoid(bas[t * 2 * hvu + kh * 2 * peru + sub]);
                let a = |c: usize| match channels {
                    true => fs[(t * hvu + h) * ku + c] + db[h * ku + c],
                    false => bas[t * 2 * hvu + kh * 2 * peru + peru + sub] + db[h],
                };
                let fade: Vec<f32> = (0..ku)
                    .map(|c| match bound {
                        None => (-al[h].exp() * (1.0 + a(c).exp()).ln()).exp(),
                        Some(bound) => (bound * sigmoid(al[h].exp() * a(c))).exp(),
                    })
                    .collect();
                let out: Vec<f32> = (0..vu)
                    .map(|i| {
                        let s = &mut s[i * ku..][..ku];
                        s.iter_mut().zip(&fade).for_each(|(s, f)| *s *= f);
                        let seen: f32 = s.iter().zip(&key).map(|(s, k)| s * k).sum();
                        let write = beta * (y[t * all as usize + 2 * keys as usize + h * vu + i] - seen);
                        s.iter_mut().zip(&key).for_each(|(s, k)| *s += write * k);
                        s.iter().zip(&q).map(|(s, q)| s * q).sum::<f32>() / (ku as f32).sqrt()
                    })
                    .collect();
                let rms = (out.iter().map(|x| x * x).sum::<f32>() / vu as f32 + 1e-6).sqrt();
                for (i, o) in out.iter().enumerate() {
                    let z = if packed {
                        xs[t * width + kh * row_of(ku, peru, vu) + 2 * ku + peru * vu + sub * vu + i]
                    } else {
                        zs[(t * hvu + h) * vu + i]
                    };
                    let gate = match gate {
                        HeadGate::None => 1.0,
                        HeadGate::Silu(_) => silu(z),
                        HeadGate::Sigmoid(_) => sigmoid(z),
                    };
                    want[(t * hvu + h) * vu + i] = o / rms * nw[i] * gate;
                }
            }
        }
        let what = format!("delta b {b} l {l} {hk}/{hv} k {k} v {v} channels {channels}");
        close(&what, &got.out, &want, 8e-3);
        close(&format!("{what}, state"), &got.state, &s, 1e-4);
        close(&format!("{what}, tail"), &got.tails[0], &kept, 1e-9);
    }
}

fn row_of(k: usize, per: usize, v: usize) -> usize {
    2 * (k + per * v)
}

#[test]
fn delta_layers_take_three_convolutions() {
    if !card("delta_layers_take_three_convolutions") {
        return;
    }
    fresh_seed();
    // the same layer with one convolution of all channels and with three
    let (b, l, h, k, v, taps) = (2, 3, 3, 64, 32, 4);
    let [q, key, value] = [k, k, v].map(|n| normal(&[b, l, h * n], BF, 1.0));
    let x = mx::concatenate(&[&q, &key, &value], -1);
    let weights = [k, k, v].map(|n| normal(&[h * n, taps, 1], BF, 0.5));
    let tails = [k, k, v].map(|n| normal(&[b, taps - 1, h * n], BF, 1.0));
    let (weight, tail) = (mx::concatenate(&weights, 0), mx::concatenate(&tails, -1));
    let (f, beta) = (normal(&[b, l, h * k], BF, 1.0), normal(&[b, l, h], BF, 1.0));
    let (a_log, dt_bias, norm) = (normal(&[h], BF, 0.5), normal(&[h * k], F32, 1.0), normal(&[v], BF, 1.0));
    mx::eval([&x, &weight, &tail]).unwrap();
    let short = |i: usize| ShortConv { weight: &weights[i], bias: None, tail: Some(&tails[i]) };
    let three = [short(0), short(1), short(2)];
    let one = [ShortConv { weight: &weight, bias: None, tail: Some(&tail) }];
    let layer = DeltaLayer {
        key_heads: h,
        value_heads: h,
        key_dim: k,
        value_dim: v,
        q: Columns::new(&q, 0, k),
        k: Columns::new(&key, 0, k),
        v: Columns::new(&value, 0, v),
        convs: &three,
        beta: Columns::new(&beta, 0, 1),
        reach: 1.0,
        a: Columns::new(&f, 0, k),
        channels: true,
        decay: LogDecay::Softplus,
        a_log: &a_log,
        dt_bias: &dt_bias,
        norm: (&norm, 1e-5),
        gate: HeadGate::None,
    };
    let joined = DeltaLayer {
        q: Columns::new(&x, 0, k),
        k: Columns::new(&x, h * k, k),
        v: Columns::new(&x, 2 * h * k, v),
        convs: &one,
        ..layer
    };
    let (a, c) =
        (fast::delta_fused(&layer, None).expect("a kernel"), fast::delta_fused(&joined, None).expect("a kernel"));
    assert_eq!(error(&a.out, &c.out), 0.0);
    assert_eq!(error(&a.state, &c.state), 0.0);
    assert_eq!(error(&mx::concatenate(&a.tails, -1), &c.tails[0]), 0.0);
}

#[test]
fn mamba2_layers_equal_a_loop() {
    if !card("mamba2_layers_equal_a_loop") {
        return;
    }
    fresh_seed();
    for (b, l, h, p, g, n, skip, biased, fresh) in [
        (1, 1, 8, 64, 2, 128, 1, true, false),
        (2, 6, 4, 40, 2, 64, 2, true, false),
        (3, 3, 3, 64, 1, 16, 0, false, true),
        (1, 19, 2, 64, 1, 256, 1, true, true),
    ] {
        let (inner, taps) = (h * p, 4);
        let c = inner + 2 * g * n;
        let x = normal(&[b, l, inner + c + h], BF, 1.0);
        let (w, bias) = (normal(&[c, taps, 1], BF, 0.5), normal(&[c], BF, 0.5));
        let tail = normal(&[b, taps - 1, c], BF, 1.0);
        let (a_log, dt_bias) = (normal(&[h], BF, 0.5), normal(&[h], F32, 1.0));
        let d = normal(&[if skip == 2 { inner } else { h }], BF, 1.0);
        let state = normal(&[b, h, p, n], F32, 0.2);
        let conv = ShortConv { weight: &w, bias: biased.then_some(&bias), tail: (!fresh).then_some(&tail) };
        let layer = SpaceLayer {
            heads: h,
            head_dim: p,
            groups: g,
            state: n,
            x: &x,
            at: inner,
            dt_at: inner + c,
            conv,
            a_log: &a_log,
            dt_bias: biased.then_some(&dt_bias),
            skip: (skip > 0).then_some(&d),
            dt_limit: (0.05, 1.5),
        };
        poison((b * l * inner * 2) as usize);
        let got = fast::space_fused(&layer, (!fresh).then_some(&state)).expect("a kernel");
        mx::eval([&got.out, &got.tails[0], &got.state]).unwrap();
        let [bu, lu, hu, pu, gu, nu, iu, cu] = [b, l, h, p, g, n, inner, c].map(|n| n as usize);
        let (xs, width) = (host(&x), x.dim(2) as usize);
        let flat: Vec<f32> = xs.chunks(width).flat_map(|r| r[iu..iu + cu].to_vec()).collect();
        let (y, kept) = convolved(&flat, [bu, lu, cu, taps as usize], &conv);
        let mut s = if fresh { vec![0.0; bu * hu * pu * nu] } else { host(&state) };
        let (al, db, ds) = (host(&a_log), host(&dt_bias), host(&d));
        let mut want = vec![0.0; bu * lu * iu];
        for (row, head) in (0..bu).flat_map(|r| (0..hu).map(move |h| (r, h))) {
            let s = &mut s[(row * hu + head) * pu * nu..][..pu * nu];
            let group = head / (hu / gu);
            for t in row * lu..(row + 1) * lu {
                let dt = xs[t * width + iu + cu + head] + if biased { db[head] } else { 0.0 };
                let dt = (1.0 + dt.exp()).ln().clamp(0.05, 1.5);
                let fade = (-dt * al[head].exp()).exp();
                let (bs, cs) = (&y[t * cu + iu + group * nu..][..nu], &y[t * cu + iu + (gu + group) * nu..][..nu]);
                for i in 0..pu {
                    let u = y[t * cu + head * pu + i];
                    let mut sum = match skip {
                        0 => 0.0,
                        1 => ds[head] * u,
                        _ => ds[head * pu + i] * u,
                    };
                    for c in 0..nu {
                        s[i * nu + c] = s[i * nu + c] * fade + dt * u * bs[c];
                        sum += s[i * nu + c] * cs[c];
                    }
                    want[t * iu + head * pu + i] = sum;
                }
            }
        }
        let what = format!("mamba2 b {b} l {l} h {h} p {p} g {g} n {n}");
        close(&what, &got.out, &want, 8e-3);
        close(&format!("{what}, state"), &got.state, &s, 1e-4);
        close(&format!("{what}, tail"), &got.tails[0], &kept, 1e-9);
        // the norm behind it
        let z = Columns::new(&x, 0, inner);
        let weight = normal(&[inner], BF, 0.2) + 1.0;
        for first in [true, false] {
            poison((b * l * inner * 2) as usize);
            let normed = fast::gated_norm_fused(&got.out, z, (&weight, 1e-5), g, first).expect("a kernel");
            normed.eval().unwrap();
            let want = mx::with_device(Device::Cpu, || {
                let (y, gate) = (wide(&got.out), wide(&x.slice_axis(2, 0..inner)));
                let gate = &gate * gate.sigmoid();
                let y = if first { y * &gate } else { y };
                let y = fast::rms_norm(&y.unflatten(-1, [g, -1]), None, 1e-5).flatten(-2, -1) * wide(&weight);
                if first { y } else { y * gate }
            });
            let e = error(&normed, &want);
            assert!(e < 8e-3, "{what}, norm, first {first}: {e:e}");
        }
    }
}

#[test]
fn rwkv7_layers_equal_a_loop() {
    if !card("rwkv7_layers_equal_a_loop") {
        return;
    }
    fresh_seed();
    for (b, l, h, k, v, unit, fresh) in [
        (1, 1, 4, 64, 64, UnitLength::AtLeast(1e-12), false),
        (2, 11, 2, 64, 64, UnitLength::Root(1e-3), false),
        (1, 5, 3, 32, 40, UnitLength::Root(1e-6), true),
        (3, 70, 1, 64, 64, UnitLength::AtLeast(0.5), true),
    ] {
        let of = |n: i32, scale: f32| normal(&[b, l, h * n], BF, scale);
        let (r, key, rate, decay) = (of(k, 1.0), of(k, 0.5), of(k, 1.0), of(k, 1.0));
        // values and their gate side by side
        let (value, gate) = (of(v, 1.0), of(v, 1.0));
        let both = mx::concatenate(&[&value, &gate], -1);
        let (first, share) = (of(v, 1.0), of(v, 1.0));
        let mixed = (!fresh).then(|| (Columns::new(&first, 0, v), Columns::new(&share, 0, v)));
        let (k_k, k_a, r_k) = (normal(&[h, k], BF, 1.0), normal(&[h, k], BF, 1.0), normal(&[h, k], BF, 0.1));
        let (weight, bias) = (normal(&[h, v], BF, 1.0), normal(&[h, v], BF, 1.0));
        let state = normal(&[b, h, v, k], F32, 0.2);
        let layer = WkvLayer {
            heads: h,
            key_dim: k,
            value_dim: v,
            r: Columns::new(&r, 0, k),
            k: Columns::new(&key, 0, k),
            v: Columns::new(&both, 0, v),
            rate: Columns::new(&rate, 0, k),
            decay: Columns::new(&decay, 0, k),
            gate: Columns::new(&both, h * v, v),
            first: mixed,
            k_k: &k_k,
            k_a: &k_a,
            r_k: &r_k,
            norm: (&weight, &bias, 1e-4),
            unit,
        };
        poison((b * l * h * v * 2) as usize);
        let (out, last) = fast::wkv_fused(&layer, (!fresh).then_some(&state)).expect("a kernel");
        mx::eval([&out, &last]).unwrap();
        let [bu, lu, hu, ku, vu] = [b, l, h, k, v].map(|n| n as usize);
        let [rs, ks, ras, des, mut vs, gs] = [&r, &key, &rate, &decay, &value, &gate].map(host);
        if mixed.is_some() {
            let (first, share) = (host(&first), host(&share));
            vs.iter_mut().zip(first.iter().zip(&share)).for_each(|(v, (f, s))| *v += (f - *v) * sigmoid(*s));
        }
        let [kk, ka, rk, ws, bs] = [&k_k, &k_a, &r_k, &weight, &bias].map(host);
        let mut s = if fresh { vec![0.0; bu * hu * vu * ku] } else { host(&state) };
        let mut want = vec![0.0; bu * lu * hu * vu];
        for (row, head) in (0..bu).flat_map(|r| (0..hu).map(move |h| (r, h))) {
            let s = &mut s[(row * hu + head) * vu * ku..][..vu * ku];
            for t in row * lu..(row + 1) * lu {
                let at = t * hu + head;
                let number = |a: &[f32], c: usize| a[at * ku + c];
                let a: Vec<f32> = (0..ku).map(|c| sigmoid(number(&ras, c))).collect();
                let removed: Vec<f32> = (0..ku).map(|c| number(&ks, c) * kk[head * ku + c]).collect();
                let square = removed.iter().map(|x| x * x).sum::<f32>();
                let length = match unit {
                    UnitLength::AtLeast(eps) => square.sqrt().max(eps),
                    UnitLength::Root(eps) => (square + eps).sqrt(),
                };
                let key: Vec<f32> =
                    (0..ku).map(|c| number(&ks, c) * (1.0 + (a[c] - 1.0) * ka[head * ku + c])).collect();
                let bonus: f32 = (0..ku).map(|c| number(&rs, c) * key[c] * rk[head * ku + c]).sum();
                let out: Vec<f32> = (0..vu)
                    .map(|i| {
                        let s = &mut s[i * ku..][..ku];
                        let seen: f32 = (0..ku).map(|c| s[c] * removed[c] / length).sum();
                        (0..ku)
                            .map(|c| {
                                let fade = (-(-0.5f32).exp() * sigmoid(number(&des, c))).exp();
                                s[c] = s[c] * fade - seen * removed[c] / length * a[c] + vs[at * vu + i] * key[c];
                                s[c] * number(&rs, c)
                            })
                            .sum()
                    })
                    .collect();
                let mean = out.iter().sum::<f32>() / vu as f32;
                let spread = (out.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / vu as f32 + 1e-4).sqrt();
                for (i, o) in out.iter().enumerate() {
                    let y = (o - mean) / spread * ws[head * vu + i] + bs[head * vu + i] + bonus * vs[at * vu + i];
                    want[at * vu + i] = y * gs[at * vu + i];
                }
            }
        }
        let what = format!("rwkv7 b {b} l {l} h {h} k {k} v {v} {unit:?}");
        close(&what, &out, &want, 8e-3);
        close(&format!("{what}, state"), &last, &s, 1e-4);
    }
}

#[test]
fn tokens_mix_with_the_ones_before_them() {
    if !card("tokens_mix_with_the_ones_before_them") {
        return;
    }
    fresh_seed();
    for (b, l, d, n) in [(1, 1, 100, 6), (2, 5, 256, 1), (3, 2, 1000, 6)] {
        let (x, before) = (normal(&[b, l, d], BF, 1.0), normal(&[b, 1, d], BF, 1.0));
        let by: Vec<Array> = (0..n).map(|_| normal(&[1, 1, d], BF, 1.0)).collect();
        let by: Vec<&Array> = by.iter().collect();
        poison((b * l * d * 2) as usize);
        let (got, last) = fast::token_mix_fused(&x, Some(&before), &by).expect("a kernel");
        mx::eval(got.iter().chain([&last])).unwrap();
        let all = mx::concatenate(&[&before, &x], 1);
        assert_eq!(error(&last, &all.slice_axis(1, l..l + 1)), 0.0);
        for (got, &by) in got.iter().zip(&by) {
            let want = mx::with_device(Device::Cpu, || {
                let x = wide(&x);
                &x + (wide(&all.slice_axis(1, 0..l)) - &x) * wide(by)
            });
            let e = error(got, &want);
            assert!(e < 6e-3, "b {b} l {l} d {d}: {e:e}");
        }
    }
}
