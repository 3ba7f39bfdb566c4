//! NVIDIA's run-time compiler and the driver, looked up in the process when they are first needed: a build without
//! CUDA names neither, and MLX's CUDA library has loaded both.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::ffi::CString;
use std::sync::OnceLock;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;

/// A function of a library. The caller names the right type.
///
/// # Safety
/// `F` is the C type of the symbol.
unsafe fn symbol<F: Copy>(library: *mut c_void, name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: a valid library handle and name
    let p = unsafe { dlsym(library, name.as_ptr()) };
    // SAFETY: by contract; function pointers are as large as data pointers
    (!p.is_null()).then(|| unsafe { std::mem::transmute_copy(&p) })
}

fn library(names: &[&CStr]) -> Option<*mut c_void> {
    // SAFETY: valid names; initialisers of these libraries are NVIDIA's
    let found = names.iter().map(|n| unsafe { dlopen(n.as_ptr(), RTLD_NOW) }).find(|h| !h.is_null());
    found.filter(|_| cfg!(target_os = "linux"))
}

type Program = *mut c_void;

/// The compiler's functions.
struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

fn nvrtc() -> Option<&'static Nvrtc> {
    static LIBRARY: OnceLock<Option<Nvrtc>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            let l = library(&[c"libnvrtc.so.13", c"libnvrtc.so.12", c"libnvrtc.so"])?;
            // SAFETY: the types are those of nvrtc.h
            unsafe {
                Some(Nvrtc {
                    version: symbol(l, c"nvrtcVersion")?,
                    create: symbol(l, c"nvrtcCreateProgram")?,
                    destroy: symbol(l, c"nvrtcDestroyProgram")?,
                    compile: symbol(l, c"nvrtcCompileProgram")?,
                    log_size: symbol(l, c"nvrtcGetProgramLogSize")?,
                    log: symbol(l, c"nvrtcGetProgramLog")?,
                    cubin_size: symbol(l, c"nvrtcGetCUBINSize")?,
                    cubin: symbol(l, c"nvrtcGetCUBIN")?,
                })
            }
        })
        .as_ref()
}

/// Version of the compiler, if there is one.
pub fn nvrtc_version() -> Option<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: valid out-pointers
    (unsafe { (nvrtc()?.version)(&mut major, &mut minor) } == 0).then_some((major, minor))
}

/// Machine code of CUDA C++ `source` for `arch` (`sm_90a`); no headers are available to it.
///
/// # Errors
/// The compiler's messages, or that there is no compiler.
pub fn nvrtc_compile(source: &str, arch: &str) -> Result<Vec<u8>, String> {
    let n = nvrtc().ok_or("libnvrtc was not found")?;
    let text = |s: &str| CString::new(s).map_err(|_| "NUL in CUDA source".to_string());
    let (source, arch) = (text(source)?, text(&format!("--gpu-architecture={arch}"))?);
    let options = [arch.as_ptr(), c"--std=c++17".as_ptr()];
    let mut program: Program = std::ptr::null_mut();
    let (mut size, mut code) = (0usize, Vec::new());
    // SAFETY: strings live through the calls, buffers have the sizes that the library asked for
    unsafe {
        let none = std::ptr::null();
        if (n.create)(&mut program, source.as_ptr(), c"kernel.cu".as_ptr(), 0, none, none) != 0 {
            return Err("nvrtcCreateProgram failed".into());
        }
        let rc = (n.compile)(program, options.len() as c_int, options.as_ptr());
        let result = if rc == 0 && (n.cubin_size)(program, &mut size) == 0 && size > 0 {
            code.resize(size, 0);
            if (n.cubin)(program, code.as_mut_ptr().cast()) == 0 { Ok(()) } else { Err("no machine code".to_string()) }
        } else {
            (n.log_size)(program, &mut size);
            let mut log = vec![0u8; size + 1];
            (n.log)(program, log.as_mut_ptr().cast());
            Err(String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_string())
        };
        (n.destroy)(&mut program);
        result.map(|()| code)
    }
}

/// Number of multiprocessors of a CUDA device.
pub fn cuda_multiprocessors(device: i32) -> Option<u32> {
    const MULTIPROCESSOR_COUNT: c_int = 16;
    type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
    let l = library(&[c"libcuda.so.1", c"libcuda.so"])?;
    let mut count = 0;
    // SAFETY: the type is that of cuda.h; valid out-pointer
    let rc = unsafe { symbol::<Attribute>(l, c"cuDeviceGetAttribute")?(&mut count, MULTIPROCESSOR_COUNT, device) };
    (rc == 0 && count > 0).then_some(count as u32)
}
