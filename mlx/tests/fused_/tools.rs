use mlx::{self as mx, Array, Dtype};

/// Whether there is a card; says so if not.
pub fn card(test: &str) -> bool {
    let there = mx::cuda_is_available();
    if !there {
        println!("skipped {test}: no CUDA device");
    }
    there
}

/// ||a - b|| / ||b|| in float32 on the host.
pub fn error(a: &Array, b: &Array) -> f32 {
    let read = |x: &Array| x.astype(Dtype::Float32).to_vec::<f32>().unwrap();
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (read(a), read(b));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| (x as f64).powi(2)).sum::<f64>().sqrt();
    let e = norm(&mut a.iter().zip(&b).map(|(x, y)| x - y)) / norm(&mut b.iter().copied()).max(1e-30);
    if e.is_nan() { f32::INFINITY } else { e as f32 }
}

pub fn normal(shape: &[i32], dtype: Dtype, scale: f32) -> Array {
    let a = mx::random::normal(shape, Dtype::Float32, 0.0, scale, None).astype(dtype);
    a.eval().unwrap();
    a
}

/// Fills memory that the next outputs may reuse with NaN, so that an element that nobody writes shows.
pub fn poison(bytes: usize) {
    for n in [bytes, bytes * 2, bytes * 4] {
        let a = mx::full([n as i32 / 4 + 64], f32::NAN, Some(Dtype::Float32));
        a.eval().unwrap();
    }
}

/// A different seed each run: the kernels must hold on any input.
pub fn fresh_seed() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64;
    println!("seed {seed}");
    mx::random::seed(seed);
}

/// bf16 on a card, float32 on the CPU, where what differs is the order of sums alone.
pub fn half_or_full() -> Dtype {
    if mx::cuda_is_available() { Dtype::Bfloat16 } else { Dtype::Float32 }
}

/// What may be off with this type: `half` with 16 bits.
pub fn allowed(dtype: Dtype, half: f32) -> f32 {
    if dtype == Dtype::Float32 { 3e-6 } else { half }
}
