//! Linear algebra (`mlx.core.linalg`), over the last two axes, others are a batch.
//!
//! MLX computes factorisations on the CPU only. Functions that have no GPU kernel go to this thread's CPU stream
//! whatever the current one is.

use crate::error::refuse;
use crate::shape::Axes;
use crate::{Array, Device, ffi, with_device};
use mlx_sys as sys;

/// Results of a factorisation.
trait Results {
    fn each(&self) -> Vec<&Array>;
}
impl Results for Array {
    fn each(&self) -> Vec<&Array> {
        vec![self]
    }
}
impl Results for (Array, Array) {
    fn each(&self) -> Vec<&Array> {
        vec![&self.0, &self.1]
    }
}
impl Results for Vec<Array> {
    fn each(&self) -> Vec<&Array> {
        self.iter().collect()
    }
}

/// Runs a factorisation where it exists; it can fail when it is computed.
#[track_caller]
fn on_cpu<R: Results>(f: impl FnOnce() -> R) -> R {
    let r = if crate::default_device() == Device::Cpu { f() } else { with_device(Device::Cpu, f) };
    crate::pending::may_fail(r.each());
    r
}

/// The rank and squareness that LAPACK needs.
#[track_caller]
fn matrix(op: &str, a: &Array, square: bool) {
    if a.ndim() < 2 || square && a.dim(-1) != a.dim(-2) {
        let what = if square { "square matrices" } else { "matrices" };
        refuse(op, format!("{what} expected, shape is {:?}", a.shape()));
    }
}

/// Which triangle of a symmetric matrix is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Triangle {
    #[default]
    Lower,
    Upper,
}

impl Triangle {
    fn c(self) -> *const std::ffi::c_char {
        match self {
            Triangle::Lower => c"L".as_ptr(),
            Triangle::Upper => c"U".as_ptr(),
        }
    }
}

macro_rules! square {
    ($($(#[$doc:meta])* $name:ident = $c:ident ($($arg:ident: $t:ty = $pass:expr),*);)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array $(, $arg: $t)*) -> Array {
            matrix(stringify!($name), a, true);
            // SAFETY: valid handles
            on_cpu(|| ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, $($pass,)* s) }))
        }
    )* };
}
square! {
    /// Inverse of a matrix L L^T (`upper`: of R^T R) given L.
    cholesky_inv = mlx_linalg_cholesky_inv(upper: bool = upper);
    /// Determinant.
    det = mlx_linalg_det();
    /// Eigenvalues, complex.
    eigvals = mlx_linalg_eigvals();
    /// Eigenvalues of symmetric or Hermitian matrices, ascending.
    eigvalsh = mlx_linalg_eigvalsh(triangle: Triangle = triangle.c());
    /// Inverse; evaluation fails for a singular matrix.
    inv = mlx_linalg_inv();
    /// Inverse of a triangular matrix.
    tri_inv = mlx_linalg_tri_inv(upper: bool = upper);
}

/// L with a = L L^T (`upper`: R with a = R^T R) of a symmetric positive-definite matrix.
///
/// MLX does not notice a matrix that is not positive definite and returns what LAPACK left; here such a result is NaN.
#[track_caller]
pub fn cholesky(a: &Array, upper: bool) -> Array {
    matrix("cholesky", a, true);
    on_cpu(|| {
        // SAFETY: valid handles
        let l = ffi::op("cholesky", &[a], |res, s| unsafe { sys::mlx_linalg_cholesky(res, a.raw, upper, s) });
        // LAPACK stops at the first pivot that is not positive, and leaves it on the diagonal
        let good = crate::diagonal(&l, 0, -2, -1).gt(0).all_keepdims(-1).expand_dims(-1);
        crate::where_(good, &l, f32::NAN)
    })
}

macro_rules! pairs {
    ($($(#[$doc:meta])* $name:ident = $c:ident, $square:literal ($($arg:ident: $t:ty = $pass:expr),*);)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array $(, $arg: $t)*) -> (Array, Array) {
            matrix(stringify!($name), a, $square);
            // SAFETY: valid handles
            on_cpu(|| ffi::op_pair(stringify!($name), &[a], |x, y, s| unsafe { sys::$c(x, y, a.raw, $($pass,)* s) }))
        }
    )* };
}
pairs! {
    /// (eigenvalues, eigenvectors as columns), complex.
    eig = mlx_linalg_eig, true ();
    /// (eigenvalues ascending, eigenvectors as columns) of symmetric or Hermitian matrices.
    eigh = mlx_linalg_eigh, true (triangle: Triangle = triangle.c());
    /// (LU packed, pivots).
    lu_factor = mlx_linalg_lu_factor, false ();
    /// (Q, R).
    qr = mlx_linalg_qr, false ();
    /// (sign, ln of the absolute determinant).
    slogdet = mlx_linalg_slogdet, true ();
}

