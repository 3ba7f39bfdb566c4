//! Rows of a matrix as f32: scales and codes to numbers, and dense rows widened.

use crate::data::{DType, Floats};
use crate::quant::{Matrix, Mode, Quantized, Scales, scale_of};
use crate::simd::{FP8, Simd, widen_row, with_elem};

/// Widen `n` elements of a buffer from element `from`.
///
/// # Safety
/// The elements are inside, `dst` holds n.
#[inline(always)]
pub unsafe fn widen<S: Simd>(src: Floats<'_>, from: usize, n: usize, dst: *mut f32) {
    unsafe { with_elem!(src.dtype(), T => widen_row::<S, T>(src.at(from).cast(), dst, n)) }
}

/// Scales and biases of `n` groups from group `g0` of row `row` on (possibly over several rows), as f32.
///
/// # Safety
/// The groups are inside the matrix; `s` and `b` hold n.
#[inline(always)]
pub unsafe fn group_row<S: Simd>(q: &Quantized<'_>, row: usize, g0: usize, n: usize, s: *mut f32, b: *mut f32) {
    let from = row * q.row_groups() + g0;
    unsafe {
        match q.scales {
            Scales::Affine { scales, biases } => {
                widen::<S>(scales, from, n, s);
                widen::<S>(biases, from, n, b);
            }
            Scales::Bytes(bytes) => {
                let src = bytes.as_ptr().add(from);
                let mut i = 0;
                while i + S::N <= n {
                    let v = if q.mode == Mode::Nvfp4 {
                        S::unpack::<FP8>(src.add(i))
                    } else {
                        // the byte is the exponent; 0 means the subnormal 2^-127
                        let e = S::unpack::<8>(src.add(i));
                        let least = S::splat(f32::from_bits(0x40_0000));
                        S::if_less(e, S::splat(0.5), least, S::as_f(S::ishl(S::to_i(e), 23)))
                    };
                    S::store(s.add(i), v);
                    i += S::N;
                }
                while i < n {
                    *s.add(i) = scale_of(q.mode, *src.add(i));
                    i += 1;
                }
                std::slice::from_raw_parts_mut(b, n).fill(0.0);
            }
        }
    }
}

/// Asks for the scales and biases of `n` groups from row `row` on, which are read soon.
#[inline(always)]
pub unsafe fn prefetch_groups<S: Simd>(q: &Quantized<'_>, row: usize, n: usize) {
    let from = row * q.row_groups();
    let fetch = |start: *const u8, bytes: usize| {
        for i in (0..bytes).step_by(64) {
            // SAFETY: a hint: no address is wrong
            unsafe { S::prefetch(start.wrapping_add(i)) }
        }
    };
    match q.scales {
        Scales::Affine { scales, biases } => {
            fetch(scales.at(from), n * scales.dtype().size());
            fetch(biases.at(from), n * biases.dtype().size());
        }
        Scales::Bytes(bytes) => fetch(bytes.as_ptr().wrapping_add(from), n),
    }
}

#[inline(always)]
unsafe fn decode_code<S: Simd, const CODE: u32>(
    mut p: *const u8,
    group: usize,
    s: *const f32,
    b: *const f32,
    n: usize,
    out: *mut f32,
) {
    unsafe {
        let step = crate::simd::bits(CODE) * S::N / 8;
        let mut i = 0;
        let mut g = 0;
        while i < n {
            let (sv, bv) = (S::splat(*s.add(g)), S::splat(*b.add(g)));
            let end = i + group;
            while i < end {
                S::store(out.add(i), S::fma(S::unpack::<CODE>(p), sv, bv));
                p = p.add(step);
                i += S::N;
            }
            g += 1;
        }
    }
}

/// Call with the code as a constant.
macro_rules! with_code {
    ($code:expr, $c:ident => $body:expr) => {
        match $code {
            2 => {
                const $c: u32 = 2;
                $body
            }
            3 => {
                const $c: u32 = 3;
                $body
            }
            4 => {
                const $c: u32 = 4;
                $body
            }
            5 => {
                const $c: u32 = 5;
                $body
            }
            6 => {
                const $c: u32 = 6;
                $body
            }
            $crate::simd::FP4 => {
                const $c: u32 = $crate::simd::FP4;
                $body
            }
            $crate::simd::FP8 => {
                const $c: u32 = $crate::simd::FP8;
                $body
            }
            _ => {
                const $c: u32 = 8;
                $body
            }
        }
    };
}

/// Elements `k0 .. k0 + n` of row `row` of a packed matrix as f32; `k0` and `n` are multiples of the group.
///
/// # Safety
/// The span is inside the row; `out` holds n, `tmp` holds `2 * n / group`.
#[inline(always)]
pub unsafe fn decode_row<S: Simd>(q: &Quantized<'_>, row: usize, k0: usize, n: usize, tmp: *mut f32, out: *mut f32) {
    unsafe {
        let group = q.mode.group();
        let ng = n / group;
        group_row::<S>(q, row, k0 / group, ng, tmp, tmp.add(ng));
        let p = q.words.as_ptr().add(row * q.row_bytes() + k0 * q.mode.bits() / 8);
        with_code!(q.mode.code(), C => decode_code::<S, C>(p, group, tmp, tmp.add(ng), n, out));
    }
}

/// As [`decode_row`] for any matrix (`k0`, `n` free for dense ones).
///
/// # Safety
/// As [`decode_row`].
#[inline(always)]
pub unsafe fn matrix_row<S: Simd>(w: &Matrix<'_>, row: usize, k0: usize, n: usize, tmp: *mut f32, out: *mut f32) {
    unsafe {
        match w {
            Matrix::Dense { data, cols, .. } => widen::<S>(*data, row * cols + k0, n, out),
            Matrix::Quantized(q) => decode_row::<S>(q, row, k0, n, tmp, out),
        }
    }
}

#[inline(always)]
unsafe fn codes_bf16<S: Simd, const CODE: u32>(mut p: *const u8, n: usize, out: *mut half::bf16) {
    unsafe {
        let step = crate::simd::bits(CODE) * S::N / 8;
        let mut i = 0;
        while i < n {
            S::store_bf16(out.add(i), S::unpack::<CODE>(p));
            p = p.add(step);
            i += S::N;
        }
    }
}

/// The codes of a span of a packed row, or the elements of a dense bf16 row, as bf16 numbers: exact, since every code has at most
/// eight significant bits. Scales are left to the caller.
///
/// # Safety
/// As [`decode_row`]; a dense matrix holds bf16.
#[inline(always)]
pub unsafe fn row_bf16<S: Simd>(w: &Matrix<'_>, row: usize, k0: usize, n: usize, out: *mut half::bf16) {
    unsafe {
        match w {
            Matrix::Dense { data, cols, .. } => {
                debug_assert!(data.dtype() == DType::BF16);
                std::ptr::copy_nonoverlapping(data.at(row * cols + k0), out.cast::<u8>(), 2 * n);
            }
            Matrix::Quantized(q) => {
                let p = q.words.as_ptr().add(row * q.row_bytes() + k0 * q.mode.bits() / 8);
                with_code!(q.mode.code(), C => codes_bf16::<S, C>(p, n, out));
            }
        }
    }
}
