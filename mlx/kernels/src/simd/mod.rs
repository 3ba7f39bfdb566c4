//! Vectors: the small set of operations that kernels are written over, one implementation per instruction set. Nothing here knows
//! what a kernel computes.
//!
//! Everything is `#[inline(always)]` and unsafe for one reason: the instruction set must be enabled in the function it ends up in,
//! which [`crate::isa::Isa::run`] sees to.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

use half::{bf16, f16};

/// Element codes: an integer of 2, 3, 4, 5, 6 or 8 bits, or one of the two small float formats.
pub const FP4: u32 = 14;
/// e4m3, bias 7; the pattern of NaN reads as 480, as in MLX.
pub const FP8: u32 = 18;
/// Bits per element of a code.
pub const fn bits(code: u32) -> usize {
    match code {
        FP4 => 4,
        FP8 => 8,
        n => n as usize,
    }
}

/// Values of the 16 patterns of e2m1.
pub const FP4_VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Values of the 256 patterns of e4m3.
pub static FP8_VALUES: [f32; 256] = {
    let mut t = [0f32; 256];
    let mut i = 0;
    while i < 256 {
        let (exponent, mantissa) = (i as u32 >> 3 & 15, (i as u32 & 7) as f32);
        let size = if exponent == 0 {
            mantissa * (1.0 / 512.0)
        } else {
            f32::from_bits((exponent + 120) << 23) * (1.0 + mantissa / 8.0)
        };
        t[i] = if i < 128 { size } else { -size };
        i += 1;
    }
    t
};

/// Read the `BITS` bytes that hold 8 elements of `BITS` bits, and no byte more.
///
/// # Safety
/// `BITS` bytes at `p` are readable.
#[inline(always)]
pub unsafe fn read_eight(bits: usize, p: *const u8) -> u64 {
    unsafe {
        let u16_at = |i: usize| u64::from((p.add(i) as *const u16).read_unaligned());
        let u32_at = |i: usize| u64::from((p.add(i) as *const u32).read_unaligned());
        match bits {
            2 => u16_at(0),
            3 => u16_at(0) | u64::from(*p.add(2)) << 16,
            4 => u32_at(0),
            5 => u32_at(0) | u64::from(*p.add(4)) << 32,
            6 => u32_at(0) | u16_at(4) << 32,
            _ => (p as *const u64).read_unaligned(),
        }
    }
}

