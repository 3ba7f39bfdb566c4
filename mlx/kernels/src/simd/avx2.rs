//! AVX2 with FMA and F16C: eight lanes, sixteen registers.

use super::{FP4, FP8, Simd, bits, read_eight};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// The AVX2 + FMA + F16C instruction set.
#[derive(Clone, Copy)]
pub struct Avx2;

/// Lane masks: `MASKS[8 - n..]` starts with n ones.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast()) }
}

/// For 8 elements of `width` bits replicated in both halves: the two bytes of each element in a 32-bit lane, then its bit offset.
const fn spread_control(width: usize) -> ([u8; 32], [u32; 8]) {
    let (mut bytes, mut shifts) = ([0x80u8; 32], [0u32; 8]);
    let mut i = 0;
    while i < 8 {
        let bit = i * width;
        bytes[4 * i] = (bit / 8) as u8;
        if bit / 8 + 1 < 8 {
            bytes[4 * i + 1] = (bit / 8 + 1) as u8;
        }
        shifts[i] = (bit % 8) as u32;
        i += 1;
    }
    (bytes, shifts)
}
struct Spread<const W: usize>;
impl<const W: usize> Spread<W> {
    const CONTROL: ([u8; 32], [u32; 8]) = spread_control(W);
}

#[inline(always)]
unsafe fn lanes<const W: usize>(p: *const u8) -> __m256i {
    unsafe {
        if W == 8 {
            return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
        }
        let word = _mm256_set1_epi64x(read_eight(W, p) as i64);
        let bytes = _mm256_loadu_si256(Spread::<W>::CONTROL.0.as_ptr().cast());
        let shifts = _mm256_loadu_si256(Spread::<W>::CONTROL.1.as_ptr().cast());
        let v = _mm256_srlv_epi32(_mm256_shuffle_epi8(word, bytes), shifts);
        _mm256_and_si256(v, _mm256_set1_epi32((1 << W) - 1))
    }
}

impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        unsafe { _mm256_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::F {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), 16)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::F {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::F) {
        unsafe {
            let b = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
            let r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32(0x7fff)), odd), 16);
            let nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
            let r = _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), nan);
            let packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0b1000);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: Self::F) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        unsafe {
            let t = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let t = _mm_add_ps(t, _mm_movehl_ps(t, t));
            _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        unsafe {
            let t = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let t = _mm_max_ps(t, _mm_movehl_ps(t, t));
            _mm_cvtss_f32(_mm_max_ss(t, _mm_shuffle_ps(t, t, 1)))
        }
    }
    #[inline(always)]
    unsafe fn spread(p: *const f32, per: usize) -> Self::F {
        unsafe {
            match per {
                1 => _mm256_loadu_ps(p),
                2 => {
                    let v = _mm256_broadcast_ps(&(p as *const __m128).read_unaligned());
                    _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
                }
                4 => _mm256_set_m128(_mm_set1_ps(*p.add(1)), _mm_set1_ps(*p)),
                _ => _mm256_set1_ps(*p),
            }
        }
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, t: Self::F, f: Self::F) -> Self::F {
        unsafe { _mm256_blendv_ps(f, t, _mm256_cmp_ps(a, b, _CMP_LT_OQ)) }
    }
    #[inline(always)]
    unsafe fn isplat(v: u32) -> Self::I {
        unsafe { _mm256_set1_epi32(v as i32) }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u32) -> Self::I {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn iload_n(p: *const u32, n: usize) -> Self::I {
        unsafe { _mm256_maskload_epi32(p.cast(), mask(n)) }
    }
    #[inline(always)]
    unsafe fn iand(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn ishr(a: Self::I, by: u32) -> Self::I {
        unsafe { _mm256_srlv_epi32(a, _mm256_set1_epi32(by as i32)) }
    }
    #[inline(always)]
    unsafe fn ishl(a: Self::I, by: u32) -> Self::I {
        unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(by as i32)) }
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn to_i(a: Self::F) -> Self::I {
        unsafe { _mm256_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: Self::I) -> Self::F {
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    unsafe fn fp4(a: Self::I) -> Self::F {
        unsafe {
            let size = _mm256_permutevar8x32_ps(_mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), a);
            let sign = _mm256_slli_epi32(_mm256_srli_epi32(a, 3), 31);
            _mm256_or_ps(size, _mm256_castsi256_ps(sign))
        }
    }
    #[inline(always)]
    unsafe fn unpack<const CODE: u32>(p: *const u8) -> Self::F {
        unsafe {
            match CODE {
                2 => _mm256_cvtepi32_ps(lanes::<2>(p)),
                3 => _mm256_cvtepi32_ps(lanes::<3>(p)),
                4 => _mm256_cvtepi32_ps(lanes::<4>(p)),
                5 => _mm256_cvtepi32_ps(lanes::<5>(p)),
                6 => _mm256_cvtepi32_ps(lanes::<6>(p)),
                FP4 => Self::fp4(lanes::<4>(p)),
                FP8 => {
                    // as f16: the sign, a cleared bit, the magnitude seven bits up; 256 too small
                    let v = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(p.cast())), 7);
                    let v = _mm_and_si128(v, _mm_set1_epi16(0xbfff_u16 as i16));
                    _mm256_mul_ps(_mm256_cvtph_ps(v), _mm256_set1_ps(256.0))
                }
                _ => {
                    debug_assert!(bits(CODE) == 8);
                    _mm256_cvtepi32_ps(lanes::<8>(p))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const u32, ss: usize, dst: *mut u32, ds: usize) {
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(src.add(i * ss).cast());
            }
            // pairs of rows, then fours, then halves
            let mut a = [_mm256_setzero_ps(); 8];
            for i in 0..4 {
                a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let b = [
                _mm256_shuffle_ps::<0x44>(a[0], a[2]),
                _mm256_shuffle_ps::<0xee>(a[0], a[2]),
                _mm256_shuffle_ps::<0x44>(a[1], a[3]),
                _mm256_shuffle_ps::<0xee>(a[1], a[3]),
                _mm256_shuffle_ps::<0x44>(a[4], a[6]),
                _mm256_shuffle_ps::<0xee>(a[4], a[6]),
                _mm256_shuffle_ps::<0x44>(a[5], a[7]),
                _mm256_shuffle_ps::<0xee>(a[5], a[7]),
            ];
            for i in 0..4 {
                _mm256_storeu_ps(dst.add(i * ds).cast(), _mm256_permute2f128_ps::<0x20>(b[i], b[i + 4]));
                _mm256_storeu_ps(dst.add((i + 4) * ds).cast(), _mm256_permute2f128_ps::<0x31>(b[i], b[i + 4]));
            }
        }
    }
    #[inline(always)]
    unsafe fn copy(src: *const u8, dst: *mut u8, n: usize) {
        unsafe {
            // every element has two or four bytes
            for i in (0..n).step_by(2) {
                (dst.add(i) as *mut u16).write_unaligned((src.add(i) as *const u16).read_unaligned());
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
