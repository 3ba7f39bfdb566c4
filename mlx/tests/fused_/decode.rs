use crate::tools::{allowed, card, error, fresh_seed, half_or_full, normal, poison};
use mlx::fast::{DecodeAttention, KvBuffers, Place, Rotation};
use mlx::{self as mx, Array, Device, Dtype, Quant};

struct Case {
    batch: i32,
    heads: i32,
    kv_heads: i32,
    d: i32,
    dims: i32,
    capacity: i32,
    traditional: bool,
    norm: bool,
    window: Option<i32>,
    softcap: Option<f32>,
    sinks: bool,
    dtype: Dtype,
}

fn radians(dims: i32) -> Array {
    let f: Vec<f32> = (0..dims / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / dims as f32)).collect();
    Array::from(f)
}

/// Runs both forms from the same caches through `places`; the plain one in float32 on the CPU.
fn check(c: &Case, places: &[Place]) {
    let cache = [c.batch, c.kv_heads, c.capacity, c.d];
    let (k0, v0) = (normal(&cache, c.dtype, 1.0), normal(&cache, c.dtype, 1.0));
    let r = radians(c.dims);
    let norms = (normal(&[c.d], c.dtype, 0.1) + 1.0, normal(&[c.d], c.dtype, 0.1) + 1.0);
    let sinks = normal(&[c.heads], c.dtype, 2.0);
    let qkv_next = normal(&[3, 1000], c.dtype, 1.0);
    mx::eval([&norms.0, &norms.1, &sinks, &r]).unwrap();
    let wide = |a: &Array| a.astype(Dtype::Float32);
    let (n32, s32) = ((wide(&norms.0), wide(&norms.1)), wide(&sinks));
    let a = DecodeAttention {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.d,
        scale: (c.d as f32).powf(-0.5),
        rotation: (c.dims > 0).then_some(Rotation { radians: &r, traditional: c.traditional, feature_scale: 1.25 }),
        qk_norm: c.norm.then_some((&norms.0, &norms.1, 1e-6)),
        window: c.window,
        softcap: c.softcap,
        sinks: c.sinks.then_some(&sinks),
        next: c.norm.then_some(&qkv_next),
    };
    let exact = DecodeAttention {
        next: None,
        qk_norm: c.norm.then_some((&n32.0, &n32.1, 1e-6)),
        sinks: c.sinks.then_some(&s32),
        ..a
    };
    let mut fast = KvBuffers::new(&k0 + 0, &v0 + 0);
    let mut slow = KvBuffers::new(wide(&k0), wide(&v0));
    let mut snapshot = None;
    let mut worst = 0f32;
    for (step, place) in places.iter().enumerate() {
        let qkv = normal(&[c.batch, (c.heads + 2 * c.kv_heads) * c.d], c.dtype, 1.0);
        assert!(fast.is_supported(c.dtype, &a));
        poison((c.batch * c.heads * c.d * 2) as usize);
        let got = fast.attend(&qkv, *place, &a);
        got.eval().unwrap();
        let want = mx::with_device(Device::Cpu, || {
            let out = slow.attend_plain(&wide(&qkv), *place, &exact);
            out.eval().unwrap();
            out
        });
        worst = worst.max(error(&got, &want));
        let ((k, v), (ke, ve)) = (fast.arrays(), slow.arrays());
        worst = worst.max(error(&k, &ke)).max(error(&v, &ve));
        drop((k, v));
        if step == 0 {
            let kept = fast.clone();
            let before = kept.arrays().0.astype(Dtype::Float32).to_vec::<f32>().unwrap();
            snapshot = Some((kept, before));
        }
    }
    let (kept, before) = snapshot.unwrap();
    assert_eq!(kept.arrays().0.astype(Dtype::Float32).to_vec::<f32>().unwrap(), before, "a snapshot changed");
    println!("d {} {}/{} b {} cap {}: {worst:.1e}", c.d, c.heads, c.kv_heads, c.batch, c.capacity);
    assert!(worst < allowed(c.dtype, 8e-3), "d {} {}/{} b {} {places:?}: {worst:e}", c.d, c.heads, c.kv_heads, c.batch);
}

fn case(heads: i32, kv_heads: i32, d: i32) -> Case {
    Case {
        batch: 1,
        heads,
        kv_heads,
        d,
        dims: d,
        capacity: 512,
        traditional: false,
        norm: false,
        window: None,
        softcap: None,
        sinks: false,
        dtype: half_or_full(),
    }
}

