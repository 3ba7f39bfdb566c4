//! Our CUDA kernels: sources (`*.cuh`), compilation with a disk cache, and the launch through MLX's graph.
//!
//! A kernel is compiled once per specialisation and card (`build`), handed to MLX as machine code, and launched as a
//! node of its graph. What the kernels compute is documented in their sources; the safe functions above them, with the
//! plain form beside each, are in `linear` and `decode`.

pub(crate) mod adam;
pub(crate) mod attention;
mod build;
pub(crate) mod experts;
pub(crate) mod gemv;
mod kernel;
pub(crate) mod latent;
pub(crate) mod layers;
pub(crate) mod low_rank;
pub(crate) mod products;
pub(crate) mod recurrent;

use kernel::Kernel;

use crate::{Device, Dtype, stream};
use mlx_sys as sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::OnceLock;

pub(super) const COMMON: &str = include_str!("common.cuh");
pub(super) const FORMATS: &str = include_str!("formats.cuh");
pub(super) const GEMV: &str = include_str!("gemv.cuh");
pub(super) const ATTENTION: &str = include_str!("attention.cuh");
pub(super) const EXPERTS: &str = include_str!("experts.cuh");
pub(super) const LOW_RANK: &str = include_str!("low_rank.cuh");
pub(super) const ADAM: &str = include_str!("adam.cuh");
pub(super) const EMBED: &str = include_str!("embed.cuh");
pub(super) const SHARED: &str = include_str!("shared.cuh");
pub(super) const LATENT: &str = include_str!("latent.cuh");
pub(super) const RECURRENT: &str = include_str!("recurrent.cuh");
pub(super) const LAYERS: &str = include_str!("layers.cuh");

/// The card that kernels are compiled for.
#[derive(Debug)]
pub(crate) struct Gpu {
    /// `sm_90a`
    pub arch: String,
    pub multiprocessors: i32,
}

/// The card, if this process has one whose kernels we can compile: compute capability 8.0 or newer, NVRTC at hand.
pub(crate) fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| {
        if !crate::cuda_is_available() {
            return None;
        }
        sys::nvrtc_version()?;
        let info = Device::Gpu(0).info().ok()?;
        let size = |key: &str| match info.get(key)? {
            crate::DeviceFact::Size(n) => Some(*n),
            crate::DeviceFact::Text(_) => None,
        };
        let (major, minor) = (size("compute_capability_major")?, size("compute_capability_minor")?);
        let suffix = if major >= 9 { "a" } else { "" };
        (major >= 8).then_some(())?;
        let multiprocessors = sys::cuda_multiprocessors(0)? as i32;
        Some(Gpu { arch: format!("sm_{major}{minor}{suffix}"), multiprocessors })
    })
    .as_ref()
}

/// As [`gpu`], if ops of this thread go to it at present.
pub(crate) fn current_gpu() -> Option<&'static Gpu> {
    // streams live as long as the process: what was found for one handle stays true
    thread_local! { static LAST: Cell<(usize, bool)> = const { Cell::new((0, false)) }; }
    let gpu = gpu()?;
    let s = stream::current();
    let key = s.ctx as usize;
    let (last, mut on_gpu) = LAST.get();
    if key != last {
        let mut device = sys::mlx_device { ctx: std::ptr::null_mut() };
        let mut kind = sys::MLX_CPU;
        // SAFETY: valid stream handle and out-pointers; the device handle is freed
        unsafe {
            sys::mlx_stream_get_device(&mut device, s);
            sys::mlx_device_get_type(&mut kind, device);
            sys::mlx_device_free(device);
        }
        on_gpu = kind == sys::MLX_GPU;
        LAST.set((key, on_gpu));
    }
    on_gpu.then_some(gpu)
}

/// Whether arrays of this dtype are what the kernels compute with.
pub(crate) fn is_half(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Bfloat16 | Dtype::Float16)
}

/// A kernel's specialisation: everything that its machine code depends on.
pub(crate) trait Spec: std::hash::Hash + Eq + Copy + 'static {
    /// A C identifier, unique among all specialisations.
    fn name(&self) -> String;
    /// The whole source; its entry is `extern "C"` under this name.
    fn source(&self, name: &str) -> String;
}

type Table<S> = RefCell<HashMap<S, Option<Rc<Kernel>>>>;

/// The kernel of a specialisation from this thread's table, compiled or read from disk on first use; `None` if this
/// card's compiler refuses it.
pub(crate) fn kernel<S: Spec>(
    table: &'static std::thread::LocalKey<Table<S>>,
    spec: S,
    gpu: &Gpu,
) -> Option<Rc<Kernel>> {
    if let Some(k) = table.with_borrow(|t| t.get(&spec).cloned()) {
        return k;
    }
    // MLX copies the name with every call: one of up to 15 bytes needs no allocation
    let name = short(&spec.name());
    let k = build::image(&spec.source(&name), &gpu.arch).ok().map(|image| Rc::new(Kernel::new(&name, image)));
    table.with_borrow_mut(|t| t.insert(spec, k.clone()));
    k
}

/// The kind of a kernel and a number for its specialisation.
fn short(name: &str) -> String {
    let kind: String = name.chars().take_while(char::is_ascii_lowercase).take(6).collect();
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{kind}_{:08x}", (hash ^ (hash >> 32)) as u32)
}
