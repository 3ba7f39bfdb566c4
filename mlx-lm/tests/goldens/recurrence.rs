//! Recurrences against their formulas, one token and one number at a time: the plain form, and whatever runs here.

use super::rule;
use mlx::fast::{self, LinearScan, Rule};
use mlx::plain::{self, prefix::states};
use mlx::{Array, Dtype};

const HEADS: usize = 2;
const K: usize = 4;
const V: usize = 3;

type Scan = fn(&LinearScan<'_>, Option<Array>) -> (Array, Array);
const FORMS: [(&str, Scan); 2] = [("fast", fast::linear_scan), ("plain", plain::linear_scan)];

/// `[1, H, L, width]` of numbers in [low, high), and the same as a list.
fn random(name: &str, l: usize, width: usize, low: f32, high: f32) -> (Array, Vec<f32>) {
    let base = rule::base(name, 7);
    let n = (HEADS * l * width) as u64;
    let v: Vec<f32> =
        (0..n).map(|i| low + (high - low) * (rule::unit(rule::raw(base, i)) as f32 + 1.0) / 2.0).collect();
    (Array::from_slice(&v, [1, HEADS as i32, l as i32, width as i32]), v)
}

/// S[v][k] of one head, as the formula reads; returns outputs `[H, L, V]` and states `[H, V, K]`.
fn formula(
    l: usize,
    [q, k, v, g]: [&[f32]; 4],
    fine: usize,
    read: Option<[&[f32]; 2]>,
    start: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut states) = (Vec::new(), Vec::new());
    for h in 0..HEADS {
        let mut s: Vec<f64> = start[h * V * K..(h + 1) * V * K].iter().map(|&x| x.into()).collect();
        for t in 0..l {
            let row = |x: &[f32], w: usize, i: usize| f64::from(x[(h * l + t) * w + i % w]);
            let old = s.clone();
            for i in 0..V {
                let seen: f64 = read.map_or(0.0, |[r, _]| (0..K).map(|j| old[i * K + j] * row(r, K, j)).sum());
                for j in 0..K {
                    let out = read.map_or(0.0, |[_, e]| seen * row(e, K, j));
                    s[i * K + j] = old[i * K + j] * row(g, fine, j).exp() + row(v, V, i) * row(k, K, j) - out;
                }
            }
            out.extend((0..V).map(|i| (0..K).map(|j| s[i * K + j] * row(q, K, j)).sum::<f64>() as f32));
        }
        states.extend(s.iter().map(|&x| x as f32));
    }
    (out, states)
}

fn close(what: &str, got: &Array, want: &[f32]) {
    let got = got.to_vec::<f32>().unwrap();
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    assert!(worst <= 1e-4 * largest, "{what}: off by {worst} of {largest}");
}

/// Lengths within, at and across chunks; decays per head and per key, some of them harsh; without reads, with what is read
/// taken out under the token's own key, and under another one.
#[test]
fn chunks_of_a_linear_recurrence_follow_its_formula() {
    let (start, s0) = random("state", V, K, -1.0, 1.0);
    for l in [1, 2, 16, 17, 63, 64, 65, 300, 1100] {
        let [(q, qs), (k, ks), (v, vs)] =
            [("q", K), ("k", K), ("v", V)].map(|(name, width)| random(name, l, width, -1.0, 1.0));
        // small enough that the recurrence does not grow
        let [(r, rs), (e, es)] = ["r", "e"].map(|name| random(name, l, K, -0.4, 0.4));
        // e^-6 per token must not vanish too early, e^-400 must neither overflow nor blur the decays beside it
        for (fine, harshest) in [(1, -6.0), (K, -6.0), (K, -400.0)] {
            let (g, gs) = random("g", l, fine, -1.0, 1.0);
            let gs: Vec<f32> = gs.iter().map(|g| harshest * g.powi(6)).collect();
            let g = Array::from_slice(&gs, g.shape());
            // beta is 1: what a delta rule reads under k is k, faded
            let one = mlx::ones([1, HEADS as i32, l as i32, 1], Dtype::Float32);
            let faded: Vec<f32> = ks.iter().enumerate().map(|(i, k)| k * gs[i / K * fine + i % fine].exp()).collect();
            for (under, rule, what) in [
                (None, Rule::Add { beta: None }, "no reads"),
                (Some([&faded[..], &ks]), Rule::Delta { beta: &one }, "reads under k"),
                (Some([&rs[..], &es]), Rule::Remove { at: &r, under: &e }, "reads under e"),
            ] {
                let (want, last) = formula(l, [&qs, &ks, &vs, &gs], fine, under, &s0);
                for (form, scan) in FORMS {
                    let what = format!("{l} tokens, {fine} decays to {harshest}, {what}, {form}");
                    let (o, s) = scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, Some(start.clone()));
                    close(&format!("outputs of {what}"), &o, &want);
                    close(&format!("state of {what}"), &s, &last);
                }
            }
        }
    }
}

