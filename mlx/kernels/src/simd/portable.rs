//! Vectors of eight lanes as arrays: runs anywhere, and the compiler makes of it what the baseline allows.

use super::{FP4, FP4_VALUES, FP8, FP8_VALUES, Simd, bits, read_eight};
use half::{bf16, f16};
use std::array::from_fn;

/// The portable instruction set.
#[derive(Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    type F = [f32; 8];
    type I = [u32; 8];
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        [v; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { (p as *const [f32; 8]).read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe { (p as *mut [f32; 8]).write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::F {
        let v = unsafe { (p as *const [u16; 8]).read_unaligned() };
        v.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::F {
        let v = unsafe { (p as *const [u16; 8]).read_unaligned() };
        v.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::F) {
        unsafe { (p as *mut [u16; 8]).write_unaligned(v.map(|x| bf16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: Self::F) {
        unsafe { (p as *mut [u16; 8]).write_unaligned(v.map(|x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // not mul_add: without the instruction it is a library call
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn spread(p: *const f32, per: usize) -> Self::F {
        from_fn(|i| unsafe { p.add(i / per).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, t: Self::F, f: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { t[i] } else { f[i] })
    }
    #[inline(always)]
    unsafe fn isplat(v: u32) -> Self::I {
        [v; 8]
    }
    #[inline(always)]
    unsafe fn iload(p: *const u32) -> Self::I {
        unsafe { (p as *const [u32; 8]).read_unaligned() }
    }
    #[inline(always)]
    unsafe fn iload_n(p: *const u32, n: usize) -> Self::I {
        from_fn(|i| if i < n { unsafe { p.add(i).read_unaligned() } } else { 0 })
    }
    #[inline(always)]
    unsafe fn iand(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn ishr(a: Self::I, by: u32) -> Self::I {
        a.map(|v| v >> by)
    }
    #[inline(always)]
    unsafe fn ishl(a: Self::I, by: u32) -> Self::I {
        a.map(|v| v << by)
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        a.map(|v| v as i32 as f32)
    }
    #[inline(always)]
    unsafe fn to_i(a: Self::F) -> Self::I {
        a.map(|v| v.round_ties_even() as i32 as u32)
    }
    #[inline(always)]
    unsafe fn as_f(a: Self::I) -> Self::F {
        a.map(f32::from_bits)
    }
    #[inline(always)]
    unsafe fn fp4(a: Self::I) -> Self::F {
        a.map(|v| FP4_VALUES[v as usize & 15])
    }
    #[inline(always)]
    unsafe fn unpack<const CODE: u32>(p: *const u8) -> Self::F {
        let width = bits(CODE);
        let word = unsafe { read_eight(width, p) };
        from_fn(|i| {
            let v = (word >> (width * i)) & ((1 << width) - 1);
            match CODE {
                FP4 => FP4_VALUES[v as usize & 15],
                FP8 => FP8_VALUES[v as usize & 255],
                _ => v as f32,
            }
        })
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
        for r in 0..8 {
            for c in 0..8 {
                unsafe { *dst.add(c * dst_stride + r) = *src.add(r * src_stride + c) }
            }
        }
    }
}
