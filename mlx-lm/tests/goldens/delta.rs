//! The gated delta rules with every switch, and lightning attention, against their formulas, one number at a time.

use super::rule;
use mlx::{self as mx, Array, Dtype};
use mlx_lm::blueprint::{
    DeltaHeads, GatedDelta, GatedDeltaLayout, Kda, Lightning, LightningGate, Norm, Part, Projection, Projections,
    QkvNames,
};
use mlx_lm::cache::{self, Cache};
use mlx_lm::decoder::{Registry, Step};
use mlx_lm::mixers::Mixer;
use mlx_lm::weights::{Leaves, Tensors};
use std::collections::BTreeMap;
use std::rc::Rc;

const HIDDEN: usize = 8;
const TOKENS: usize = 21;
const TAPS: usize = 3;

/// Numbers by name.
struct Weights(BTreeMap<&'static str, (Vec<i32>, Vec<f32>)>);

impl Weights {
    fn numbers(name: &str, n: i32) -> Vec<f32> {
        let base = rule::base(name, 5);
        (0..n as u64).map(|i| rule::unit(rule::raw(base, i)) as f32).collect()
    }
    fn new(wanted: &[(&'static str, &[i32])]) -> Self {
        Weights(wanted.iter().map(|(n, s)| (*n, (s.to_vec(), Self::numbers(n, s.iter().product())))).collect())
    }
    fn leaves(&self) -> Leaves {
        let mut t = Tensors::default();
        for (name, (shape, v)) in &self.0 {
            t.insert(*name, Array::from_slice(v, shape.as_slice()));
        }
        Leaves::new(t, None)
    }
    fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(|(_, v)| v.as_slice())
    }
    fn times(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.get(name).unwrap();
        w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    (1.0 + x.exp()).ln()
}

/// SiLU of the projections of all tokens behind their convolution, if there is one.
fn convolved(w: &Weights, leaf: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let p: Vec<Vec<f64>> = x.iter().map(|x| w.times(&format!("{leaf}_proj.weight"), x)).collect();
    let taps = w.get(&format!("{leaf}_conv1d.weight"));
    let bias = w.get(&format!("{leaf}_conv1d.bias"));
    let value = |t: usize, c: usize| match taps {
        None => p[t][c],
        Some(taps) => {
            let back = |j: usize| (t + j + 1).checked_sub(TAPS).map_or(0.0, |s| p[s][c]);
            let sum: f64 = (0..TAPS).map(|j| f64::from(taps[c * TAPS + j]) * back(j)).sum();
            sum + bias.map_or(0.0, |b| f64::from(b[c]))
        }
    };
    (0..x.len()).map(|t| (0..p[0].len()).map(|c| value(t, c)).map(|y| y * sigmoid(y)).collect()).collect()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}

/// What goes on beside the rule, token by token.
struct Gates<'a> {
    /// Log-decay of value head h and key dimension j.
    log_decay: &'a dyn Fn(&[f64], usize, usize) -> f64,
    /// Factor on output i of all heads.
    out: &'a dyn Fn(&[f64], usize) -> f64,
}

fn formula(w: &Weights, s: &DeltaHeads, x: &[Vec<f64>], gates: Gates<'_>) -> Vec<f64> {
    let [q, k, v] = ["q", "k", "v"].map(|leaf| convolved(w, leaf, x));
    let (dk, dv) = (s.key_dim as usize, s.value_dim as usize);
    let (heads, per_key) = (s.value_heads as usize, (s.value_heads / s.key_heads) as usize);
    let norm = w.get("o_norm.weight").unwrap();
    let mut state = vec![vec![vec![0.0; dk]; dv]; heads];
    let mut out = Vec::new();
    for (t, x) in x.iter().enumerate() {
        let beta = w.times("b_proj.weight", x);
        let mut y = Vec::new();
        for (h, state) in state.iter_mut().enumerate() {
            let of = |a: &[Vec<f64>]| unit(&a[t][h / per_key * dk..][..dk]);
            let (q, k) = (of(&q), of(&k));
            let beta = sigmoid(beta[h]) * if s.negative_eigenvalues { 2.0 } else { 1.0 };
            let mut o = Vec::new();
            for (i, row) in state.iter_mut().enumerate() {
                row.iter_mut().enumerate().for_each(|(j, s)| *s *= (gates.log_decay)(x, h, j).exp());
                let error = v[t][h * dv + i] - row.iter().zip(&k).map(|(s, k)| s * k).sum::<f64>();
                row.iter_mut().zip(&k).for_each(|(s, k)| *s += beta * error * k);
                o.push(row.iter().zip(&q).map(|(s, q)| s * q).sum::<f64>() * (dk as f64).powf(-0.5));
            }
            let rms = (o.iter().map(|o| o * o).sum::<f64>() / dv as f64 + f64::from(s.eps)).sqrt();
            y.extend((0..dv).map(|i| o[i] / rms * f64::from(norm[i]) * (gates.out)(x, h * dv + i)));
        }
        out.extend(w.times("o_proj.weight", &y));
    }
    out
}

fn run(m: &dyn Mixer, kind: &Part, x: &Array, piece: i32) -> (Array, Box<dyn Cache>) {
    let (ids, l) = (Array::from_slice(&[0], [1, 1]), x.dim(1));
    let mut cache = cache::make(&kind.cache()).unwrap();
    let mut forward = |at: i32| m.forward(&x.slice_axis(1, at..(at + piece).min(l)), &Step::new(&ids), cache.as_mut());
    let parts: Vec<Array> = (0..l).step_by(piece as usize).map(&mut forward).collect();
    (mx::concatenate(&parts, 1), cache)
}

fn distance(got: &Array, want: &[f64]) -> f64 {
    let got = got.to_vec::<f32>().unwrap();
    got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

fn check(what: &str, w: &Weights, kind: Part, want: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
    let leaves = w.leaves();
    let m = Registry::builtin().build_mixer(kind.as_ref(), &leaves).unwrap();
    leaves.finish().unwrap();
    let mut v = Weights::numbers("x", (TOKENS * HIDDEN) as i32);
    let array = |v: &[f32]| Array::from_slice(v, [1, TOKENS as i32, HIDDEN as i32]);
    let rows: Vec<Vec<f64>> = v.chunks(HIDDEN).map(|r| r.iter().map(|&x| x.into()).collect()).collect();
    let want = want(&rows);
    let x = array(&v);
    for piece in [1, 2, 7, 16, TOKENS as i32] {
        let (y, _) = run(m.as_ref(), &kind, &x, piece);
        let worst = distance(&y, &want);
        assert!(worst < 1e-4, "{what} in pieces of {piece}: off by {worst}");
    }
    // 16-bit inputs: near the same outputs, a state in float32
    let (y, mut cache) = run(m.as_ref(), &kind, &x.astype(Dtype::Bfloat16), 7);
    let state = cache.slots().get(kind_slots(&kind) - 1).unwrap().clone();
    assert_eq!((y.dtype(), state.dtype()), (Dtype::Float32, Dtype::Float32), "{what}: weights are float32");
    let worst =
        y.to_vec::<f32>().unwrap().iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst < 0.1, "{what} of 16-bit inputs: off by {worst}");
    // a token changes nothing before it
    let (before, _) = run(m.as_ref(), &kind, &x, TOKENS as i32);
    v[11 * HIDDEN] += 1.0;
    let (after, _) = run(m.as_ref(), &kind, &array(&v), TOKENS as i32);
    let changed = (before - after).abs().max(-1).squeeze(0).to_vec::<f32>().unwrap();
    assert!(changed[..11].iter().all(|&c| c == 0.0) && changed[11] > 1e-4, "{what}: token 11 changes {changed:?}");
}

fn kind_slots(kind: &Part) -> usize {
    match kind.cache() {
        mlx_lm::blueprint::CacheKind::Slots(n) => n,
        other => panic!("{other:?}"),
    }
}

fn heads(key_heads: i32, value_heads: i32, conv: bool, negative: bool) -> DeltaHeads {
    DeltaHeads {
        hidden: HIDDEN as i32,
        key_heads,
        value_heads,
        key_dim: 4,
        value_dim: 3,
        conv: conv.then_some(TAPS as i32),
        conv_bias: conv,
        negative_eigenvalues: negative,
        eps: 1e-5,
    }
}

const CONVS: [(&str, &[i32]); 6] = [
    ("q_conv1d.weight", &[4, 3, 1]),
    ("k_conv1d.weight", &[4, 3, 1]),
    ("v_conv1d.weight", &[6, 3, 1]),
    ("q_conv1d.bias", &[4]),
    ("k_conv1d.bias", &[4]),
    ("v_conv1d.bias", &[6]),
];

/// One key head for two value heads.
const COMMON: [(&str, &[i32]); 7] = [
    ("q_proj.weight", &[4, 8]),
    ("k_proj.weight", &[4, 8]),
    ("v_proj.weight", &[6, 8]),
    ("b_proj.weight", &[2, 8]),
    ("A_log", &[2]),
    ("o_norm.weight", &[3]),
    ("o_proj.weight", &[8, 6]),
];

#[test]
fn kda_follows_its_formula_with_every_switch() {
    for (conv, negative, bound, low_rank) in
        [(true, false, None, true), (false, true, None, true), (true, true, Some(-5.0f32), false)]
    {
        let mut names = COMMON.to_vec();
        names.push(("dt_bias", &[8]));
        names.extend(if conv { &CONVS[..] } else { &[] });
        if low_rank {
            names.extend([("f_proj.0.weight", &[3, 8][..]), ("f_proj.1.weight", &[8, 3])]);
            names.extend([("g_proj.0.weight", &[3, 8][..]), ("g_proj.1.weight", &[6, 3]), ("g_proj.1.bias", &[6])]);
        } else {
            names.extend([("f_proj.weight", &[8, 8][..]), ("g_proj.weight", &[6, 8])]);
        }
        let (w, s) = (Weights::new(&names), heads(1, 2, conv, negative));
        let narrow = |name: &str, bias: bool| match low_rank {
            false => Projection::Full(name.into()),
            true => Projection::LowRank { first: format!("{name}.0"), second: format!("{name}.1"), rank: 3, bias },
        };
        let part = Kda {
            heads: s.clone(),
            qkv: QkvNames::separate(),
            lower_bound: bound,
            decay: narrow("f_proj", false),
            gate: narrow("g_proj", true),
        };
        let through = |name: &str, x: &[f64]| match low_rank {
            false => w.times(&format!("{name}.weight"), x),
            true => {
                let y = w.times(&format!("{name}.1.weight"), &w.times(&format!("{name}.0.weight"), x));
                let bias = w.get(&format!("{name}.1.bias"));
                y.iter().enumerate().map(|(i, y)| y + bias.map_or(0.0, |b| f64::from(b[i]))).collect()
            }
        };
        let log_decay = |x: &[f64], h: usize, j: usize| {
            let f = through("f_proj", x)[h * 4 + j] + f64::from(w.get("dt_bias").unwrap()[h * 4 + j]);
            let a = f64::from(w.get("A_log").unwrap()[h]).exp();
            bound.map_or(-a * softplus(f), |b| f64::from(b) * sigmoid(a * f))
        };
        let out = |x: &[f64], i: usize| sigmoid(through("g_proj", x)[i]);
        check(&format!("kda, convolutions {conv}, bound {bound:?}"), &w, Rc::new(part), |x| {
            formula(&w, &s, x, Gates { log_decay: &log_decay, out: &out })
        });
    }
}

#[test]
fn gated_deltanet_follows_its_formula_with_every_switch() {
    for (conv, negative, gate) in [(true, false, true), (false, true, false)] {
        let mut names = COMMON.to_vec();
        names.extend([("a_proj.weight", &[2, 8][..]), ("dt_bias", &[2])]);
        names.extend(if conv { &CONVS[..] } else { &[] });
        names.extend(gate.then_some(("g_proj.weight", &[6, 8][..])));
        let (w, s) = (Weights::new(&names), heads(1, 2, conv, negative));
        let part = GatedDelta { heads: s.clone(), layout: GatedDeltaLayout::Separate, gate };
        let log_decay = |x: &[f64], h: usize, _: usize| {
            let a = w.times("a_proj.weight", x)[h] + f64::from(w.get("dt_bias").unwrap()[h]);
            -f64::from(w.get("A_log").unwrap()[h]).exp() * softplus(a)
        };
        let out = |x: &[f64], i: usize| {
            if !gate {
                return 1.0;
            }
            let z = w.times("g_proj.weight", x)[i];
            z * sigmoid(z)
        };
        check(&format!("gated_deltanet, convolutions {conv}, gate {gate}"), &w, Rc::new(part), |x| {
            formula(&w, &s, x, Gates { log_decay: &log_decay, out: &out })
        });
    }
}

#[test]
fn lightning_follows_its_formula() {
    let names = [("q_proj.weight", &[8, 8][..]), ("k_proj.weight", &[8, 8]), ("v_proj.weight", &[8, 8])];
    let gate = [("g_proj.weight", &[8, 8][..]), ("g_norm.weight", &[8])];
    let w = Weights::new(&[&names[..], &gate[..], &[("o_proj.weight", &[8, 8])]].concat());
    let part = Lightning {
        hidden: HIDDEN as i32,
        heads: 2,
        head_dim: 4,
        projections: Projections::Separate { q: "q_proj".into(), k: "k_proj".into(), v: "v_proj".into() },
        qkv_bias: false,
        o: "o_proj".into(),
        o_bias: false,
        qk_norm: None,
        rope: None,
        rate: 0.7,
        gate: Some(LightningGate { name: "g_proj".into(), norm: ("g_norm".into(), Norm::rms(1e-5)), groups: 4 }),
    };
    check("lightning", &w, Rc::new(part), |x| {
        let mut state = [[[0.0f64; 4]; 4]; 2];
        let mut out = Vec::new();
        for x in x {
            let [q, k, v, z] = ["q", "k", "v", "g"].map(|leaf| w.times(&format!("{leaf}_proj.weight"), x));
            let mut o = [0.0; 8];
            for (h, state) in state.iter_mut().enumerate() {
                // slopes of two heads: 1 / 16 and 1 / 256
                let decay = (-0.7f32 * [0.0625, 0.00390625][h]).exp();
                for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
                    state[i][j] = state[i][j] * f64::from(decay) + k[h * 4 + i] * v[h * 4 + j];
                    o[h * 4 + j] += q[h * 4 + i] * state[i][j] / 2.0;
                }
            }
            let rms = |i: usize| (o[i / 2 * 2..][..2].iter().map(|o| o * o).sum::<f64>() / 2.0 + 1e-5).sqrt();
            let norm = w.get("g_norm.weight").unwrap();
            let y: Vec<f64> = (0..8).map(|i| o[i] / rms(i) * f64::from(norm[i]) * sigmoid(z[i])).collect();
            out.extend(w.times("o_proj.weight", &y));
        }
        out
    });
}
