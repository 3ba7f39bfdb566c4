use crate::tools::{card, error, fresh_seed, normal, poison};
use mlx::fast::{Columns, KvBuffers, LatentAttention, Place, Rotation};
use mlx::{self as mx, Array, Dtype};

struct Case {
    batch: i32,
    heads: i32,
    rank: i32,
    rope: i32,
    capacity: i32,
    traditional: bool,
    rotated: bool,
    norm: bool,
    window: Option<i32>,
    dtype: Dtype,
}

fn host(a: &Array) -> Vec<f32> {
    a.astype(Dtype::Float32).to_vec().unwrap()
}

/// A step at each of `slots` against a loop over the keys; row b starts in slot `starts[b]`.
fn check(c: &Case, slots: &[i32], starts: Option<&[i32]>) {
    let (b, nope) = (c.batch as usize, 24);
    let [h, d, p] = [c.heads, c.rank, c.rope].map(|n| n as usize);
    let shape = |d: i32| [c.batch, 1, c.capacity, d];
    let (latents, keys) = (normal(&shape(c.rank), c.dtype, 1.0), normal(&shape(c.rope), c.dtype, 1.0));
    let (mut exact_l, mut exact_k) = (host(&latents), host(&keys));
    let mut buffers = KvBuffers::new(&latents + 0, &keys + 0);
    let radians: Vec<f32> = (0..p / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / p as f32)).collect();
    let frequencies = Array::from(radians.clone());
    let weight = normal(&[c.rank], c.dtype, 0.2) + 1.0;
    let padding = starts.map(|s| Array::from_slice(s, s.len() as i32));
    mx::eval([&frequencies, &weight]).unwrap();
    let a = LatentAttention {
        heads: c.heads,
        rank: c.rank,
        rope: c.rope,
        scale: 1.0 / ((c.rank + c.rope) as f32).sqrt(),
        rotation: c.rotated.then_some(Rotation {
            radians: &frequencies,
            traditional: c.traditional,
            feature_scale: 1.25,
        }),
        norm: c.norm.then_some((&weight, 1e-6)),
        window: c.window,
    };
    assert!(buffers.is_latent_supported(c.dtype, &a));
    let mut worst = 0f32;
    for &slot in slots {
        let q = normal(&[c.batch, 1, c.heads * (nope + c.rope)], c.dtype, 1.0);
        let q_latent = normal(&[c.batch, c.heads, 1, c.rank], c.dtype, 1.0);
        let kv = normal(&[c.batch, 1, 8 + c.rank + c.rope], c.dtype, 1.0);
        let place = padding.as_ref().map_or(Place::At(slot), |s| Place::Padded(slot, s));
        poison((b * h * d * 2).max(1 << 20));
        let rotated = Columns { x: &q, at: nope, stride: nope + c.rope };
        let got = buffers.attend_latent(rotated, &q_latent, Columns::new(&kv, 8, 0), place, &a).expect("a kernel");
        got.eval().unwrap();
        let (qs, ql, kvs, ws) = (host(&q), host(&q_latent), host(&kv), host(&weight));
        let (cap, slot, nope) = (c.capacity as usize, slot as usize, nope as usize);
        let mut want = vec![0f32; b * h * d];
        for row in 0..b {
            let start = starts.map_or(0, |s| s[row] as usize).min(slot);
            let position = (slot - start) as f32;
            let first = start.max(c.window.map_or(0, |w| (slot + 1).saturating_sub(w as usize)));
            let turn = |x: &[f32]| {
                let mut y = x.to_vec();
                for pair in 0..if c.rotated { p / 2 } else { 0 } {
                    let [i, j] = if c.traditional { [2 * pair, 2 * pair + 1] } else { [pair, pair + p / 2] };
                    let (s, co) = (position * radians[pair]).sin_cos();
                    (y[i], y[j]) = (1.25 * (x[i] * co - x[j] * s), 1.25 * (x[j] * co + x[i] * s));
                }
                y
            };
            let new = &kvs[row * (8 + d + p) + 8..][..d + p];
            let rms = (new[..d].iter().map(|x| x * x).sum::<f32>() / d as f32 + 1e-6).sqrt();
            for i in 0..d {
                exact_l[(row * cap + slot) * d + i] = if c.norm { new[i] / rms * ws[i] } else { new[i] };
            }
            exact_k[(row * cap + slot) * p..][..p].copy_from_slice(&turn(&new[d..]));
            for head in 0..h {
                let q_pe = turn(&qs[row * h * (nope + p) + head * (nope + p) + nope..][..p]);
                let q_latent = &ql[(row * h + head) * d..][..d];
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                let latent = |k: usize| &exact_l[(row * cap + k) * d..][..d];
                let scores: Vec<f32> = (first..=slot)
                    .map(|k| a.scale * (dot(q_latent, latent(k)) + dot(&q_pe, &exact_k[(row * cap + k) * p..][..p])))
                    .collect();
                let top = scores.iter().copied().fold(f32::MIN, f32::max);
                let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
                let sum: f32 = weights.iter().sum();
                let out = &mut want[(row * h + head) * d..][..d];
                for (w, k) in weights.iter().zip(first..) {
                    out.iter_mut().zip(latent(k)).for_each(|(o, l)| *o += w / sum * l);
                }
            }
        }
        worst = worst.max(error(&got.reshape(-1), &Array::from(want)));
        let (l, k) = buffers.arrays();
        worst = worst.max(error(&l.reshape(-1), &Array::from(exact_l.clone())));
        worst = worst.max(error(&k.reshape(-1), &Array::from(exact_k.clone())));
    }
    println!("{}+{} heads {} b {} {slots:?}: {worst:.1e}", c.rank, c.rope, c.heads, c.batch);
    assert!(worst < 8e-3, "{}+{} heads {} b {} {slots:?}: {worst:e}", c.rank, c.rope, c.heads, c.batch);
}