#[test]
fn a_decode_step_equals_the_plain_form() {
    fresh_seed();
    let at = [Place::At(0), Place::At(1), Place::At(15), Place::At(16), Place::At(300), Place::At(511)];
    for (h, k, d) in [
        (4, 2, 64),
        (8, 1, 128),
        (6, 2, 96),
        (8, 4, 256),
        (8, 1, 256),
        (3, 3, 32),
        (14, 2, 64),
        (4, 4, 160),
        (9, 1, 64),
        (32, 2, 128),
        (24, 2, 96),
    ] {
        check(&case(h, k, d), &at);
        check(&Case { norm: true, dtype: Dtype::Float16, ..case(h, k, d) }, &at[2..]);
    }
    check(&Case { capacity: 8448, norm: true, ..case(16, 8, 128) }, &[Place::At(8190), Place::At(8191)]);
}

#[test]
fn windows_caps_sinks_and_partial_rotations_hold() {
    fresh_seed();
    let at = [Place::At(3), Place::At(100), Place::At(400)];
    check(&Case { window: Some(37), ..case(4, 2, 64) }, &at);
    check(&Case { softcap: Some(5.0), window: Some(128), ..case(4, 2, 64) }, &at);
    check(&Case { sinks: true, ..case(8, 2, 64) }, &at);
    check(&Case { sinks: true, window: Some(16), norm: true, ..case(8, 2, 64) }, &at);
    check(&Case { dims: 32, traditional: true, ..case(4, 2, 128) }, &at);
    check(&Case { dims: 48, ..case(4, 2, 96) }, &at);
    check(&Case { dims: 0, ..case(4, 2, 64) }, &at);
}

#[test]
fn a_ring_is_seen_whole_and_written_anywhere() {
    fresh_seed();
    let ring = |slot, position, seen| Place::Ring { slot, position, seen };
    // filling, full, wrapped around at places in and between tiles
    let places = [ring(4, 4, 5), ring(511, 511, 512), ring(0, 512, 512), ring(17, 1000, 512), ring(300, 1301, 512)];
    check(&case(4, 2, 64), &places);
    check(&Case { batch: 3, norm: true, sinks: true, ..case(4, 1, 256) }, &places);
    check(&Case { capacity: 40, ..case(8, 2, 128) }, &[ring(39, 39, 40), ring(3, 43, 40), ring(20, 100, 33)]);
}

#[test]
fn rows_of_a_batch_stand_at_places_of_their_own() {
    fresh_seed();
    let starts = Array::from_slice(&[0, 3, 17, 0], 4);
    let rows = [Place::Padded(17, &starts), Place::Padded(18, &starts), Place::Padded(300, &starts)];
    check(&Case { batch: 3, ..case(4, 2, 64) }, &rows);
    check(&Case { batch: 3, window: Some(20), norm: true, ..case(8, 2, 128) }, &rows);
    check(&Case { batch: 3, ..case(4, 2, 64) }, &[Place::At(9), Place::At(10)]);
}

#[test]
fn steps_built_before_any_is_evaluated_run_in_order() {
    fresh_seed();
    let c = case(4, 2, 64);
    let shape = [1, 2, 64, 64];
    let r = radians(64);
    let a = DecodeAttention {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.d,
        scale: 0.125,
        rotation: Some(Rotation { radians: &r, traditional: false, feature_scale: 1.0 }),
        qk_norm: None,
        window: None,
        softcap: None,
        sinks: None,
        next: None,
    };
    let (k0, v0) = (normal(&shape, c.dtype, 1.0), normal(&shape, c.dtype, 1.0));
    let mut fast = KvBuffers::new(&k0 + 0, &v0 + 0);
    let mut slow = KvBuffers::new(k0.astype(Dtype::Float32), v0.astype(Dtype::Float32));
    let xs: Vec<Array> = (0..12).map(|_| normal(&[1, 8 * 64], c.dtype, 1.0)).collect();
    let got: Vec<Array> = xs.iter().enumerate().map(|(i, x)| fast.attend(x, Place::At(20 + i as i32), &a)).collect();
    for (i, x) in xs.iter().enumerate() {
        let want = mx::with_device(Device::Cpu, || {
            let y = slow.attend_plain(&x.astype(Dtype::Float32), Place::At(20 + i as i32), &a);
            y.eval().unwrap();
            y
        });
        let e = error(&got[i], &want);
        assert!(e < allowed(c.dtype, 8e-3), "step {i}: {e:e}");
    }
}