/// S = e^g S, then S += beta (v - S k) k', in these two steps.
#[test]
fn the_delta_rule_writes_what_the_decayed_state_gets_wrong() {
    let l = 70;
    let [(q, qs), (k, ks), (v, vs)] = [("q", K), ("k", K), ("v", V)].map(|(n, w)| random(n, l, w, -0.7, 0.7));
    let ((g, gs), (beta, bs)) = (random("g", l, 1, -1.0, 0.0), random("beta", l, 1, 0.0, 1.0));
    let inputs = LinearScan { q: &q, k: &k, v: &v, g: &g, rule: Rule::Delta { beta: &beta } };
    let mut want = Vec::new();
    for h in 0..HEADS {
        let mut s = [[0.0f64; K]; V];
        for t in 0..l {
            let at = h * l + t;
            let key: Vec<f64> = (0..K).map(|j| ks[at * K + j].into()).collect();
            for (i, row) in s.iter_mut().enumerate() {
                row.iter_mut().for_each(|x| *x *= f64::from(gs[at]).exp());
                let error = f64::from(vs[at * V + i]) - row.iter().zip(&key).map(|(x, k)| x * k).sum::<f64>();
                row.iter_mut().zip(&key).for_each(|(x, k)| *x += f64::from(bs[at]) * error * k);
            }
            want.extend(s.iter().map(|row| (0..K).map(|j| row[j] * f64::from(qs[at * K + j])).sum::<f64>() as f32));
        }
    }
    for (form, scan) in FORMS {
        close(form, &scan(&inputs, None).0, &want);
    }
}

/// h = decay h + input, number by number, at lengths within, at and across blocks of blocks.
#[test]
fn blocks_of_an_element_wise_recurrence_follow_its_formula() {
    let (start, h0) = random("h", 1, K, -1.0, 1.0);
    let start = start.flatten(0, 2);
    for l in [1, 2, 7, 8, 9, 63, 64, 65, 600] {
        let ((decay, ds), (input, xs)) = (random("decay", l, K, 0.0, 1.0), random("x", l, K, -1.0, 1.0));
        let mut h: Vec<f64> = h0.iter().map(|&x| x.into()).collect();
        let mut want = vec![0.0; HEADS * l * K];
        for (i, h) in h.iter_mut().enumerate() {
            let (head, at) = (i / K, i % K);
            for t in 0..l {
                let n = (head * l + t) * K + at;
                *h = f64::from(ds[n]) * *h + f64::from(xs[n]);
                want[n] = *h as f32;
            }
        }
        let got = states(&decay.squeeze(0), &input.squeeze(0), &start);
        close(&format!("{l} tokens"), &got, &want);
    }
}

#[test]
fn slopes_of_lightning_are_those_of_alibi() {
    let all = |n| mlx_lm::mixers::lightning::slopes(n).collect::<Vec<f32>>();
    assert_eq!(all(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
    // the four of 4 heads, then the first and third of 8
    assert_eq!(all(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
}

/// The slowest decay of retention over thousands of tokens, and decays that leave nothing: pieces agree with the whole.
#[test]
fn no_length_and_no_decay_overflows() {
    let l = 3000;
    let [(q, _), (k, _), (v, _)] = [("q", K), ("k", K), ("v", V)].map(|(n, w)| random(n, l, w, -1.0, 1.0));
    let slow = mlx::broadcast_to(&mlx_lm::mixers::retention::log_decays(HEADS as i32), [1, HEADS as i32, l as i32, 1]);
    let fine = random("g", l, K, -1.0, 0.0).0;
    for g in [slow, fine.clone() * 1e4, fine * 1e30] {
        for (form, scan) in FORMS {
            let run = |from: i32, to: i32, state: Option<Array>| {
                let [q, k, v, g] = [&q, &k, &v, &g].map(|a| a.slice_axis(2, from..to));
                scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule: Rule::Add { beta: None } }, state)
            };
            let (whole, last) = run(0, l as i32, None);
            let (first, state) = run(0, 1777, None);
            let (second, end) = run(1777, l as i32, Some(state));
            let parts = mlx::concatenate(&[first, second], 2);
            let whole = mlx::contiguous(&whole).to_vec::<f32>().unwrap();
            close(&format!("outputs in two pieces, {form}"), &parts, &whole);
            close(&format!("state after two pieces, {form}"), &end, &mlx::contiguous(&last).to_vec::<f32>().unwrap());
            assert!(whole.iter().all(|x| x.is_finite()), "{form}");
        }
    }
}
