//! AVX-512 (F, BW, VL, DQ): sixteen lanes, thirty-two registers; with `DOT` also products of bf16 pairs.

use super::{FP4, FP4_VALUES, FP8, Simd, avx2::Avx2, bits};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// The AVX-512 instruction set; `DOT` says that AVX512_BF16 is there too.
#[derive(Clone, Copy)]
pub struct Avx512<const DOT: bool>;

#[inline(always)]
const fn mask(n: usize) -> u16 {
    if n >= 16 { 0xffff } else { (1 << n) - 1 }
}

/// For four elements of `width` bits per 128-bit quarter: the two bytes of each element in a 32-bit lane, then its bit offset.
const fn spread_control(width: usize) -> ([u8; 64], [u32; 16]) {
    let (mut bytes, mut shifts) = ([0x80u8; 64], [0u32; 16]);
    let mut i = 0;
    while i < 16 {
        let bit = i * width;
        bytes[4 * i] = (bit / 8) as u8;
        if bit / 8 + 1 < 16 {
            bytes[4 * i + 1] = (bit / 8 + 1) as u8;
        }
        shifts[i] = (bit % 8) as u32;
        i += 1;
    }
    (bytes, shifts)
}
struct Spread<const W: usize>;
impl<const W: usize> Spread<W> {
    const CONTROL: ([u8; 64], [u32; 16]) = spread_control(W);
}

#[inline(always)]
unsafe fn lanes<const W: usize>(p: *const u8) -> __m512i {
    unsafe {
        if W == 8 {
            return _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        }
        let word = if W == 4 { _mm_loadl_epi64(p.cast()) } else { _mm_maskz_loadu_epi8(mask(2 * W), p.cast()) };
        let bytes = _mm512_loadu_si512(Spread::<W>::CONTROL.0.as_ptr().cast());
        let shifts = _mm512_loadu_si512(Spread::<W>::CONTROL.1.as_ptr().cast());
        let v = _mm512_srlv_epi32(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(word), bytes), shifts);
        _mm512_and_si512(v, _mm512_set1_epi32((1 << W) - 1))
    }
}

impl<const DOT: bool> Simd for Avx512<DOT> {
    type F = __m512;
    type I = __m512i;
    const N: usize = 16;
    const DOTS_BF16: bool = DOT;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::F {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())), 16)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::F {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::F) {
        unsafe {
            if DOT {
                let r = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                return _mm256_storeu_si256(p.cast(), r);
            }
            let b = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
            let r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), odd), 16);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let r = _mm512_mask_mov_epi32(r, nan, _mm512_set1_epi32(0x7fc0));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(r));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: Self::F) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn spread(p: *const f32, per: usize) -> Self::F {
        unsafe {
            match per {
                1 => _mm512_loadu_ps(p),
                2 => _mm512_permutexvar_ps(
                    _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                    _mm512_castps256_ps512(_mm256_loadu_ps(p)),
                ),
                4 => _mm512_permutexvar_ps(
                    _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                    _mm512_castps128_ps512(_mm_loadu_ps(p)),
                ),
                8 => _mm512_mask_mov_ps(_mm512_set1_ps(*p), 0xff00, _mm512_set1_ps(*p.add(1))),
                _ => _mm512_set1_ps(*p),
            }
        }
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, t: Self::F, f: Self::F) -> Self::F {
        unsafe { _mm512_mask_mov_ps(f, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), t) }
    }
    #[inline(always)]
    unsafe fn isplat(v: u32) -> Self::I {
        unsafe { _mm512_set1_epi32(v as i32) }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u32) -> Self::I {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn iload_n(p: *const u32, n: usize) -> Self::I {
        unsafe { _mm512_maskz_loadu_epi32(mask(n), p.cast()) }
    }
    #[inline(always)]
    unsafe fn iand(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn ishr(a: Self::I, by: u32) -> Self::I {
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(by as i32)) }
    }
    #[inline(always)]
    unsafe fn ishl(a: Self::I, by: u32) -> Self::I {
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(by as i32)) }
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn to_i(a: Self::F) -> Self::I {
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: Self::I) -> Self::F {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn fp4(a: Self::I) -> Self::F {
        unsafe { _mm512_permutexvar_ps(a, _mm512_loadu_ps(FP4_VALUES.as_ptr())) }
    }
    #[inline(always)]
    unsafe fn unpack<const CODE: u32>(p: *const u8) -> Self::F {
        unsafe {
            match CODE {
                2 => _mm512_cvtepi32_ps(lanes::<2>(p)),
                3 => _mm512_cvtepi32_ps(lanes::<3>(p)),
                4 => _mm512_cvtepi32_ps(lanes::<4>(p)),
                5 => _mm512_cvtepi32_ps(lanes::<5>(p)),
                6 => _mm512_cvtepi32_ps(lanes::<6>(p)),
                FP4 => Self::fp4(lanes::<4>(p)),
                FP8 => {
                    // as f16: the sign, a cleared bit, the magnitude seven bits up; 256 too small
                    let v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())), 7);
                    let v = _mm256_and_si256(v, _mm256_set1_epi16(0xbfff_u16 as i16));
                    _mm512_mul_ps(_mm512_cvtph_ps(v), _mm512_set1_ps(256.0))
                }
                _ => {
                    debug_assert!(bits(CODE) == 8);
                    _mm512_cvtepi32_ps(lanes::<8>(p))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const u32, ss: usize, dst: *mut u32, ds: usize) {
        unsafe { Avx2::transpose8(src, ss, dst, ds) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(acc: Self::F, a: Self::I, b: Self::I) -> Self::F {
        unsafe {
            if !DOT {
                return acc;
            }
            _mm512_dpbf16_ps(
                acc,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
    #[inline(always)]
    unsafe fn nibbles_to_bf16<const FLOAT: bool>(a: Self::I) -> Self::I {
        // sixteen values, twice: five bits of an index count, and the fifth belongs to the next nibble
        const fn table(float: bool) -> [u16; 32] {
            let mut t = [0u16; 32];
            let mut i = 0;
            while i < 32 {
                let v = if float { FP4_VALUES[i % 16] } else { (i % 16) as f32 };
                t[i] = (v.to_bits() >> 16) as u16;
                i += 1;
            }
            t
        }
        static INTEGERS: [u16; 32] = table(false);
        static FLOATS: [u16; 32] = table(true);
        let table = if FLOAT { &FLOATS } else { &INTEGERS };
        unsafe { _mm512_permutexvar_epi16(a, _mm512_loadu_si512(table.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn copy(src: *const u8, dst: *mut u8, n: usize) {
        unsafe {
            let mask = (1u64 << n) - 1;
            _mm512_mask_storeu_epi8(dst.cast(), mask, _mm512_maskz_loadu_epi8(mask, src.cast()))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
