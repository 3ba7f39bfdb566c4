//! Random data, packed matrices of random codes, and the comparison.

use half::{bf16, f16};
use mlx_kernels::{DType, Floats, FloatsMut, Matrix, Mode, Quantized};

/// A small generator (xorshift): tests are the same every time.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }
    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }
    pub fn floats(&mut self, dtype: DType, n: usize) -> Buffer {
        let v: Vec<f32> = (0..n).map(|_| self.unit()).collect();
        Buffer::of(dtype, &v)
    }
}

/// Owned floats of a type, deliberately misaligned by one byte.
pub struct Buffer {
    dtype: DType,
    len: usize,
    bytes: Vec<u8>,
}

impl Buffer {
    pub fn of(dtype: DType, v: &[f32]) -> Buffer {
        let mut bytes = vec![0u8];
        for x in v {
            match dtype {
                DType::F32 => bytes.extend(x.to_ne_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(*x).to_ne_bytes()),
                DType::BF16 => bytes.extend(bf16::from_f32(*x).to_ne_bytes()),
            }
        }
        Buffer { dtype, len: v.len(), bytes }
    }
    /// NaN everywhere, so that an element that is not written shows.
    pub fn poison(dtype: DType, len: usize) -> Buffer {
        Buffer::of(dtype, &vec![f32::NAN; len])
    }
    pub fn view(&self) -> Floats<'_> {
        // SAFETY: len elements follow the first byte.
        unsafe { Floats::from_raw(self.bytes.as_ptr().add(1), self.len, self.dtype) }
    }
    pub fn out(&mut self) -> FloatsMut<'_> {
        // SAFETY: as above.
        unsafe { FloatsMut::from_raw(self.bytes.as_mut_ptr().add(1), self.len, self.dtype) }
    }
    /// Address of a byte of the content.
    pub fn bytes_at(&self, i: usize) -> *const u8 {
        self.bytes[1 + i..].as_ptr()
    }
    pub fn values(&self) -> Vec<f32> {
        (0..self.len).map(|i| self.view().get(i).unwrap()).collect()
    }
}

/// A packed matrix of random codes that owns its parts.
pub struct Packed {
    mode: Mode,
    rows: usize,
    cols: usize,
    words: Vec<u8>,
    scale_bytes: Vec<u8>,
    scales: Buffer,
    biases: Buffer,
}

impl Packed {
    pub fn random(rng: &mut Rng, mode: Mode, scales: DType, rows: usize, cols: usize) -> Packed {
        let groups = rows * cols / mode.group();
        // exactly as long as needed: reading past the end is caught by the allocator's tools and by luck of neighbours
        let words = (0..rows * cols * mode.bits() / 8).map(|_| rng.bits() as u8).collect();
        let scale_bytes = (0..groups)
            .map(|_| if mode == Mode::Nvfp4 { 0x28 + rng.below(24) as u8 } else { 122 + rng.below(8) as u8 })
            .collect();
        let s: Vec<f32> = (0..groups).map(|_| rng.unit() * 0.2).collect();
        Packed {
            mode,
            rows,
            cols,
            words,
            scale_bytes,
            scales: Buffer::of(scales, &s),
            biases: rng.floats(scales, groups),
        }
    }
    pub fn matrix(&self) -> Matrix<'_> {
        match self.mode {
            Mode::Affine { bits, group } => Quantized::affine(
                bits,
                group,
                self.rows,
                self.cols,
                &self.words,
                self.scales.view(),
                self.biases.view(),
            ),
            mode => Quantized::float(mode, self.rows, self.cols, &self.words, &self.scale_bytes),
        }
        .unwrap()
        .into()
    }
}

pub const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// All formats.
pub fn modes() -> Vec<Mode> {
    let mut all = vec![Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4];
    for bits in [2, 3, 4, 5, 6, 8] {
        all.extend([32, 64, 128].map(|group| Mode::Affine { bits, group }));
    }
    all
}

/// Every element within `tolerance` of the largest wanted one; what was rounded to a type may be off by that rounding.
#[track_caller]
pub fn close(what: &str, got: &[f32], want: &[f64], dtype: DType, tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(1e-30f64, |m, w| m.max(w.abs()));
    let ulp = match dtype {
        DType::F32 => 0.0,
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
    };
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*g) - w).abs();
        let allowed = tolerance * size + ulp * w.abs() * 1.01 + if dtype == DType::F16 { 1e-7 } else { 0.0 };
        assert!(
            off <= allowed,
            "{what}: element {i} is {g}, wanted {w}, off by {:.1e} of the largest {size}",
            off / size
        );
    }
}