/// Both forms from the same packed caches through `places`; the plain one on the CPU.
fn check_packed(c: &Case, [key_bits, value_bits, group]: [i32; 3], places: &[Place]) {
    let quant = [Quant::affine(group, key_bits), Quant::affine(group, value_bits)];
    let side = |q: Quant| {
        let dense = normal(&[c.batch, c.kv_heads, c.capacity, c.d], c.dtype, 1.0);
        let (words, scales, biases) = mx::with_device(Device::Cpu, || {
            let all = mx::quantize(&dense, q);
            mx::eval([&all.0, &all.1]).unwrap();
            all
        });
        [words, scales, biases.unwrap()]
    };
    let (keys, values) = (side(quant[0]), side(quant[1]));
    let copies = |a: &[Array; 3]| a.each_ref().map(|x| x + 0);
    let mut fast = KvBuffers::packed(copies(&keys), copies(&values), quant);
    let mut slow = mx::with_device(Device::Cpu, || KvBuffers::packed(copies(&keys), copies(&values), quant));
    let r = radians(c.d);
    let norms = (normal(&[c.d], c.dtype, 0.1) + 1.0, normal(&[c.d], c.dtype, 0.1) + 1.0);
    mx::eval([&norms.0, &norms.1, &r]).unwrap();
    let a = DecodeAttention {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.d,
        scale: (c.d as f32).powf(-0.5),
        rotation: Some(Rotation { radians: &r, traditional: false, feature_scale: 1.0 }),
        qk_norm: c.norm.then_some((&norms.0, &norms.1, 1e-6)),
        window: c.window,
        softcap: None,
        sinks: None,
        next: None,
    };
    let dense = |b: &KvBuffers| {
        let all = b.all();
        let side = |i: usize| mx::dequantize(&all[i], &all[i + 1], Some(&all[i + 2]), quant[i / 3], Some(c.dtype));
        [side(0), side(3)]
    };
    let (mut worst, mut stored) = (0f32, 0f32);
    for place in places {
        let qkv = normal(&[c.batch, (c.heads + 2 * c.kv_heads) * c.d], c.dtype, 1.0);
        assert!(fast.is_supported(c.dtype, &a));
        poison((c.batch * c.heads * c.d * 2) as usize);
        let got = fast.attend(&qkv, *place, &a);
        got.eval().unwrap();
        let want = mx::with_device(Device::Cpu, || {
            let out = slow.attend_plain(&qkv, *place, &a);
            out.eval().unwrap();
            out
        });
        worst = worst.max(error(&got, &want));
        for (a, b) in dense(&fast).iter().zip(mx::with_device(Device::Cpu, || dense(&slow))) {
            stored = stored.max(error(a, &b));
        }
    }
    let what = format!("d {} {}/{} b {} bits {key_bits} {value_bits} group {group}", c.d, c.heads, c.kv_heads, c.batch);
    println!("{what}: {worst:.1e}, caches {stored:.1e}");
    // a code may fall to the other side where a rotated number rounds differently
    assert!(worst < 1.5e-2 && stored < 1.5e-2, "{what} {places:?}: {worst:e}, caches {stored:e}");
}

#[test]
fn packed_caches_are_read_and_written_as_they_are() {
    if !card("packed_caches_are_read_and_written_as_they_are") {
        return;
    }
    fresh_seed();
    let at = [Place::At(0), Place::At(1), Place::At(15), Place::At(16), Place::At(300), Place::At(511)];
    for (h, k, d, bits) in [
        (4, 2, 64, [8, 8, 64]),
        (8, 1, 128, [4, 4, 64]),
        (6, 2, 96, [8, 4, 32]),
        (8, 1, 256, [4, 8, 64]),
        (32, 2, 128, [4, 4, 32]),
        (4, 4, 128, [8, 8, 128]),
    ] {
        check_packed(&case(h, k, d), bits, &at);
        check_packed(&Case { norm: true, dtype: Dtype::Float16, ..case(h, k, d) }, bits, &at[2..]);
    }
    check_packed(&Case { window: Some(37), ..case(4, 2, 64) }, [4, 4, 64], &at[2..]);
    let starts = Array::from_slice(&[0, 3, 17, 0], 4);
    let rows = [Place::Padded(17, &starts), Place::Padded(18, &starts), Place::Padded(300, &starts)];
    check_packed(&Case { batch: 3, ..case(4, 2, 64) }, [8, 8, 32], &rows);
}