/// Operations on one vector of `N` f32 lanes (`F`) or `N` 32-bit integer lanes (`I`).
///
/// # Safety
/// Every function needs the instruction set; loads and stores need their pointers valid for the lanes they touch.
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Copy + Send + Sync + 'static {
    type F: Copy;
    type I: Copy;
    /// Lanes: 8 or 16.
    const N: usize;
    /// There is an instruction for sums of bf16 products.
    const DOTS_BF16: bool = false;

    unsafe fn splat(v: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn load_bf16(p: *const bf16) -> Self::F;
    unsafe fn load_f16(p: *const f16) -> Self::F;
    unsafe fn store_bf16(p: *mut bf16, v: Self::F);
    unsafe fn store_f16(p: *mut f16, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn sum(a: Self::F) -> f32;
    unsafe fn max_lane(a: Self::F) -> f32;
    /// Lane l is `p[l / per]`; reads `N.div_ceil(per)` values.
    unsafe fn spread(p: *const f32, per: usize) -> Self::F;
    /// a < b ? t : f, lane by lane.
    unsafe fn if_less(a: Self::F, b: Self::F, t: Self::F, f: Self::F) -> Self::F;

    unsafe fn isplat(v: u32) -> Self::I;
    unsafe fn iload(p: *const u32) -> Self::I;
    /// The first `n < N` lanes from memory, the rest zero; nothing beyond is touched.
    unsafe fn iload_n(p: *const u32, n: usize) -> Self::I;
    unsafe fn iand(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn ishr(a: Self::I, by: u32) -> Self::I;
    unsafe fn ishl(a: Self::I, by: u32) -> Self::I;
    /// Signed integers to floats.
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// Floats to the nearest integers.
    unsafe fn to_i(a: Self::F) -> Self::I;
    /// The same bits as floats.
    unsafe fn as_f(a: Self::I) -> Self::F;

    /// The low four bits of each lane as e2m1; the other bits are ignored.
    unsafe fn fp4(a: Self::I) -> Self::F;
    /// `N` consecutive elements of a code, in order, as floats. `p` points at `N * bits / 8` readable bytes.
    unsafe fn unpack<const CODE: u32>(p: *const u8) -> Self::F;
    /// Transpose an 8 x 8 block of 32-bit words: row strides in words.
    unsafe fn transpose8(src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize);

    /// acc + products of bf16 pairs, only if `DOTS_BF16`.
    #[inline(always)]
    unsafe fn dot_bf16(acc: Self::F, _a: Self::I, _b: Self::I) -> Self::F {
        acc
    }
    /// The low four bits of each 16-bit lane as bf16 numbers, e2m1 if `FLOAT`; only if `DOTS_BF16`.
    #[inline(always)]
    unsafe fn nibbles_to_bf16<const FLOAT: bool>(a: Self::I) -> Self::I {
        a
    }
    /// Copy fewer bytes than a vector has.
    #[inline(always)]
    unsafe fn copy(src: *const u8, dst: *mut u8, n: usize) {
        for i in 0..n {
            unsafe { *dst.add(i) = *src.add(i) }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
}

/// An element type of memory; kernels are generic over it.
#[allow(clippy::missing_safety_doc)]
pub trait Elem: Copy + Send + Sync + 'static {
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F);
}

macro_rules! elem {
    ($t:ty, $load:ident, $store:ident) => {
        impl Elem for $t {
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const Self) -> S::F {
                unsafe { S::$load(p) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
                unsafe { S::$store(p, v) }
            }
        }
    };
}
elem!(f32, load, store);
elem!(bf16, load_bf16, store_bf16);
elem!(f16, load_f16, store_f16);

/// Call a generic function with the element type of a `DType`.
macro_rules! with_elem {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::data::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::data::DType::F16 => {
                type $t = half::f16;
                $body
            }
            $crate::data::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_elem;

/// The first `n <= N` elements, the rest zero; nothing beyond is touched.
#[inline(always)]
pub unsafe fn load_upto<S: Simd, T: Elem>(p: *const T, n: usize) -> S::F {
    unsafe {
        if n >= S::N {
            return T::load::<S>(p);
        }
        let mut t = [0u32; 16];
        S::copy(p.cast(), t.as_mut_ptr().cast(), n * size_of::<T>());
        T::load::<S>(t.as_ptr().cast())
    }
}

/// Store the first `n <= N` lanes.
#[inline(always)]
pub unsafe fn store_upto<S: Simd, T: Elem>(p: *mut T, n: usize, v: S::F) {
    unsafe {
        if n >= S::N {
            return T::store::<S>(p, v);
        }
        let mut t = [0u32; 16];
        let t = t.as_mut_ptr() as *mut T;
        T::store::<S>(t, v);
        S::copy(t.cast_const().cast(), p.cast(), n * size_of::<T>());
    }
}

/// Widen `n` elements into f32.
#[inline(always)]
pub unsafe fn widen_row<S: Simd, T: Elem>(src: *const T, dst: *mut f32, n: usize) {
    unsafe {
        let mut i = 0;
        while i + S::N <= n {
            S::store(dst.add(i), T::load::<S>(src.add(i)));
            i += S::N;
        }
        if i < n {
            store_upto::<S, f32>(dst.add(i), n - i, load_upto::<S, T>(src.add(i), n - i));
        }
    }
}

/// Narrow `n` floats to the element type.
#[inline(always)]
pub unsafe fn narrow_row<S: Simd, T: Elem>(src: *const f32, dst: *mut T, n: usize) {
    unsafe {
        let mut i = 0;
        while i + S::N <= n {
            T::store::<S>(dst.add(i), S::load(src.add(i)));
            i += S::N;
        }
        if i < n {
            store_upto::<S, T>(dst.add(i), n - i, load_upto::<S, f32>(src.add(i), n - i));
        }
    }
}

/// a += b over `n` floats.
#[inline(always)]
pub unsafe fn add_row<S: Simd>(a: *mut f32, b: *const f32, n: usize) {
    unsafe {
        let mut i = 0;
        while i + S::N <= n {
            S::store(a.add(i), S::add(S::load(a.add(i)), S::load(b.add(i))));
            i += S::N;
        }
        while i < n {
            *a.add(i) += *b.add(i);
            i += 1;
        }
    }
}

/// a += b over `n` elements of any type.
#[inline(always)]
pub unsafe fn add_elems<S: Simd, T: Elem>(a: *mut f32, b: *const T, n: usize) {
    unsafe {
        let mut i = 0;
        while i < n {
            let sum = S::add(load_upto::<S, f32>(a.add(i), n - i), load_upto::<S, T>(b.add(i), n - i));
            store_upto::<S, f32>(a.add(i), n - i, sum);
            i += S::N;
        }
    }
}

/// e^x to about 1 ulp; 0 below -87.3 (also for minus infinity), e^88.3 above.
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    unsafe {
        let low = S::splat(-87.3);
        let top = S::splat(88.3);
        let c = S::if_less(x, low, low, S::if_less(top, x, top, x));
        let n = S::to_i(S::mul(c, S::splat(std::f32::consts::LOG2_E)));
        let f = S::to_f(n);
        // ln 2 in two parts
        let r = S::fma(f, S::splat(-0.693_359_4), c);
        let r = S::fma(f, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for k in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
            p = S::fma(p, r, S::splat(k));
        }
        let p = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        let scale = S::as_f(S::ishl(S::iadd(n, S::isplat(127)), 23));
        S::if_less(x, low, S::splat(0.0), S::mul(p, scale))
    }
}

/// Transpose `rows x cols` 32-bit words from row stride `ss` to column-major with stride `ds`: `dst[c * ds + r] = src[r * ss + c]`.
/// `rows` and `cols` are multiples of 8.
#[inline(always)]
pub unsafe fn transpose<S: Simd>(src: *const u32, ss: usize, dst: *mut u32, ds: usize, rows: usize, cols: usize) {
    unsafe {
        let mut c = 0;
        while c < cols {
            let mut r = 0;
            while r < rows {
                S::transpose8(src.add(r * ss + c), ss, dst.add(c * ds + r), ds);
                r += 8;
            }
            c += 8;
        }
    }
}