/// (row permutation, L, U).
#[track_caller]
pub fn lu(a: &Array) -> (Array, Array, Array) {
    matrix("lu", a, false);
    if a.size() == 0 {
        refuse("lu", format!("no elements in {:?}", a.shape()));
    }
    // SAFETY: valid handles
    let v = on_cpu(|| ffi::op_many("lu", &[a], |res, s| unsafe { sys::mlx_linalg_lu(res, a.raw, s) }));
    match <[Array; 3]>::try_from(v) {
        Ok([p, l, u]) => (p, l, u),
        Err(v) => refuse("lu", format!("three results expected, not {}", v.len())),
    }
}

#[track_caller]
fn svd_parts(a: &Array, uv: bool) -> Vec<Array> {
    matrix("svd", a, false);
    // SAFETY: valid handles
    on_cpu(|| ffi::op_many("svd", &[a], |res, s| unsafe { sys::mlx_linalg_svd(res, a.raw, uv, s) }))
}

/// (U, S, V^T) with a = U diag(S) V^T and S descending.
#[track_caller]
pub fn svd(a: &Array) -> (Array, Array, Array) {
    match <[Array; 3]>::try_from(svd_parts(a, true)) {
        Ok([u, s, vt]) => (u, s, vt),
        Err(v) => refuse("svd", format!("three results expected, not {}", v.len())),
    }
}

/// Singular values, descending (`svd(a, compute_uv=False)`).
#[track_caller]
pub fn svdvals(a: &Array) -> Array {
    match svd_parts(a, false).pop() {
        Some(s) => s,
        None => refuse("svd", "one result expected"),
    }
}

/// Moore-Penrose pseudo-inverse.
#[track_caller]
pub fn pinv(a: &Array) -> Array {
    matrix("pinv", a, false);
    // SAFETY: valid handles
    on_cpu(|| ffi::op("pinv", &[a], |res, s| unsafe { sys::mlx_linalg_pinv(res, a.raw, s) }))
}

#[track_caller]
fn system(op: &str, a: &Array, b: &Array) {
    matrix(op, a, true);
    if b.size() == 0 {
        refuse(op, format!("right sides {:?} are empty", b.shape()));
    }
}

/// x with a x = b.
#[track_caller]
pub fn solve(a: &Array, b: &Array) -> Array {
    system("solve", a, b);
    // SAFETY: valid handles
    on_cpu(|| ffi::op("solve", &[a, b], |res, s| unsafe { sys::mlx_linalg_solve(res, a.raw, b.raw, s) }))
}

/// x with a x = b for a triangular a.
#[track_caller]
pub fn solve_triangular(a: &Array, b: &Array, upper: bool) -> Array {
    system("solve_triangular", a, b);
    // SAFETY: valid handles
    on_cpu(|| {
        ffi::op("solve_triangular", &[a, b], |res, s| unsafe {
            sys::mlx_linalg_solve_triangular(res, a.raw, b.raw, upper, s)
        })
    })
}

/// Cross product along an axis of 2 or 3 elements.
#[track_caller]
pub fn cross(a: &Array, b: &Array, axis: i32) -> Array {
    // SAFETY: valid handles
    ffi::op("cross", &[a, b], |res, s| unsafe { sys::mlx_linalg_cross(res, a.raw, b.raw, axis, s) })
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Ord {
    /// The 2-norm of a vector, the Frobenius norm of a matrix.
    #[default]
    Default,
    /// A p-norm; infinities allowed.
    P(f64),
    /// The Frobenius norm.
    Fro,
    /// The nuclear norm (sum of singular values).
    Nuc,
}

impl From<f64> for Ord {
    fn from(p: f64) -> Self {
        Ord::P(p)
    }
}

/// Norm of vectors (one axis) or matrices (two axes); `()` takes the whole array.
#[track_caller]
pub fn norm(a: &Array, ord: impl Into<Ord>, axes: impl Into<Axes>, keepdims: bool) -> Array {
    let (axes, ord) = (axes.into(), ord.into());
    let (ptr, len) = match &axes {
        Axes::All => (std::ptr::null(), 0),
        Axes::Some(axes) => (axes.as_ptr(), axes.len()),
    };
    let used: Vec<i32> = match &axes {
        Axes::All => (0..a.ndim() as i32).collect(),
        Axes::Some(axes) => axes.iter().copied().collect(),
    };
    let spectral = matches!(ord, Ord::Nuc) || matches!(ord, Ord::P(p) if p.abs() == 2.0);
    if used.iter().any(|&i| a.dim(i) == 0) && used.len() > 1 && spectral {
        refuse("norm", format!("no singular values for shape {:?}", a.shape()));
    }
    // SAFETY: valid handles; pointer and length of a live slice, or null
    let run = || {
        ffi::op("norm", &[a], |res, s| unsafe {
            match ord {
                Ord::Default => sys::mlx_linalg_norm_l2(res, a.raw, ptr, len, keepdims, s),
                Ord::P(p) => sys::mlx_linalg_norm(res, a.raw, p, ptr, len, keepdims, s),
                Ord::Fro => sys::mlx_linalg_norm_matrix(res, a.raw, c"fro".as_ptr(), ptr, len, keepdims, s),
                Ord::Nuc => sys::mlx_linalg_norm_matrix(res, a.raw, c"nuc".as_ptr(), ptr, len, keepdims, s),
            }
        })
    };
    if spectral && used.len() == 2 { on_cpu(run) } else { run() }
}
