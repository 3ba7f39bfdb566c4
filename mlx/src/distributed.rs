//! Several processes that compute together (`mlx.core.distributed`), and the way to start them on one machine.
//!
//! The operations are nodes of the graph like any other; all processes of a group have to evaluate them in the same
//! order. Without a backend, a group has one member and the collective operations return their input.

mod launch;

use crate::error::{Error, Result};
use crate::{Array, Dtype, Shape, ffi};
use mlx_sys as sys;
use std::ffi::CStr;
use std::sync::Mutex;

pub use launch::launch;

/// How processes talk to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// The first that is configured.
    #[default]
    Any,
    /// TCP between neighbours in a ring: `MLX_HOSTFILE`, `MLX_RANK` (see [`launch`]).
    Ring,
    Mpi,
    /// NVIDIA GPUs.
    Nccl,
    /// RDMA over Thunderbolt.
    Jaccl,
}

impl Backend {
    fn c(self) -> &'static CStr {
        match self {
            Backend::Any => c"any",
            Backend::Ring => c"ring",
            Backend::Mpi => c"mpi",
            Backend::Nccl => c"nccl",
            Backend::Jaccl => c"jaccl",
        }
    }
}

/// Processes that compute together.
pub struct Group {
    raw: sys::mlx_distributed_group,
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once; null is allowed
        unsafe { sys::mlx_distributed_group_free(self.raw) };
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({} of {})", self.rank(), self.size())
    }
}

/// Whether the backend can be used in this build.
pub fn is_available(backend: Backend) -> bool {
    ffi::init();
    // SAFETY: a valid string
    unsafe { sys::mlx_distributed_is_available(backend.c().as_ptr()) }
}

/// Joins the processes that the environment names; `strict` makes it an error if there are none.
///
/// # Errors
/// If the backend cannot connect, or with `strict` is not configured.
pub fn init(strict: bool, backend: Backend) -> Result<Group> {
    // MLX keeps its groups in a map without a lock
    static INIT: Mutex<()> = Mutex::new(());
    let _lock = INIT.lock().unwrap_or_else(|e| e.into_inner());
    crate::stream::current();
    let mut group = Group { raw: sys::mlx_distributed_group { ctx: std::ptr::null_mut() } };
    // SAFETY: valid out-pointer and string
    let rc = unsafe { sys::mlx_distributed_init(&mut group.raw, strict, backend.c().as_ptr()) };
    ffi::check(rc, |m| Error::op("distributed.init", m))?;
    Ok(group)
}

impl Group {
    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        // SAFETY: valid handle
        unsafe { sys::mlx_distributed_group_rank(self.raw) }.max(0) as usize
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        // SAFETY: valid handle
        unsafe { sys::mlx_distributed_group_size(self.raw) }.max(1) as usize
    }

    /// The processes that give the same `color`, ordered by `key` (`None`: by rank).
    ///
    /// # Errors
    /// If the backend cannot split (the ring cannot).
    pub fn split(&self, color: i32, key: Option<i32>) -> Result<Group> {
        let mut group = Group { raw: sys::mlx_distributed_group { ctx: std::ptr::null_mut() } };
        // SAFETY: valid handles
        let rc = unsafe { sys::mlx_distributed_group_split(&mut group.raw, self.raw, color, key.unwrap_or(-1)) };
        ffi::check(rc, |m| Error::op("distributed.split", m))?;
        Ok(group)
    }
}

/// The handle of the given group, or of the default one.
#[track_caller]
fn with_group<R>(group: Option<&Group>, f: impl FnOnce(sys::mlx_distributed_group) -> R) -> R {
    match group {
        Some(g) => f(g.raw),
        None => match init(false, Backend::Any) {
            Ok(g) => f(g.raw),
            Err(e) => crate::error::raise(e),
        },
    }
}

macro_rules! collectives {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(x: &Array, group: Option<&Group>) -> Array {
            // SAFETY: valid handles
            with_group(group, |g| ffi::op(stringify!($name), &[x], |res, s| unsafe { sys::$c(res, x.raw, g, s) }))
        }
    )* };
}
collectives! {
    /// The sum over all processes, on each of them. `None` is the default group.
    all_sum = mlx_distributed_all_sum;
    /// The largest over all processes.
    all_max = mlx_distributed_all_max;
    /// The smallest over all processes.
    all_min = mlx_distributed_all_min;
    /// All processes' arrays joined along the first axis.
    all_gather = mlx_distributed_all_gather;
    /// The sum over all processes, of which each gets its share of the first axis.
    sum_scatter = mlx_distributed_sum_scatter;
}

/// `x`, sent to process `dst` when it is evaluated.
#[track_caller]
pub fn send(x: &Array, dst: usize, group: Option<&Group>) -> Array {
    let dst = i32::try_from(dst).unwrap_or(i32::MAX);
    // SAFETY: valid handles
    with_group(group, |g| ffi::op("send", &[x], |res, s| unsafe { sys::mlx_distributed_send(res, x.raw, dst, g, s) }))
}

/// What process `src` sends: an array of this shape and dtype.
#[track_caller]
pub fn recv(shape: impl Into<Shape>, dtype: Dtype, src: usize, group: Option<&Group>) -> Array {
    let shape = shape.into();
    crate::ops::check_shape("recv", &shape);
    let src = i32::try_from(src).unwrap_or(i32::MAX);
    // SAFETY: valid handles; pointer and length of a live slice
    with_group(group, |g| {
        ffi::op("recv", &[], |res, s| unsafe {
            sys::mlx_distributed_recv(res, shape.as_ptr(), shape.len(), dtype.raw(), src, g, s)
        })
    })
}

/// What process `src` sends: an array like `x`.
#[track_caller]
pub fn recv_like(x: &Array, src: usize, group: Option<&Group>) -> Array {
    recv(x.shape(), x.dtype(), src, group)
}
