//! Rates of the kernels on this machine: `cargo bench -p mlx-kernels -- [filter ...]`. Medians; bytes are those of the weights (or of
//! keys and values), against a plain read of memory. Reference on the machine the kernels were developed on (two threads of one
//! core): OpenBLAS f32 184 GFLOP/s; MLX's own loops 14 ms for a 4096 x 4096 q4 product with one row.

use half::{bf16, f16};
use mlx_kernels::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

struct Bench {
    filters: Vec<String>,
}

impl Bench {
    /// Median and best time of a call, over half a second.
    fn time(&self, name: &str, mut f: impl FnMut(usize)) -> Option<(f64, f64)> {
        if !self.filters.is_empty() && !self.filters.iter().any(|x| name.contains(x.as_str())) {
            return None;
        }
        f(0);
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 5 || (start.elapsed() < Duration::from_millis(500) && times.len() < 2000) {
            let t = Instant::now();
            f(times.len());
            times.push(t.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Some((times[times.len() / 2], times[0]))
    }
    fn line(&self, name: &str, bytes: f64, flops: f64, f: impl FnMut(usize)) {
        if let Some((t, best)) = self.time(name, f) {
            println!(
                "{name:<44} {:>9.1} us {:>6.1} GB/s {:>7.1} GFLOP/s | best {:>9.1} us {:>6.1} GB/s {:>7.1} GFLOP/s",
                t * 1e6,
                bytes / t / 1e9,
                flops / t / 1e9,
                best * 1e6,
                bytes / best / 1e9,
                flops / best / 1e9
            );
        }
    }
}

fn noise(n: usize) -> Vec<f32> {
    let mut x = 1u32;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

fn cast(dtype: DType, v: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => v.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        DType::F16 => v.iter().flat_map(|x| f16::from_f32(*x).to_ne_bytes()).collect(),
        DType::BF16 => v.iter().flat_map(|x| bf16::from_f32(*x).to_ne_bytes()).collect(),
    }
}

fn view(b: &[u8], dtype: DType) -> Floats<'_> {
    // SAFETY: inside the slice.
    unsafe { Floats::from_raw(b.as_ptr(), b.len() / dtype.size(), dtype) }
}

fn view_mut(b: &mut [u8], dtype: DType) -> FloatsMut<'_> {
    // SAFETY: inside the slice.
    unsafe { FloatsMut::from_raw(b.as_mut_ptr(), b.len() / dtype.size(), dtype) }
}

fn short(d: DType) -> &'static str {
    match d {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
    }
}

/// Copies of a matrix that together do not fit the inner caches.
fn copies(bytes: usize) -> usize {
    ((48 << 20) / bytes.max(1)).clamp(1, 64)
}

fn packed(b: &Bench, mode: Mode, scales: DType, x: DType, m: usize, n: usize, k: usize) {
    let name = match mode {
        Mode::Affine { bits, group } => {
            format!("q{bits} g{group} scales {} x {} {m}x{n}x{k}", short(scales), short(x))
        }
        mode => format!("{mode:?} x {} {m}x{n}x{k}", short(x)),
    }
    .to_lowercase();
    let row = k * mode.bits() / 8;
    let groups = n * k / mode.group();
    let count = copies(n * row);
    let words: Vec<u8> = (0..n * row + count * 64).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect();
    let words: Vec<Vec<u8>> = (0..count).map(|i| words[i * 64..i * 64 + n * row].to_vec()).collect();
    let s = cast(scales, &noise(groups));
    let bytes = vec![120u8; groups];
    let xs = cast(x, &noise(m * k));
    let mut out = vec![0u8; m * n * x.size()];
    let matrices: Vec<Matrix<'_>> = words
        .iter()
        .map(|w| {
            match mode {
                Mode::Affine { bits, group } => {
                    Quantized::affine(bits, group, n, k, w, view(&s, scales), view(&s, scales))
                }
                mode => Quantized::float(mode, n, k, w, &bytes),
            }
            .unwrap()
            .into()
        })
        .collect();
    let Matrix::Quantized(q) = matrices[0] else { return };
    b.line(&name, q.nbytes() as f64, 2.0 * (m * n * k) as f64, |i| {
        matmul(view(&xs, x), m, &matrices[i % count], None, view_mut(&mut out, x)).unwrap()
    });
}

fn dense(b: &Bench, w: DType, x: DType, m: usize, n: usize, k: usize) {
    let name = format!("dense {} x {} {m}x{n}x{k}", short(w), short(x));
    let count = copies(n * k * w.size());
    let data: Vec<Vec<u8>> = vec![cast(w, &noise(n * k)); count];
    let xs = cast(x, &noise(m * k));
    let mut out = vec![0u8; m * n * x.size()];
    b.line(&name, (n * k * w.size()) as f64, 2.0 * (m * n * k) as f64, |i| {
        let w = Matrix::dense(view(&data[i % count], w), n, k).unwrap();
        matmul(view(&xs, x), m, &w, None, view_mut(&mut out, x)).unwrap()
    });
}

