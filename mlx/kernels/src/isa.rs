//! Instruction sets: which exist, which this processor has, and the one door through which a kernel is entered with its
//! instruction set enabled.

use crate::simd::{Simd, portable::Portable};
use std::fmt;
use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Level {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 with bf16 and AMX tiles of bf16.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
}

/// An instruction set that this processor is known to have. Only [`Isa::best`] and [`Isa::available`] make one, so holding a value
/// proves that its instructions may run.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Level);

impl Isa {
    /// The fastest instruction set here; what every public kernel uses unless told otherwise.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().last().copied().unwrap_or(Isa(Level::Portable)))
    }
    /// All instruction sets of this processor, slowest first. The first is the portable form, which needs nothing.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut all = vec![Isa(Level::Portable)];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Isa(Level::Neon));
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                all.push(Isa(Level::Avx2));
                if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
                    all.push(Isa(Level::Avx512));
                    if has!("avx512bf16") {
                        all.push(Isa(Level::Avx512Bf16));
                        #[cfg(target_os = "linux")]
                        if crate::tiles::tile::available() {
                            all.push(Isa(Level::Amx));
                        }
                    }
                }
            }
        }
        all
    }
    /// Name for reports: `portable`, `neon`, `avx2`, `avx512`, `avx512bf16`, `amx`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512bf16",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Level::Amx => "amx",
        }
    }
    /// True if products of bf16 pairs have an instruction.
    pub(crate) fn dots_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Level::Avx512Bf16 || self.has_tiles();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
    /// True if there are bf16 tiles.
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        return self.0 == Level::Amx;
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        false
    }
    /// True if there are 32 vector registers: tiles are chosen by this.
    pub(crate) fn many_registers(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Level::Avx512 | Level::Avx512Bf16) || self.has_tiles();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
    /// f32 lanes per vector.
    pub(crate) fn lanes(self) -> usize {
        if self.many_registers() { 16 } else { 8 }
    }
    /// Run a kernel with this instruction set.
    ///
    /// # Safety
    /// The kernel's own contract (pointers and sizes).
    pub(crate) unsafe fn run<K: Kernel>(self, kernel: K) -> K::Out {
        unsafe {
            match self.0 {
                Level::Portable => kernel.run::<Portable>(),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => aarch64::neon(kernel),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => x86::avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => x86::avx512(kernel),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16 => x86::avx512bf16(kernel),
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                Level::Amx => x86::avx512bf16(kernel),
            }
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A computation written once over [`Simd`]. `run` must be `#[inline(always)]`, and so must everything generic that it calls, so
/// that intrinsics end up inside a function that enables their instruction set.
pub(crate) trait Kernel {
    type Out;
    /// It makes use of bf16 dot products, so it is worth compiling for them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const DOTS_BF16: bool = false;
    /// # Safety
    /// The fields' contract, and the instruction set of `S` must be there.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Kernel;
    use crate::simd::{avx2::Avx2, avx512::Avx512};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn avx2<K: Kernel>(k: K) -> K::Out {
        unsafe { k.run::<Avx2>() }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn avx512<K: Kernel>(k: K) -> K::Out {
        unsafe { k.run::<Avx512<false>>() }
    }
    /// A kernel that has no use for the dot product is not compiled a second time.
    pub unsafe fn avx512bf16<K: Kernel>(k: K) -> K::Out {
        if const { K::DOTS_BF16 } { unsafe { with_dots(k) } } else { unsafe { avx512(k) } }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn with_dots<K: Kernel>(k: K) -> K::Out {
        unsafe { k.run::<Avx512<true>>() }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::Kernel;
    use crate::simd::neon::Neon;

    #[target_feature(enable = "neon")]
    pub unsafe fn neon<K: Kernel>(k: K) -> K::Out {
        unsafe { k.run::<Neon>() }
    }
}
