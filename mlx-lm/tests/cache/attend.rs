//! Each kind of cache against attention over the whole history, computed by a scalar loop.

use crate::{beside_others, filled};
use mlx::fast::{DecodeAttention, Fused, Layer, Mask, Matrix};
use mlx::{self as mx, Array, Dtype, Quant};
use mlx_lm::cache::{
    Attend, Cache, ConcatenateKvCache, Kv, KvCache, Page, PagedKvCache, QuantizedKvCache, RotatingKvCache,
};

const D: i32 = 32;
const GROUP: i32 = 32;

fn normal(shape: [i32; 4], seed: u64) -> Array {
    mx::random::normal(shape, Dtype::Float32, 0.0, 1.0, Some(&mx::random::key(seed)))
}

/// Dense keys or values as they are after packing.
fn rounded(a: &Array, bits: i32) -> Array {
    let q = Quant::affine(GROUP, bits);
    let (w, s, b) = mx::quantize(a, q);
    mx::dequantize(&w, &s, b.as_ref(), q, None)
}

struct How {
    softcap: Option<f32>,
    sinks: Option<Vec<f32>>,
    window: Option<i32>,
}

/// Softmax attention of q [1, H, L, D], whose first query stands at `at`, over all k, v [1, Hkv, T, D]: one number after
/// the other, in f64.
fn by_hand(q: &Array, k: &Array, v: &Array, at: i32, scale: f64, how: &How) -> Vec<f64> {
    let ([_, h, l, d], [_, hkv, t, _]) = (q.dims(), k.dims());
    let (q, k, v) = (q.to_vec::<f32>().unwrap(), k.to_vec::<f32>().unwrap(), v.to_vec::<f32>().unwrap());
    let mut out = Vec::new();
    for head in 0..h {
        let kv = head / (h / hkv);
        for i in 0..l {
            let seen = |j: i32| j <= at + i && how.window.is_none_or(|w| at + i - j < w);
            let dot = |j: i32| -> f64 {
                (0..d)
                    .map(|c| q[((head * l + i) * d + c) as usize] as f64 * k[((kv * t + j) * d + c) as usize] as f64)
                    .sum()
            };
            let score = |j: i32| {
                let s = dot(j) * scale;
                how.softcap.map_or(s, |c| c as f64 * (s / c as f64).tanh())
            };
            let weights: Vec<(i32, f64)> = (0..t).filter(|&j| seen(j)).map(|j| (j, score(j).exp())).collect();
            let sink = how.sinks.as_ref().map_or(0.0, |s| (s[head as usize] as f64).exp());
            let total: f64 = sink + weights.iter().map(|(_, w)| w).sum::<f64>();
            for c in 0..d {
                out.push(
                    weights.iter().map(|(j, w)| w * v[((kv * t + j) * d + c) as usize] as f64).sum::<f64>() / total,
                );
            }
        }
    }
    out
}

/// Pieces that cross page, step and window borders.
const PIECES: [i32; 12] = [7, 1, 1, 3, 16, 1, 5, 250, 1, 1, 40, 1];

