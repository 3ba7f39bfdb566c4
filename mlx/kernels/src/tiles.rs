//! Products with many rows of x on AMX tiles. A tile instruction multiplies bf16 and sums in f32; every f32 is exactly the sum of
//! three bf16 and every f16 of two, so both sides are cut into such terms and the products of terms are summed. Products of terms
//! below the last bit of an f32 are left out.
//!
//! Rows of w are the left tiles as they are decoded; x is transposed once per call into pairs along k and is the right side; the
//! result block is therefore `[columns][rows]` and turned when it is written.

use crate::data::{DType, Floats, Out};
use crate::decode::{matrix_row, widen};
use crate::isa::Kernel;
use crate::quant::{Matrix, Mode};
use crate::scratch::Temp;
use crate::simd::{Simd, add_row, narrow_row, transpose, with_elem};

/// Rows of x in a panel, and columns of the result in a block: two tiles each way.
pub(crate) const SIDE: usize = 32;
/// Elements along k in a tile.
const STEP: usize = 32;
/// Floats of one term of one step, either side.
const PLANE: usize = SIDE * STEP / 2;

/// Number of bf16 terms that make up a number of a type.
fn terms(dtype: DType) -> usize {
    match dtype {
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::F32 => 3,
    }
}

fn matrix_terms(w: &Matrix<'_>) -> usize {
    match w {
        Matrix::Dense { data, .. } => terms(data.dtype()),
        Matrix::Quantized(q) => match q.mode() {
            Mode::Affine { .. } => 3,
            // a scale of at most four significant bits times a code of at most four
            Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4 => 1,
        },
    }
}

/// Sizes of one panel of x in floats.
pub(crate) fn panel_len(x: DType, k: usize) -> usize {
    k.div_ceil(STEP) * terms(x) * PLANE
}

/// Cut `n` floats (a multiple of 16) into terms; term t goes to `dst + t * apart`.
#[inline(always)]
unsafe fn cut<S: Simd>(src: *const f32, n: usize, terms: usize, dst: *mut half::bf16, apart: usize) {
    unsafe {
        let mut i = 0;
        while i < n {
            let mut v = S::load(src.add(i));
            for t in 0..terms {
                let p = dst.add(t * apart + i);
                S::store_bf16(p, v);
                if t + 1 < terms {
                    v = S::sub(v, S::load_bf16(p));
                }
            }
            i += S::N;
        }
    }
}

/// Pack up to 32 rows of x: `[step][term][16 pairs][32 rows]`.
pub(crate) struct Pack<'a> {
    pub x: Floats<'a>,
    pub k: usize,
    pub x_rows: &'a [u32],
    pub dst: *mut f32,
}

impl Kernel for Pack<'_> {
    type Out = ();
    const DOTS_BF16: bool = true;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let terms = terms(self.x.dtype());
            let padded = self.k.next_multiple_of(STEP);
            // one row widened; rows as terms [term][row][k]
            let mut temp = Temp::new(padded + terms * SIDE * padded / 2);
            temp.slice().fill(0.0);
            let row = temp.ptr();
            let cuts = row.add(padded);
            for (r, from) in self.x_rows.iter().enumerate() {
                widen::<S>(self.x, *from as usize * self.k, self.k, row);
                cut::<S>(row, padded, terms, cuts.add(r * padded / 2).cast(), SIDE * padded);
            }
            for s in 0..padded / STEP {
                for t in 0..terms {
                    let src = cuts.add(t * SIDE * padded / 2 + s * STEP / 2);
                    let dst = self.dst.add((s * terms + t) * PLANE);
                    transpose::<S>(src.cast(), padded / 2, dst.cast(), SIDE, SIDE, STEP / 2);
                }
            }
        }
    }
}

/// Columns `n0 .. n1` of the result for the rows of some panels; several blocks of columns share a pass over x.
pub(crate) struct Gemm<'a> {
    pub w: &'a Matrix<'a>,
    pub x_type: DType,
    pub row0: usize,
    pub n0: usize,
    pub n1: usize,
    pub n: usize,
    /// First panel.
    pub x: *const f32,
    /// Where the rows of the panels go.
    pub out_rows: &'a [u32],
    pub out: Out,
    pub bias: Option<(Floats<'a>, usize)>,
}