#[test]
fn rows_of_a_ring_see_what_they_have_filled() {
    if !card("rows_of_a_ring_see_what_they_have_filled") {
        return;
    }
    fresh_seed();
    let starts = Array::from_slice(&[0, 30, 61, 0], 4);
    let ring = |slot, position, seen| Place::PaddedRing { slot, position, seen, starts: &starts };
    // filling, full, wrapped around with rows that have not filled it, wrapped around twice
    let places = [ring(62, 62, 63), ring(63, 63, 64), ring(0, 64, 64), ring(17, 81, 64), ring(20, 148, 64)];
    check(&Case { batch: 3, capacity: 64, ..case(4, 2, 64) }, &places);
    check(&Case { batch: 3, capacity: 64, norm: true, sinks: true, ..case(8, 1, 256) }, &places);
    check_packed(&Case { batch: 3, capacity: 64, ..case(4, 2, 128) }, [8, 4, 64], &places);
}

#[test]
fn pages_are_read_where_they_lie() {
    if !card("pages_are_read_where_they_lie") {
        return;
    }
    fresh_seed();
    let starts = Array::from_slice(&[0, 3, 40, 0], 4);
    for (batch, h, k, d, size, padded) in
        [(1, 4, 2, 64, 32, false), (1, 32, 2, 128, 16, false), (2, 8, 1, 256, 48, false), (3, 4, 2, 64, 32, true)]
    {
        let shape = [batch, k, size, d];
        let page = || (normal(&shape, Dtype::Bfloat16, 1.0), normal(&shape, Dtype::Bfloat16, 1.0));
        let wide = |a: &Array| a.astype(Dtype::Float32);
        let all: Vec<_> = (0..6).map(|_| page()).collect();
        let r = radians(d);
        let a = DecodeAttention {
            heads: h,
            kv_heads: k,
            head_dim: d,
            scale: (d as f32).powf(-0.5),
            rotation: Some(Rotation { radians: &r, traditional: false, feature_scale: 1.0 }),
            qk_norm: None,
            window: None,
            softcap: None,
            sinks: None,
            next: None,
        };
        for full in [0, 1, 2, 3, 5] {
            let pages: Vec<_> = all[..full].iter().map(|p| (&p.0, &p.1)).collect();
            let exact: Vec<_> = all[..full].iter().map(|p| (wide(&p.0), wide(&p.1))).collect();
            let exact: Vec<_> = exact.iter().map(|p| (&p.0, &p.1)).collect();
            let (keys, values) = &all[5];
            let mut fast = KvBuffers::new(keys + 0, values + 0);
            let mut slow = KvBuffers::new(wide(keys), wide(values));
            assert!(fast.is_pages_supported(full, Dtype::Bfloat16, &a));
            let mut worst = 0f32;
            for at in [0, 1, 15, size - 1] {
                let slot = full as i32 * size + at;
                if padded && slot < 40 {
                    continue;
                }
                let place = if padded { Place::Padded(slot, &starts) } else { Place::At(slot) };
                let qkv = normal(&[batch, (h + 2 * k) * d], Dtype::Bfloat16, 1.0);
                poison((batch * h * d * 2) as usize);
                let got = fast.attend_pages(&qkv, &pages, place, &a);
                got.eval().unwrap();
                let want = mx::with_device(Device::Cpu, || {
                    let out = slow.attend_pages_plain(&wide(&qkv), &exact, place, &a);
                    out.eval().unwrap();
                    out
                });
                let ((k, v), (ke, ve)) = (fast.arrays(), slow.arrays());
                worst = worst.max(error(&got, &want)).max(error(&k, &ke)).max(error(&v, &ve));
            }
            println!("d {d} {h}/{k} b {batch}, {full} full pages of {size}: {worst:.1e}");
            assert!(worst < 8e-3, "d {d} {h}/{k} b {batch}, {full} full pages of {size}: {worst:e}");
        }
    }
}