#[allow(clippy::too_many_arguments)]
fn attend(b: &Bench, t: DType, hq: usize, hk: usize, l: usize, s: usize, d: usize, dv: usize) {
    let name = format!("attention {} {hq}/{hk} heads d{d} q{l} k{s}", short(t));
    let (q, k, v) = (cast(t, &noise(hq * l * d)), cast(t, &noise(hk * s * d)), cast(t, &noise(hk * s * dv)));
    let mut out = vec![0u8; hq * l * dv * t.size()];
    let a = Attention {
        q: View4::contiguous(view(&q, t), [1, hq, l, d]).unwrap(),
        k: View4::contiguous(view(&k, t), [1, hk, s, d]).unwrap(),
        v: View4::contiguous(view(&v, t), [1, hk, s, dv]).unwrap(),
        scale: 0.1,
        causal: l > 1,
        window: None,
        starts: None,
        softcap: None,
        mask: Mask::None,
        sinks: None,
    };
    let seen = if l > 1 { (s - l) as f64 + l as f64 / 2.0 } else { s as f64 };
    b.line(&name, ((k.len() + v.len()) as f64).max(1.0), 2.0 * (hq * l * (d + dv)) as f64 * seen, |_| {
        attention(&a, View4Mut::contiguous(view_mut(&mut out, t), [1, hq, l, dv]).unwrap()).unwrap()
    });
}

fn small(b: &Bench, t: DType, rows: usize) {
    let (dim, ff) = (576, 1536);
    let x = cast(t, &noise(rows * dim));
    let w = cast(t, &noise(dim));
    let (mut out, mut sum) = (x.clone(), x.clone());
    let bytes = (2 * x.len()) as f64;
    b.line(&format!("rms_norm {} {rows}x{dim}", short(t)), bytes, 0.0, |_| {
        rms_norm(view(&x, t), dim, Some(view(&w, t)), 1e-5, view_mut(&mut out, t)).unwrap()
    });
    b.line(&format!("add_rms_norm {} {rows}x{dim}", short(t)), 2.0 * bytes, 0.0, |_| {
        let (o, s) = (view_mut(&mut out, t), view_mut(&mut sum, t));
        add_rms_norm(view(&x, t), view(&x, t), dim, Some(view(&w, t)), 1e-5, s, o).unwrap()
    });
    b.line(&format!("rope {} 9 heads {rows}x64", short(t)), bytes, 0.0, |_| {
        let v = View4::new(view(&x, t), [1, 9, rows, 64], [dim * rows, 64, dim, 1]).unwrap();
        let o = View4Mut::contiguous(view_mut(&mut out, t), [1, 9, rows, 64]).unwrap();
        let r = Rope { dims: 64, traditional: false, freqs: Freqs::Base(1e5), scale: 1.0, offsets: &[7] };
        rope(&v, &r, o).unwrap()
    });
    let g = cast(t, &noise(rows * ff));
    let mut out = g.clone();
    b.line(&format!("swiglu {} {rows}x{ff}", short(t)), 3.0 * g.len() as f64, 0.0, |_| {
        swiglu(view(&g, t), view(&g, t), view_mut(&mut out, t)).unwrap()
    });
}

/// Plain read of 256 MiB: 64-bit sums, as wide as the compiler makes them.
fn read(b: &Bench) {
    let v = vec![1u64; 32 << 20];
    let sum = |part: &[u64]| part.iter().fold(0u64, |a, x| a ^ x);
    for n in [1, threads()] {
        b.line(&format!("read {n} threads"), (v.len() * 8) as f64, 0.0, |_| {
            std::thread::scope(|s| {
                for part in v.chunks(v.len().div_ceil(n)) {
                    s.spawn(move || black_box(sum(black_box(part))));
                }
            })
        });
    }
}

fn main() {
    let b = Bench { filters: std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect() };
    println!("{:?}, {} threads", Isa::available(), threads());
    read(&b);
    use DType::*;
    let affine = |bits, group| Mode::Affine { bits, group };
    for m in [1, 4, 512] {
        for t in [F32, F16, BF16] {
            packed(&b, affine(4, 64), t, t, m, 4096, 4096);
            packed(&b, affine(4, 32), F16, t, m, 4096, 4096);
            dense(&b, t, t, m, 4096, 4096);
        }
        for bits in [2, 3, 5, 6, 8] {
            packed(&b, affine(bits, 64), F32, F32, m, 4096, 4096);
        }
        for mode in [Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4] {
            packed(&b, mode, F32, F32, m, 4096, 4096);
        }
    }
    // SmolLM2-135M
    for m in [1, 512] {
        for t in [F32, F16, BF16] {
            for (n, k) in [(576, 576), (192, 576), (960, 576), (1536, 576), (3072, 576), (576, 1536)] {
                packed(&b, affine(4, 32), F16, t, m, n, k);
            }
            if m == 1 {
                packed(&b, affine(8, 32), F16, t, m, 49152, 576);
                dense(&b, t, t, m, 49152, 576);
            }
        }
    }
    for t in [F32, F16, BF16] {
        attend(&b, t, 9, 3, 1, 128, 64, 64);
        attend(&b, t, 9, 3, 1, 512, 64, 64);
        attend(&b, t, 9, 3, 1, 8192, 64, 64);
        attend(&b, t, 32, 8, 1, 4096, 128, 128);
        attend(&b, t, 16, 1, 1, 4096, 576, 512);
        attend(&b, t, 9, 3, 512, 512, 64, 64);
        attend(&b, t, 9, 3, 512, 4096, 64, 64);
        attend(&b, t, 8, 4, 512, 512, 256, 256);
        small(&b, t, 1);
        small(&b, t, 512);
    }
}
