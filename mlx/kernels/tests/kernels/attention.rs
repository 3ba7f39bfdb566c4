//! Attention against the plain form: grouped heads, all masks, odd sizes, strides, split keys.

use crate::support::{Buffer, Rng, TYPES, close};
use mlx_kernels::{Attention, DType, Isa, Mask, View4, View4Mut, attention_on, plain};

struct Shape {
    b: usize,
    hq: usize,
    hk: usize,
    l: usize,
    s: usize,
    d: usize,
    dv: usize,
}

fn shape(b: usize, hq: usize, hk: usize, l: usize, s: usize, d: usize, dv: usize) -> Shape {
    Shape { b, hq, hk, l, s, d, dv }
}

/// Random q, k, v with a cache-like layout (room for more keys than used), checked on all instruction sets.
fn check(seed: u64, t: DType, z: &Shape, tweak: &dyn Fn(&mut Attention<'_>)) {
    let mut rng = Rng::new(seed);
    let (b, hq, hk, l, s, d, dv) = (z.b, z.hq, z.hk, z.l, z.s, z.d, z.dv);
    let room = s + 3;
    let q = rng.floats(t, b * l * hq * d);
    let k = rng.floats(t, b * hk * room * d);
    let v = rng.floats(t, b * hk * room * dv);
    // q as a transposed [B, L, H, D]
    let mut a = Attention {
        q: View4::new(q.view(), [b, hq, l, d], [l * hq * d, d, hq * d, 1]).unwrap(),
        k: View4::new(k.view(), [b, hk, s, d], [hk * room * d, room * d, d, 1]).unwrap(),
        v: View4::new(v.view(), [b, hk, s, dv], [hk * room * dv, room * dv, dv, 1]).unwrap(),
        scale: 1.7 / (d as f32).sqrt(),
        causal: false,
        window: None,
        starts: None,
        softcap: None,
        mask: Mask::None,
        sinks: None,
    };
    tweak(&mut a);
    let want = plain::attention(&a);
    for isa in Isa::available() {
        let mut out = Buffer::poison(DType::F32, b * hq * l * dv);
        attention_on(isa, &a, View4Mut::contiguous(out.out(), [b, hq, l, dv]).unwrap()).unwrap();
        close(&format!("{t:?} q{l} k{s} d{d}/{dv} {isa:?}"), &out.values(), &want, DType::F32, 4e-6);
        // the same as [B, L, H, Dv]
        let mut turned = Buffer::poison(DType::F32, b * hq * l * dv);
        let strides = [l * hq * dv, dv, hq * dv, 1];
        attention_on(isa, &a, View4Mut::new(turned.out(), [b, hq, l, dv], strides).unwrap()).unwrap();
        let (plain, turned) = (out.values(), turned.values());
        for i in 0..plain.len() {
            let (bi, h, li, c) = (i / (hq * l * dv), i / (l * dv) % hq, i / dv % l, i % dv);
            assert_eq!(plain[i], turned[((bi * l + li) * hq + h) * dv + c]);
        }
    }
}

#[test]
fn attention_without_a_mask_equals_the_plain_form() {
    for (i, t) in TYPES.into_iter().enumerate() {
        check(10, t, &shape(2, 6, 2, 1, 70, 64, 64), &|_| {});
        check(11, t, &shape(1, 3, 3, 5, 33, 40, 40), &|_| {});
        check(12, t, &shape(1, 9, 3, 1 + i, 1100, 64, 64), &|_| {});
        check(13, t, &shape(1, 4, 1, 2, 65, 256, 256), &|_| {});
        check(14, t, &shape(1, 4, 1, 3, 90, 576, 512), &|_| {});
        check(15, t, &shape(1, 1, 1, 1, 1, 3, 5), &|_| {});
    }
}

#[test]
fn causal_and_window_limits_are_aligned_to_the_end() {
    for t in [DType::F32, DType::BF16] {
        check(20, t, &shape(1, 6, 2, 70, 70, 64, 64), &|a| a.causal = true);
        check(21, t, &shape(2, 3, 1, 7, 133, 96, 96), &|a| a.causal = true);
        check(22, t, &shape(1, 2, 2, 150, 200, 64, 64), &|a| a.window = Some(31));
        check(23, t, &shape(1, 4, 2, 1, 300, 64, 64), &|a| a.window = Some(1));
        check(24, t, &shape(1, 4, 2, 1, 900, 64, 80), &|a| a.window = Some(400));
        // more queries than keys: the first ones see nothing and give zeros
        check(25, t, &shape(1, 2, 1, 9, 4, 16, 16), &|a| a.causal = true);
    }
}

#[test]
fn array_masks_broadcast_by_their_strides() {
    let mut rng = Rng::new(30);
    let (b, h, l, s) = (2, 4, 11, 75);
    let add = rng.floats(DType::F16, b * h * l * s);
    let bools: Vec<u8> = (0..b * h * l * s).map(|_| (rng.below(3) > 0) as u8 * 5).collect();
    let z = shape(b, h, 2, l, s, 48, 48);
    for strides in [[h * l * s, l * s, s, 1], [0, 0, s, 1], [l * s, 0, s, 1], [s, 0, 0, 1]] {
        check_mask(32, &z, Mask::Add { data: add.view(), strides });
        check_mask(33, &z, Mask::Bool { data: &bools, strides });
    }
}

fn check_mask(seed: u64, z: &Shape, mask: Mask<'_>) {
    let mut rng = Rng::new(seed);
    let (b, hq, hk, l, s, d) = (z.b, z.hq, z.hk, z.l, z.s, z.d);
    let q = rng.floats(DType::F32, b * hq * l * d);
    let k = rng.floats(DType::F32, b * hk * s * d);
    let a = Attention {
        q: View4::contiguous(q.view(), [b, hq, l, d]).unwrap(),
        k: View4::contiguous(k.view(), [b, hk, s, d]).unwrap(),
        v: View4::contiguous(k.view(), [b, hk, s, d]).unwrap(),
        scale: 0.5,
        causal: true,
        window: None,
        starts: None,
        softcap: None,
        mask,
        sinks: None,
    };
    let want = plain::attention(&a);
    for isa in Isa::available() {
        let mut out = Buffer::poison(DType::F32, b * hq * l * d);
        attention_on(isa, &a, View4Mut::contiguous(out.out(), [b, hq, l, d]).unwrap()).unwrap();
        close(
            &format!("{mask:.0?} {isa:?}").chars().take(40).collect::<String>(),
            &out.values(),
            &want,
            DType::F32,
            4e-6,
        );
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros_and_minus_infinity_hides_a_key() {
    let z = shape(1, 2, 1, 2, 6, 8, 8);
    let hidden = [0u8, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0];
    check_mask(40, &z, Mask::Bool { data: &hidden, strides: [0, 0, 6, 1] });
    let add: Vec<f32> = hidden.iter().map(|h| if *h == 0 { f32::NEG_INFINITY } else { 0.5 }).collect();
    check_mask(41, &z, Mask::Add { data: (&add).into(), strides: [0, 0, 6, 1] });
}

#[test]
fn sinks_take_weight_per_head_once() {
    let sinks = vec![2.5f32, -1.0, 0.3, 4.0];
    for (l, s) in [(1, 20), (1, 1500), (40, 40)] {
        let mut rng = Rng::new(50);
        let q = rng.floats(DType::BF16, 4 * l * 64);
        let k = rng.floats(DType::BF16, 2 * s * 64);
        let a = Attention {
            q: View4::contiguous(q.view(), [1, 4, l, 64]).unwrap(),
            k: View4::contiguous(k.view(), [1, 2, s, 64]).unwrap(),
            v: View4::contiguous(k.view(), [1, 2, s, 64]).unwrap(),
            scale: 0.2,
            causal: true,
            window: Some(700),
            starts: None,
            softcap: None,
            mask: Mask::None,
            sinks: Some((&sinks).into()),
        };
        let want = plain::attention(&a);
        for isa in Isa::available() {
            let mut out = Buffer::poison(DType::F32, 4 * l * 64);
            attention_on(isa, &a, View4Mut::contiguous(out.out(), [1, 4, l, 64]).unwrap()).unwrap();
            close(&format!("sinks {l} {s} {isa:?}"), &out.values(), &want, DType::F32, 4e-6);
        }
    }
}

#[test]
fn shapes_and_views_that_do_not_fit_are_refused() {
    let x = vec![0f32; 64];
    assert!(View4::new((&x).into(), [1, 2, 4, 9], [72, 36, 9, 1]).is_err());
    assert!(View4::new((&x).into(), [2, 2, 4, 8], [0, 32, 8, 1]).is_ok());
    let mut y = vec![0f32; 64];
    assert!(View4Mut::new((&mut y).into(), [2, 2, 4, 8], [0, 32, 8, 1]).is_err(), "two places are one");
    let v = View4::contiguous((&x).into(), [1, 2, 4, 8]).unwrap();
    let odd = View4::contiguous((&x).into(), [1, 3, 2, 8]).unwrap();
    let a = Attention {
        q: odd,
        k: v,
        v,
        scale: 1.0,
        causal: false,
        window: None,
        starts: None,
        softcap: None,
        mask: Mask::None,
        sinks: None,
    };
    let mut y = vec![0f32; 64];
    assert!(attention_on(Isa::best(), &a, View4Mut::contiguous((&mut y).into(), [1, 3, 2, 8]).unwrap()).is_err());
    let bad = Attention { q: v, mask: Mask::Bool { data: &[1; 15], strides: [0, 0, 4, 1] }, ..a };
    assert!(attention_on(Isa::best(), &bad, View4Mut::contiguous((&mut y).into(), [1, 2, 4, 8]).unwrap()).is_err());
}