impl Kernel for Gemm<'_> {
    type Out = ();
    const DOTS_BF16: bool = true;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let (m, k, nn) = (self.out_rows.len(), self.w.cols(), self.n1 - self.n0);
            let (tw, tx) = (matrix_terms(self.w), terms(self.x_type));
            // the planes of a block of w should stay in the first cache
            let depth = if tw == 1 { 256 } else { 128 };
            let (panels, blocks) = (m.div_ceil(SIDE), nn.div_ceil(SIDE));
            let (c_len, planes) = (panels * blocks * SIDE * SIDE, depth / STEP * tw * PLANE);
            let mut temp = Temp::new(c_len + blocks * planes + depth + 64 + SIDE * SIDE + nn);
            let c = temp.ptr();
            let w = c.add(c_len);
            let row = w.add(blocks * planes);
            let small = row.add(depth);
            let turned = small.add(64);
            let bias = turned.add(SIDE * SIDE);
            temp.slice()[..c_len + blocks * planes].fill(0.0);
            tile::configure();
            let mut k0 = 0;
            while k0 < k {
                let kc = depth.min(k - k0);
                let steps = kc.div_ceil(STEP);
                std::slice::from_raw_parts_mut(row.add(kc), steps * STEP - kc).fill(0.0);
                for r in 0..nn {
                    matrix_row::<S>(self.w, self.row0 + self.n0 + r, k0, kc, small, row);
                    let to = w.add(r / SIDE * planes + r % SIDE * STEP / 2);
                    for s in 0..steps {
                        cut::<S>(row.add(s * STEP), STEP, tw, to.add(s * tw * PLANE).cast(), 2 * PLANE);
                    }
                }
                for p in 0..panels {
                    let x = self.x.add((p * k.div_ceil(STEP) + k0 / STEP) * tx * PLANE);
                    let wide = m - p * SIDE > SIDE / 2;
                    for b in 0..blocks {
                        let c = c.add((p * blocks + b) * SIDE * SIDE);
                        tile::multiply(w.add(b * planes), x, steps, tw, tx, c, wide);
                    }
                }
                k0 += depth;
            }
            tile::release();
            let out = self.out;
            if let Some((b, from)) = self.bias {
                widen::<S>(b, from + self.n0, nn, bias);
            }
            for (p, b) in (0..panels).flat_map(|p| (0..blocks).map(move |b| (p, b))) {
                let block = c.add((p * blocks + b) * SIDE * SIDE);
                transpose::<S>(block.cast(), SIDE, turned.cast(), SIDE, SIDE, SIDE);
                let cols = SIDE.min(nn - b * SIDE);
                for (i, to) in self.out_rows[p * SIDE..].iter().take(SIDE).enumerate() {
                    let at = *to as usize * self.n + self.n0 + b * SIDE;
                    let src = turned.add(i * SIDE);
                    if self.bias.is_some() {
                        add_row::<S>(src, bias.add(b * SIDE), cols);
                    }
                    with_elem!(out.dtype, T => narrow_row::<S, T>(src, out.at(at).cast(), cols));
                }
            }
        }
    }
}

/// The instructions themselves. They have no stable intrinsics, hence assembly.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod tile {
    use super::PLANE;
    use std::arch::asm;

    /// Ask the kernel for tile registers; true if the processor has bf16 tiles and the process may use them.
    pub fn available() -> bool {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        if __cpuid(0).eax < 7 {
            return false;
        }
        let edx = __cpuid_count(7, 0).edx;
        if edx & 1 << 22 == 0 || edx & 1 << 24 == 0 {
            return false;
        }
        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
        let mut result = 158i64;
        // SAFETY: a system call that touches no memory of ours.
        unsafe {
            asm!("syscall", inlateout("rax") result, in("rdi") 0x1023, in("rsi") 18, lateout("rcx") _, lateout("r11") _,
                options(nostack));
        }
        result == 0
    }

    /// Eight tiles of 16 rows of 64 bytes.
    #[inline(always)]
    pub unsafe fn configure() {
        #[repr(align(64))]
        struct Config([u8; 64]);
        static CONFIG: Config = Config({
            let mut c = [0u8; 64];
            c[0] = 1;
            let mut i = 0;
            while i < 8 {
                c[16 + 2 * i] = 64;
                c[48 + i] = 16;
                i += 1;
            }
            c
        });
        // SAFETY: the caller's instruction set has tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIG.0.as_ptr(), options(nostack, preserves_flags)) }
    }

    /// Give the tiles back, so that switching threads needn't save them.
    #[inline(always)]
    pub unsafe fn release() {
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }

    macro_rules! load {
        ($tile:literal, $p:expr, $stride:expr) => {
            asm!(concat!("tileloadd tmm", $tile, ", [{} + {}*1]"), in(reg) $p, in(reg) $stride as usize,
                options(nostack, preserves_flags))
        };
    }
    macro_rules! store {
        ($tile:literal, $p:expr, $stride:expr) => {
            asm!(concat!("tilestored [{} + {}*1], tmm", $tile), in(reg) $p, in(reg) $stride as usize,
                options(nostack, preserves_flags))
        };
    }
    macro_rules! dot {
        ($c:literal, $a:literal, $b:literal) => {
            asm!(concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b), options(nostack, preserves_flags))
        };
    }

    /// c[32][32] += w planes x x planes over some steps; `wide` is false if only the first 16 columns of c matter.
    #[inline(always)]
    pub unsafe fn multiply(w: *const f32, x: *const f32, steps: usize, tw: usize, tx: usize, c: *mut f32, wide: bool) {
        // SAFETY: the caller configured the tiles and has planes and c of these sizes.
        unsafe {
            let (low, side) = (c.add(16 * 32), 128);
            load!(0, c, side);
            load!(2, low, side);
            if wide {
                load!(1, c.add(16), side);
                load!(3, low.add(16), side);
            }
            for s in 0..steps {
                for i in 0..tw {
                    let a = w.add((s * tw + i) * PLANE);
                    load!(4, a, 64);
                    load!(5, a.add(PLANE / 2), 64);
                    for j in 0..tx.min(3 - i) {
                        let b = x.add((s * tx + j) * PLANE);
                        load!(6, b, 128);
                        dot!(0, 4, 6);
                        dot!(2, 5, 6);
                        if wide {
                            load!(7, b.add(16), 128);
                            dot!(1, 4, 7);
                            dot!(3, 5, 7);
                        }
                    }
                }
            }
            store!(0, c, side);
            store!(2, low, side);
            if wide {
                store!(1, c.add(16), side);
                store!(3, low.add(16), side);
            }
        }
    }
}

/// Elsewhere no instruction set with tiles is ever offered.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) mod tile {
    pub unsafe fn configure() {}
    pub unsafe fn release() {}
    pub unsafe fn multiply(
        _w: *const f32,
        _x: *const f32,
        _steps: usize,
        _tw: usize,
        _tx: usize,
        _c: *mut f32,
        _wide: bool,
    ) {
    }
}
