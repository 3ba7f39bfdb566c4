//! One compiled kernel and its launch as a node of MLX's graph.

use crate::ffi::{self, VectorArray};
use crate::{Array, Dtype};
use mlx_sys as sys;
use std::cell::RefCell;
use std::ffi::CString;

/// A scalar argument, after inputs and outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar {
    Int(i32),
    Float(f32),
}

/// Sizes of a launch: blocks, threads a block, bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub grid: [i32; 3],
    pub threads: i32,
    pub shared: i32,
}

/// Machine code of one kernel.
///
/// MLX copies and hashes a kernel's code at every call and looks the loaded module up by that hash. Once the module is
/// loaded, eight bytes that hash to the same number stand in for the code (tens of kilobytes), which is then not read.
#[derive(Debug)]
pub(crate) struct Kernel {
    name: CString,
    image: Vec<u8>,
    stand_in: Option<[u8; 8]>,
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    /// The module is not known to be loaded; an output of the last call tells.
    Waiting(Option<Array>),
    Loaded,
}

impl Kernel {
    pub fn new(name: &str, image: Vec<u8>) -> Self {
        let hash = |b: &[u8]| {
            // SAFETY: pointer and length of a live slice
            unsafe { sys::mlxs_text_hash(b.as_ptr().cast(), b.len()) as u64 }
        };
        let wanted = hash(&image);
        let stand_in = Some(preimage(wanted).to_le_bytes()).filter(|b| hash(b) == wanted);
        let name = CString::new(name).unwrap_or_default();
        Kernel { name, image, stand_in, state: RefCell::new(State::Waiting(None)) }
    }

    /// Outputs of a launch as lazy arrays. Inputs arrive row-contiguous: MLX copies those that are not.
    ///
    /// # Safety
    /// The kernel takes these inputs, outputs and scalars in this order and stays within them for this launch.
    #[track_caller]
    pub unsafe fn call(
        &self,
        inputs: &[&Array],
        outputs: &[(&[i32], Dtype)],
        scalars: &[Scalar],
        launch: Launch,
    ) -> Vec<Array> {
        let image = self.current_image();
        let input_vector = VectorArray::from_arrays(inputs.iter().copied());
        let shapes: smallvec::SmallVec<[_; 4]> = outputs.iter().map(|o| o.0.as_ptr()).collect();
        let ndims: smallvec::SmallVec<[_; 4]> = outputs.iter().map(|o| o.0.len()).collect();
        let dtypes: smallvec::SmallVec<[_; 4]> = outputs.iter().map(|o| o.1.raw()).collect();
        let scalars: smallvec::SmallVec<[_; 8]> = scalars
            .iter()
            .map(|s| match *s {
                Scalar::Int(integer) => sys::mlxs_scalar { kind: 1, integer, real: 0.0 },
                Scalar::Float(real) => sys::mlxs_scalar { kind: 2, integer: 0, real },
            })
            .collect();
        let [gx, gy, gz] = launch.grid;
        let grid = [gx * launch.threads, gy, gz];
        let threads = [launch.threads, 1, 1];
        // SAFETY: all arrays live through the call and have the lengths given; the kernel's side is the caller's
        let out = ffi::op_many("cuda kernel", inputs, |res, s| unsafe {
            sys::mlxs_precompiled_cuda_kernel(
                res,
                self.name.as_ptr(),
                image.as_ptr().cast(),
                image.len(),
                input_vector.raw,
                shapes.as_ptr(),
                ndims.as_ptr(),
                dtypes.as_ptr(),
                outputs.len(),
                scalars.as_ptr(),
                scalars.len(),
                grid.as_ptr(),
                threads.as_ptr(),
                launch.shared,
                std::ptr::null(),
                true,
                s,
            )
        });
        if let State::Waiting(probe) = &mut *self.state.borrow_mut() {
            *probe = out.first().cloned();
        }
        out
    }

    /// The code, or what stands for it once MLX has loaded it.
    fn current_image(&self) -> &[u8] {
        let Some(stand_in) = &self.stand_in else { return &self.image };
        let mut state = self.state.borrow_mut();
        if let State::Waiting(Some(probe)) = &*state {
            let mut status = 0;
            // SAFETY: valid handle and out-pointer
            unsafe { sys::mlxs_array_status(&mut status, probe.as_raw()) };
            if status != 0 {
                *state = State::Loaded;
            }
        }
        match *state {
            State::Loaded => stand_in,
            State::Waiting(_) => &self.image,
        }
    }
}

/// The eight bytes (as a little-endian number) whose hash in libstdc++ (64-bit MurmurHash, its fixed seed) is `hash`:
/// every step of that function can be undone. The caller checks the result, since another library hashes otherwise.
fn preimage(hash: u64) -> u64 {
    const MUL: u64 = 0xc6a4a793_5bd1e995;
    const SEED: u64 = 0xc70f6907;
    let unshift = |v: u64| v ^ (v >> 47);
    // the inverse of an odd number modulo 2^64 (Newton's iteration)
    let inverse = (0..6).fold(MUL, |x, _| x.wrapping_mul(2u64.wrapping_sub(MUL.wrapping_mul(x))));
    let h = unshift(unshift(hash).wrapping_mul(inverse));
    let data = h.wrapping_mul(inverse) ^ SEED ^ 8u64.wrapping_mul(MUL);
    unshift(data.wrapping_mul(inverse)).wrapping_mul(inverse)
}
