//! Devices: which exist, which is the default, what they say about themselves.

use crate::error::{Error, Result};
use crate::ffi;
use mlx_sys as sys;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

/// Where an op runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    Cpu,
    /// The GPU with this index: Metal on macOS, CUDA on Linux.
    Gpu(u32),
}

/// One fact of a device: `device_name`, `architecture`, `memory_size`, ...
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFact {
    Text(String),
    Size(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
            Device::Gpu(i) => write!(f, "gpu:{i}"),
        }
    }
}

/// An owned C device handle.
pub(crate) struct Handle(pub sys::mlx_device);

impl Handle {
    pub fn new(device: Device) -> Self {
        ffi::init();
        let (kind, index) = match device {
            Device::Cpu => (sys::MLX_CPU, 0),
            Device::Gpu(i) => (sys::MLX_GPU, i as i32),
        };
        // SAFETY: both type values are valid
        Handle(unsafe { sys::mlx_device_new_type(kind, index) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: owned handle
        unsafe { sys::mlx_device_free(self.0) };
    }
}

impl Device {
    /// The device that ops run on unless [`with_device`](crate::with_device) says otherwise: the GPU when there is one.
    pub fn default_device() -> Device {
        let mut h = Handle(sys::mlx_device { ctx: std::ptr::null_mut() });
        ffi::init();
        let (mut kind, mut index) = (sys::MLX_CPU, 0);
        // SAFETY: out-pointers are valid; C fills the handle
        unsafe {
            sys::mlx_get_default_device(&mut h.0);
            sys::mlx_device_get_type(&mut kind, h.0);
            sys::mlx_device_get_index(&mut index, h.0);
        }
        if kind == sys::MLX_GPU { Device::Gpu(index.max(0) as u32) } else { Device::Cpu }
    }

    pub fn is_available(self) -> bool {
        let mut available = false;
        // SAFETY: valid handle and out-pointer
        let rc = unsafe { sys::mlx_device_is_available(&mut available, Handle::new(self).0) };
        ffi::check(rc, Error::Unavailable).is_ok() && available
    }

    /// Number of GPUs.
    pub fn gpu_count() -> usize {
        ffi::init();
        let mut n = 0;
        // SAFETY: valid type value and out-pointer
        let rc = unsafe { sys::mlx_device_count(&mut n, sys::MLX_GPU) };
        if ffi::check(rc, Error::Unavailable).is_ok() { n.max(0) as usize } else { 0 }
    }

    /// What the backend reports about the device (`mx.device_info`).
    pub fn info(self) -> Result<BTreeMap<String, DeviceFact>> {
        if !self.is_available() {
            return Err(Error::Unavailable(format!("no device {self}")));
        }
        let device = Handle::new(self);
        let mut facts = BTreeMap::new();
        // SAFETY: handles are created and freed here; strings are copied while the info lives
        unsafe {
            let mut info = sys::mlx_device_info_new();
            let rc = sys::mlx_device_info_get(&mut info, device.0);
            let result = ffi::check(rc, Error::Unavailable);
            if result.is_ok() {
                let mut keys = sys::mlx_vector_string_new();
                sys::mlx_device_info_get_keys(&mut keys, info);
                for i in 0..sys::mlx_vector_string_size(keys) {
                    let mut key = std::ptr::null_mut();
                    if sys::mlx_vector_string_get(&mut key, keys, i) != 0 || key.is_null() {
                        continue;
                    }
                    let name = CStr::from_ptr(key).to_string_lossy().into_owned();
                    let c = CString::new(name.as_str()).unwrap_or_default();
                    let mut is_string = false;
                    sys::mlx_device_info_is_string(&mut is_string, info, c.as_ptr());
                    if is_string {
                        let mut text = std::ptr::null();
                        if sys::mlx_device_info_get_string(&mut text, info, c.as_ptr()) == 0 && !text.is_null() {
                            let text = CStr::from_ptr(text).to_string_lossy().into_owned();
                            facts.insert(name, DeviceFact::Text(text));
                        }
                    } else {
                        let mut size = 0;
                        if sys::mlx_device_info_get_size(&mut size, info, c.as_ptr()) == 0 {
                            facts.insert(name, DeviceFact::Size(size));
                        }
                    }
                }
                sys::mlx_vector_string_free(keys);
            }
            sys::mlx_device_info_free(info);
            result.map(|()| facts)
        }
    }
}

/// Whether this process runs MLX's Metal backend.
pub fn metal_is_available() -> bool {
    let mut res = false;
    // SAFETY: valid out-pointer
    unsafe { sys::mlx_metal_is_available(&mut res) };
    res
}

/// Whether this process runs MLX's CUDA backend.
pub fn cuda_is_available() -> bool {
    let mut res = false;
    // SAFETY: valid out-pointer
    unsafe { sys::mlx_cuda_is_available(&mut res) };
    res
}