fn case(heads: i32, rank: i32, rope: i32) -> Case {
    Case {
        batch: 1,
        heads,
        rank,
        rope,
        capacity: 512,
        traditional: true,
        rotated: true,
        norm: true,
        window: None,
        dtype: Dtype::Bfloat16,
    }
}

#[test]
fn latent_steps_equal_a_loop() {
    if !card("latent_steps_equal_a_loop") {
        return;
    }
    fresh_seed();
    let at = [0, 1, 31, 32, 63, 64, 200, 511];
    check(&case(16, 512, 64), &at, None);
    check(&Case { traditional: false, dtype: Dtype::Float16, ..case(40, 256, 32) }, &at, None);
    check(&Case { batch: 2, norm: false, ..case(20, 512, 64) }, &at[3..], None);
    check(&Case { batch: 3, rotated: false, ..case(4, 64, 16) }, &at[2..], None);
    check(&Case { window: Some(50), ..case(33, 128, 64) }, &at[2..], None);
    check(&Case { capacity: 4352, ..case(16, 512, 64) }, &[4095, 4096, 4351], None);
}

#[test]
fn latent_rows_of_a_batch_stand_at_places_of_their_own() {
    if !card("latent_rows_of_a_batch_stand_at_places_of_their_own") {
        return;
    }
    fresh_seed();
    let mut starts = vec![0, 3, 17];
    starts.resize(16, 0);
    check(&Case { batch: 3, ..case(16, 512, 64) }, &[17, 18, 300], Some(&starts));
    check(&Case { batch: 3, window: Some(20), ..case(5, 64, 32) }, &[17, 40, 301], Some(&starts));
}

#[test]
fn latent_steps_built_before_any_is_evaluated_run_in_order() {
    if !card("latent_steps_built_before_any_is_evaluated_run_in_order") {
        return;
    }
    fresh_seed();
    let (h, d, p) = (16, 128, 64);
    let bf = Dtype::Bfloat16;
    let fresh = |d: i32| normal(&[1, 1, 64, d], bf, 1.0);
    let (latents, keys) = (fresh(d), fresh(p));
    let a = LatentAttention { heads: h, rank: d, rope: p, scale: 0.1, rotation: None, norm: None, window: None };
    let inputs: Vec<[Array; 3]> = (0..12)
        .map(|_| [normal(&[1, 1, h * p], bf, 1.0), normal(&[1, h, 1, d], bf, 1.0), normal(&[1, 1, d + p], bf, 1.0)])
        .collect();
    let run = |wait: bool| {
        let mut buffers = KvBuffers::new(&latents + 0, &keys + 0);
        let step = |(i, [q, ql, kv]): (usize, &[Array; 3])| {
            let place = Place::At(20 + i as i32);
            let o =
                buffers.attend_latent(Columns::new(q, 0, p), ql, Columns::new(kv, 0, 0), place, &a).expect("a kernel");
            if wait {
                o.eval().unwrap();
            }
            o
        };
        inputs.iter().enumerate().map(step).collect::<Vec<_>>()
    };
    let (lazy, eager) = (run(false), run(true));
    mx::eval(&lazy).unwrap();
    for (i, (a, b)) in lazy.iter().zip(&eager).enumerate() {
        assert_eq!(error(a, b), 0.0, "step {i}");
    }
}
