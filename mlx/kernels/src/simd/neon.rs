//! NEON: eight lanes as two quarters of four. f16 goes through the portable conversion, since its intrinsics are not stable.

use super::{FP4, FP8, Simd, portable::Portable};
use half::{bf16, f16};
use std::arch::aarch64::*;

/// The NEON instruction set.
#[derive(Clone, Copy)]
pub struct Neon;

impl Simd for Neon {
    type F = [float32x4_t; 2];
    type I = [uint32x4_t; 2];
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        unsafe { [vdupq_n_f32(v); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // byte loads: memory may be unaligned
        unsafe {
            let p = p as *const u8;
            [vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p.add(16)))]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe {
            let p = p as *mut u8;
            vst1q_u8(p, vreinterpretq_u8_f32(v[0]));
            vst1q_u8(p.add(16), vreinterpretq_u8_f32(v[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::F {
        unsafe {
            let v = vreinterpretq_u16_u8(vld1q_u8(p as *const u8));
            let low = vshll_n_u16::<16>(vget_low_u16(v));
            let high = vshll_n_u16::<16>(vget_high_u16(v));
            [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::F {
        unsafe { Self::load(Portable::load_f16(p).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::F) {
        unsafe {
            let mut half = [vdup_n_u16(0); 2];
            for i in 0..2 {
                let b = vreinterpretq_u32_f32(v[i]);
                let odd = vandq_u32(vshrq_n_u32::<16>(b), vdupq_n_u32(1));
                let r = vaddq_u32(vaddq_u32(b, vdupq_n_u32(0x7fff)), odd);
                let number = vceqq_f32(v[i], v[i]);
                half[i] = vshrn_n_u32::<16>(vbslq_u32(number, r, vdupq_n_u32(0x7fc0_0000)));
            }
            vst1q_u8(p as *mut u8, vreinterpretq_u8_u16(vcombine_u16(half[0], half[1])));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: Self::F) {
        unsafe {
            let mut t = [0f32; 8];
            Self::store(t.as_mut_ptr(), v);
            Portable::store_f16(p, t)
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [vmaxq_f32(a[0], b[0]), vmaxq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        unsafe { vaddvq_f32(vaddq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn spread(p: *const f32, per: usize) -> Self::F {
        unsafe {
            match per {
                4 => [vdupq_n_f32(p.read_unaligned()), vdupq_n_f32(p.add(1).read_unaligned())],
                n if n >= 8 => Self::splat(p.read_unaligned()),
                n => Self::load(Portable::spread(p, n).as_ptr()),
            }
        }
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, t: Self::F, f: Self::F) -> Self::F {
        unsafe { [vbslq_f32(vcltq_f32(a[0], b[0]), t[0], f[0]), vbslq_f32(vcltq_f32(a[1], b[1]), t[1], f[1])] }
    }
    #[inline(always)]
    unsafe fn isplat(v: u32) -> Self::I {
        unsafe { [vdupq_n_u32(v); 2] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u32) -> Self::I {
        unsafe {
            let p = p as *const u8;
            [vreinterpretq_u32_u8(vld1q_u8(p)), vreinterpretq_u32_u8(vld1q_u8(p.add(16)))]
        }
    }
    #[inline(always)]
    unsafe fn iload_n(p: *const u32, n: usize) -> Self::I {
        unsafe { Self::iload(Portable::iload_n(p, n).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn iand(a: Self::I, b: Self::I) -> Self::I {
        unsafe { [vandq_u32(a[0], b[0]), vandq_u32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        unsafe { [vaddq_u32(a[0], b[0]), vaddq_u32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn ishr(a: Self::I, by: u32) -> Self::I {
        unsafe {
            let by = vdupq_n_s32(-(by as i32));
            [vshlq_u32(a[0], by), vshlq_u32(a[1], by)]
        }
    }
    #[inline(always)]
    unsafe fn ishl(a: Self::I, by: u32) -> Self::I {
        unsafe {
            let by = vdupq_n_s32(by as i32);
            [vshlq_u32(a[0], by), vshlq_u32(a[1], by)]
        }
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        unsafe { [vcvtq_f32_s32(vreinterpretq_s32_u32(a[0])), vcvtq_f32_s32(vreinterpretq_s32_u32(a[1]))] }
    }
    #[inline(always)]
    unsafe fn to_i(a: Self::F) -> Self::I {
        unsafe { [vreinterpretq_u32_s32(vcvtnq_s32_f32(a[0])), vreinterpretq_u32_s32(vcvtnq_s32_f32(a[1]))] }
    }
    #[inline(always)]
    unsafe fn as_f(a: Self::I) -> Self::F {
        unsafe { [vreinterpretq_f32_u32(a[0]), vreinterpretq_f32_u32(a[1])] }
    }
    #[inline(always)]
    unsafe fn fp4(a: Self::I) -> Self::F {
        unsafe {
            let mut t = [0u32; 8];
            vst1q_u32(t.as_mut_ptr(), a[0]);
            vst1q_u32(t.as_mut_ptr().add(4), a[1]);
            Self::load(Portable::fp4(t).as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn unpack<const CODE: u32>(p: *const u8) -> Self::F {
        unsafe {
            match CODE {
                4 => {
                    let v = vdupq_n_u32((p as *const u32).read_unaligned());
                    let shift: [[i32; 4]; 2] = [[0, -4, -8, -12], [-16, -20, -24, -28]];
                    let mut f = Self::splat(0.0);
                    for i in 0..2 {
                        let q = vshlq_u32(v, vld1q_s32(shift[i].as_ptr()));
                        f[i] = vcvtq_f32_u32(vandq_u32(q, vdupq_n_u32(15)));
                    }
                    f
                }
                2 | 3 | 5 | 6 | FP4 | FP8 => Self::load(Portable::unpack::<CODE>(p).as_ptr()),
                _ => {
                    let v = vmovl_u8(vld1_u8(p));
                    [vcvtq_f32_u32(vmovl_u16(vget_low_u16(v))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(v)))]
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
        unsafe {
            for (r, c) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
                let mut v = [vdupq_n_u32(0); 4];
                for i in 0..4 {
                    v[i] = vld1q_u32(src.add((r + i) * src_stride + c));
                }
                let (a, b) = (vtrnq_u32(v[0], v[1]), vtrnq_u32(v[2], v[3]));
                let rows = [
                    vcombine_u32(vget_low_u32(a.0), vget_low_u32(b.0)),
                    vcombine_u32(vget_low_u32(a.1), vget_low_u32(b.1)),
                    vcombine_u32(vget_high_u32(a.0), vget_high_u32(b.0)),
                    vcombine_u32(vget_high_u32(a.1), vget_high_u32(b.1)),
                ];
                for i in 0..4 {
                    vst1q_u32(dst.add((c + i) * dst_stride + r), rows[i]);
                }
            }
        }
    }
}