fn agrees(name: &str, mut cache: Box<dyn Cache>, how: &How, bits: Option<(i32, i32)>) {
    let (h, hkv) = (6, 2);
    let scale = 1.0 / (D as f64).sqrt();
    let sinks = how.sinks.clone().map(Array::from);
    let (mut keys, mut values): (Vec<Array>, Vec<Array>) = Default::default();
    let mut at = 0;
    for (i, n) in PIECES.into_iter().enumerate() {
        let seed = 3 * i as u64;
        // heads and sides of distinct magnitude
        let gain = Array::from([1.0f32, 0.5]).reshape([1, 2, 1, 1]);
        let (q, k, v) = (
            normal([1, h, n, D], seed),
            normal([1, hkv, n, D], seed + 1) * &gain,
            normal([1, hkv, n, D], seed + 2) * 3.0,
        );
        let v = v / &gain;
        keys.push(bits.map_or(k.clone(), |b| rounded(&k, b.0)));
        values.push(bits.map_or(v.clone(), |b| rounded(&v, b.1)));
        let kv = cache.kv();
        let mask = kv.mask(n, how.window, false);
        let a = Attend { scale: scale as f32, mask: &mask, sinks: sinks.as_ref(), softcap: how.softcap };
        let got = kv.attend(&q, k, v, a).to_vec::<f32>().unwrap();
        let (all_k, all_v) = (mx::concatenate(&keys, 2), mx::concatenate(&values, 2));
        let want = by_hand(&q, &all_k, &all_v, at, scale, how);
        let worst = got.iter().zip(&want).map(|(g, w)| (*g as f64 - w).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{name}, piece {i}: off by {worst}");
        at += n;
        assert_eq!(cache.offset(), at, "{name}");
    }
}

fn plain() -> How {
    How { softcap: None, sinks: None, window: None }
}

#[test]
fn every_cache_attends_as_a_scalar_loop_over_the_whole_history() {
    let _guard = beside_others();
    let sinks = || Some(vec![0.5, -1.0, 2.0, 3.0, 0.0, -2.0]);
    for page in [1, 4, 16, 256, 1000] {
        let paged = || -> Box<dyn Cache> { Box::new(PagedKvCache::new(page)) };
        agrees(&format!("pages of {page}"), paged(), &plain(), None);
        let all = How { softcap: Some(2.0), sinks: sinks(), window: Some(20) };
        agrees(&format!("pages of {page}, cap, sinks, window"), paged(), &all, None);
    }
    agrees("buffer", Box::new(KvCache::new()), &plain(), None);
    agrees("concatenated", Box::new(ConcatenateKvCache::new()), &plain(), None);
    let window = How { window: Some(24), ..plain() };
    agrees("rotating", Box::new(RotatingKvCache::new(24, 0)), &window, None);
    for (k, v) in [(8, 8), (8, 4), (3, 6), (2, 5)] {
        let packed = QuantizedKvCache::new(GROUP, k, v).unwrap();
        agrees(&format!("packed {k} {v}"), Box::new(packed), &plain(), Some((k, v)));
        let ring = RotatingKvCache::new(24, 0).to_quantized(GROUP, k, v).unwrap();
        agrees(&format!("packed ring {k} {v}"), Box::new(ring), &window, Some((k, v)));
        let ring = RotatingKvCache::new(24, 0).to_quantized(GROUP, k, v).unwrap();
        let all = How { softcap: Some(2.0), sinks: sinks(), window: Some(20) };
        agrees(&format!("packed ring {k} {v}, cap, sinks, window"), Box::new(ring), &all, Some((k, v)));
    }
}

#[test]
fn masks_of_their_own_reach_every_page() {
    let _guard = beside_others();
    // additive, one row per head, with whole pages hidden
    let (h, n, t) = (4, 3, 11);
    let (q, k, v) = (normal([1, h, n, D], 1), normal([1, 2, t, D], 2), normal([1, 2, t, D], 3));
    let hidden = mx::arange(0, h * n * t, 1, None).reshape([h, n, t]);
    let hidden = mx::remainder(mx::floor_divide(hidden, 3), 4).ne(0).logical_and(mx::arange(0, t, 1, None).less(t - 1));
    let mask = Mask::Array(mx::where_(&hidden, f32::NEG_INFINITY, Array::from(0.25f32)));
    let a = Attend { scale: 0.3, mask: &mask, sinks: None, softcap: None };
    let want = mlx_lm::cache::sdpa(&q, &k, &v, a).to_vec::<f32>().unwrap();
    let filled = |mut c: Box<dyn Cache>| {
        c.kv().update(k.slice_axis(2, 0..t - n), v.slice_axis(2, 0..t - n));
        let (k, v) = (k.slice_axis(2, t - n..t), v.slice_axis(2, t - n..t));
        c.kv().attend(&q, k, v, a).to_vec::<f32>().unwrap()
    };
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(close(&filled(Box::new(PagedKvCache::new(2))), &want));
    assert!(close(&filled(Box::new(KvCache::new())), &want));
}

fn seen(c: &mut dyn Kv) -> Vec<f32> {
    c.fetch().map(|(k, v)| [k.to_vec::<f32>().unwrap(), v.to_vec::<f32>().unwrap()].concat()).unwrap_or_default()
}

#[test]
fn forks_of_pages_share_what_was_and_part_in_what_comes() {
    let _guard = beside_others();
    let mut plain = filled(Box::new(KvCache::new()), &[21]);
    let mut base = filled(Box::new(PagedKvCache::new(8)), &[21]);
    let mut forks: Vec<Box<dyn Cache>> = (0..3).map(|_| base.boxed_clone()).collect();
    for (i, f) in forks.iter_mut().enumerate() {
        let n = 1 + 9 * i as i32;
        let (k, v) = (normal([1, 2, n, 32], 70 + i as u64), normal([1, 2, n, 32], 80 + i as u64));
        f.kv().update(k.clone(), v.clone());
        let mut alone = plain.boxed_clone();
        alone.kv().update(k, v);
        assert_eq!(seen(f.kv()), seen(alone.kv()), "fork {i}");
    }
    assert_eq!(seen(base.kv()), seen(plain.kv()), "the first one is as it was");
    // back into a full page, and on from there
    for (back, n) in [(2, 1), (7, 30), (12, 3), (6, 2), (5, 9), (21, 20)] {
        let (k, v) = (normal([1, 2, n, 32], 90), normal([1, 2, n, 32], 91));
        let (mut a, mut b) = (base.boxed_clone(), plain.boxed_clone());
        assert_eq!((a.trim(back), b.trim(back)), (back, back));
        a.kv().update(k.clone(), v.clone());
        b.kv().update(k, v);
        assert_eq!(seen(a.kv()), seen(b.kv()), "{back} back, {n} on");
    }
    assert_eq!(seen(base.kv()), seen(plain.kv()), "a fork's trim is its own");
    assert_eq!((base.trim(100), base.offset()), (21, 0));
    assert!(base.kv().fetch().is_none());
    // full pages start another cache
    let pages = forks[2].as_any_mut().downcast_mut::<PagedKvCache>().unwrap().pages()[..2].to_vec();
    let mut other = PagedKvCache::from_pages(pages.clone()).unwrap();
    assert_eq!((other.offset(), other.page_size()), (16, 8));
    plain.trim(5);
    assert_eq!(seen(&mut other), seen(plain.kv()));
    let odd = Page { keys: normal([1, 2, 4, 32], 1), values: normal([1, 2, 4, 32], 1) };
    assert!(PagedKvCache::from_pages(vec![pages[0].clone(), odd]).is_err());
}

/// Steps that a kernel would take in one launch leave a ring as steps by array ops do, and see the same keys.
#[test]
fn a_ring_decodes_in_place_as_by_array_ops() {
    let _beside = beside_others();
    let (heads, kv, d) = (4, 2, 8);
    for (size, keep, prompt) in [(6, 0, 1), (6, 2, 4), (6, 1, 9), (300, 0, 5)] {
        let new = || RotatingKvCache::new(size, keep);
        let (mut ops, mut steps): (Box<dyn Cache>, Box<dyn Cache>) = (Box::new(new()), Box::new(new()));
        let step = DecodeAttention {
            heads,
            kv_heads: kv,
            head_dim: d,
            scale: 0.4,
            rotation: None,
            qk_norm: None,
            window: Some(size),
            softcap: None,
            sinks: None,
            next: None,
        };
        let noise = |shape: &[i32]| mx::random::normal(shape, Dtype::Float32, 0.0, 1.0, None);
        let (k, v) = (noise(&[1, kv, prompt, d]), noise(&[1, kv, prompt, d]));
        for c in [&mut ops, &mut steps] {
            c.as_kv().unwrap().update(k.clone(), v.clone());
        }
        for t in 0..15 {
            let qkv = noise(&[1, 1, (heads + 2 * kv) * d]);
            let split = qkv.reshape([1, 1, heads + 2 * kv, d]).swapaxes(1, 2).split_at(&[heads, heads + kv], 1);
            let o = {
                let kv = ops.as_kv().unwrap();
                let mask = kv.mask(1, Some(size), false);
                let a = Attend { scale: 0.4, mask: &mask, sinks: None, softcap: None };
                kv.attend(&split[0], split[1].clone(), split[2].clone(), a)
            };
            // now and then by array ops: both ways work on the same buffers
            let mine = if t % 5 == 3 {
                let kv = steps.as_kv().unwrap();
                let mask = kv.mask(1, Some(size), false);
                let a = Attend { scale: 0.4, mask: &mask, sinks: None, softcap: None };
                kv.attend(&split[0], split[1].clone(), split[2].clone(), a)
            } else {
                // layers that change nothing around it
                let whole = |n: i32| mx::eye(n, None, 0, Dtype::Float32);
                let (one, two) = (whole((heads + 2 * kv) * d), whole(heads * d));
                let (one, two) = ([Matrix::dense(&one)], [Matrix::dense(&two)]);
                let [before, after] = [&one, &two].map(|parts| Layer { parts, around: Fused::default() });
                steps.as_decode().unwrap().decode(&qkv, before, &step, after).reshape([1, heads, 1, d])
            };
            let off = (o - mine).abs().max(()).item::<f32>().unwrap();
            assert!(off < 1e-5, "size {size} keep {keep} prompt {prompt} token {t}: {off}");
            let (mut a, mut b) = (Vec::new(), Vec::new());
            ops.each(&mut |x| a.push(x.to_vec::<f32>().unwrap()));
            steps.each(&mut |x| b.push(x.to_vec::<f32>().unwrap()));
            assert_eq!((ops.offset(), a), (steps.offset(), b));
        }
    }
}
