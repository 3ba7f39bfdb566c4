//! Functions with derivatives of their own, and functions whose intermediate results are not kept.

use super::autograd::rebuilt;
use super::closure::{Closure, Owned, finish, free_owned, give, shield};
use crate::Array;
use crate::error::refuse;
use crate::ffi::borrow_vector;
use crate::tree::Tree;
use mlx_sys as sys;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::rc::Rc;

/// `f` computed again in the backward pass instead of keeping what lies between (`mx.checkpoint`).
///
/// Arrays that `f` captures get no gradient: pass what is trained as part of the argument.
pub fn checkpoint<T: Tree + 'static, R: Tree + 'static>(f: impl Fn(&T) -> R + 'static) -> impl Fn(&T) -> R {
    let f = Rc::new(f);
    move |args| {
        let (f, structure) = (f.clone(), Structure::of(args));
        let result = Rc::new(RefCell::new(None));
        let (keep, template) = (result.clone(), structure.clone());
        let inner = Closure::owned(move |a| store(&keep, f(&template.fill(a))));
        let mut res = Closure::null();
        // SAFETY: valid handles
        finish("checkpoint", unsafe { sys::mlx_checkpoint(&mut res.raw, inner.raw) });
        let leaves = res.apply_here("checkpoint", &args.leaves());
        take("checkpoint", &result, leaves)
    }
}

/// A tree without its arrays.
struct Structure<T>(Rc<T>);

impl<T> Clone for Structure<T> {
    fn clone(&self) -> Self {
        Structure(self.0.clone())
    }
}

impl<T: Tree> Structure<T> {
    fn of(tree: &T) -> Self {
        let nothing = Array::from(0u8);
        Structure(Rc::new(tree.map(|_, _| nothing.clone())))
    }
    #[track_caller]
    fn fill(&self, leaves: &[Array]) -> T {
        rebuilt(&*self.0, leaves.iter().cloned())
    }
}

type Result<R> = Rc<RefCell<Option<Structure<R>>>>;

/// Keeps the structure of a result and gives its leaves.
#[track_caller]
fn store<R: Tree>(place: &Result<R>, result: R) -> Vec<Array> {
    let leaves = result.leaves();
    if leaves.is_empty() {
        // MLX reads the first output without looking
        refuse("custom_function", "the function gives nothing");
    }
    *place.borrow_mut() = Some(Structure::of(&result));
    leaves
}

#[track_caller]
fn take<R: Tree>(op: &str, place: &Result<R>, leaves: Vec<Array>) -> R {
    match &*place.borrow() {
        Some(structure) => structure.fill(&leaves),
        None => refuse(op, "the function was not called"),
    }
}

type Vjp<T, R> = dyn Fn(&T, &R, &R) -> T;
type Jvp<T, R> = dyn Fn(&T, &T) -> R;
type Vmap<T, R> = dyn Fn(&T, &[Option<i32>]) -> (R, Vec<Option<i32>>);

/// A function with its own derivatives and vectorisation (`mx.custom_function`); what is not given is MLX's.
///
/// ```
/// use mlx::{self as mx, Array, CustomFunction, array};
/// // the gradient of a straight-through rounding is that of the identity
/// let round = CustomFunction::new(|x: &Array| x.round(0)).vjp(|_x, cotangent: &Array, _y| cotangent.clone());
/// let g = mx::grad(|x: &Array| (round.call(x) * 3.0).sum(()));
/// assert_eq!(g(&array!([1.2, 2.7])).to_vec::<f32>()?, [3.0, 3.0]);
/// # Ok::<(), mx::Error>(())
/// ```
pub struct CustomFunction<T, R> {
    f: Rc<dyn Fn(&T) -> R>,
    vjp: Option<Rc<Vjp<T, R>>>,
    jvp: Option<Rc<Jvp<T, R>>>,
    vmap: Option<Rc<Vmap<T, R>>>,
}

impl<T: Tree + 'static, R: Tree + 'static> CustomFunction<T, R> {
    pub fn new(f: impl Fn(&T) -> R + 'static) -> Self {
        CustomFunction { f: Rc::new(f), vjp: None, jvp: None, vmap: None }
    }

    /// The vector-Jacobian product: (primals, cotangents, outputs) to gradients of the primals.
    #[must_use]
    pub fn vjp(self, f: impl Fn(&T, &R, &R) -> T + 'static) -> Self {
        CustomFunction { vjp: Some(Rc::new(f)), ..self }
    }

    /// The Jacobian-vector product: (primals, tangents) to tangents of the outputs. Tangents of constants are zero.
    #[must_use]
    pub fn jvp(self, f: impl Fn(&T, &T) -> R + 'static) -> Self {
        CustomFunction { jvp: Some(Rc::new(f)), ..self }
    }

    /// The vectorised function: (inputs, batch axis of each leaf) to (outputs, batch axis of each leaf).
    #[must_use]
    pub fn vmap(self, f: impl Fn(&T, &[Option<i32>]) -> (R, Vec<Option<i32>>) + 'static) -> Self {
        CustomFunction { vmap: Some(Rc::new(f)), ..self }
    }

    #[track_caller]
    pub fn call(&self, args: &T) -> R {
        let inputs = Structure::of(args);
        let outputs: Result<R> = Rc::default();
        let (f, template, place) = (self.f.clone(), inputs.clone(), outputs.clone());
        let body = Closure::owned(move |a| store(&place, f(&template.fill(a))));
        let mut res = Closure::null();
        // SAFETY: valid or null handles; C copies them
        unsafe {
            let mut vjp = sys::mlx_closure_custom_new();
            if let Some(f) = self.vjp.clone() {
                let payload = Owned::into_payload(VjpState { f, inputs: inputs.clone(), outputs: outputs.clone() });
                let dtor = free_owned::<VjpState<T, R>>;
                vjp = sys::mlx_closure_custom_new_func_payload(Some(call_vjp::<T, R>), payload, Some(dtor));
            }
            let mut jvp = sys::mlx_closure_custom_jvp_new();
            if let Some(f) = self.jvp.clone() {
                let payload = Owned::into_payload(JvpState { f, inputs: inputs.clone() });
                let dtor = free_owned::<JvpState<T, R>>;
                jvp = sys::mlx_closure_custom_jvp_new_func_payload(Some(call_jvp::<T, R>), payload, Some(dtor));
            }
            let mut vmap = sys::mlx_closure_custom_vmap_new();
            if let Some(f) = self.vmap.clone() {
                let payload = Owned::into_payload(VmapState { f, inputs });
                let dtor = free_owned::<VmapState<T, R>>;
                vmap = sys::mlx_closure_custom_vmap_new_func_payload(Some(call_vmap::<T, R>), payload, Some(dtor));
            }
            let rc = sys::mlx_custom_function(&mut res.raw, body.raw, vjp, jvp, vmap);
            sys::mlx_closure_custom_free(vjp);
            sys::mlx_closure_custom_jvp_free(jvp);
            sys::mlx_closure_custom_vmap_free(vmap);
            finish("custom_function", rc);
        }
        let leaves = res.apply_here("custom_function", &args.leaves());
        take("custom_function", &outputs, leaves)
    }
}

struct VjpState<T: 'static, R: 'static> {
    f: Rc<Vjp<T, R>>,
    inputs: Structure<T>,
    outputs: Result<R>,
}
struct JvpState<T: 'static, R: 'static> {
    f: Rc<Jvp<T, R>>,
    inputs: Structure<T>,
}
struct VmapState<T: 'static, R: 'static> {
    f: Rc<Vmap<T, R>>,
    inputs: Structure<T>,
}

unsafe extern "C" fn call_vjp<T: Tree + 'static, R: Tree + 'static>(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    outputs: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    shield(|| {
        // SAFETY: the payload is a `VjpState` of these types, the vectors are valid for the call
        let (state, primals, cotangents, outputs) = unsafe {
            let state = Owned::<VjpState<T, R>>::get(payload);
            (state, borrow_vector(primals), borrow_vector(cotangents), borrow_vector(outputs))
        };
        let Some(structure) = state.outputs.borrow().clone() else {
            refuse("custom_function", "differentiated before it was called")
        };
        let grads =
            (state.f)(&state.inputs.fill(&primals), &structure.fill(&cotangents), &structure.fill(&outputs)).leaves();
        // MLX takes the gradients as they come: too few are read past the end
        let shapes = |list: &[Array]| list.iter().map(|a| a.shape().to_vec()).collect::<Vec<_>>();
        if shapes(&grads) != shapes(&primals) {
            let (got, expected) = (shapes(&grads), shapes(&primals));
            refuse("custom_function", format!("vjp gave gradients of shapes {got:?} for primals of {expected:?}"));
        }
        // SAFETY: C takes over the vector
        unsafe { give(res, &grads) };
        0
    })
}

unsafe extern "C" fn call_jvp<T: Tree + 'static, R: Tree + 'static>(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    tangents: sys::mlx_vector_array,
    argnums: *const c_int,
    argnums_len: usize,
    payload: *mut c_void,
) -> c_int {
    shield(|| {
        // SAFETY: the payload is a `JvpState` of these types, the vectors and numbers are valid for the call
        let (state, primals, tangents, argnums) = unsafe {
            let state = Owned::<JvpState<T, R>>::get(payload);
            let argnums = if argnums_len == 0 { &[] } else { std::slice::from_raw_parts(argnums, argnums_len) };
            (state, borrow_vector(primals), borrow_vector(tangents), argnums)
        };
        let mut all: Vec<Array> = primals.iter().map(crate::zeros_like).collect();
        for (n, t) in argnums.iter().zip(tangents) {
            all[*n as usize] = t;
        }
        let out = (state.f)(&state.inputs.fill(&primals), &state.inputs.fill(&all)).leaves();
        // SAFETY: C takes over the vector
        unsafe { give(res, &out) };
        0
    })
}

unsafe extern "C" fn call_vmap<T: Tree + 'static, R: Tree + 'static>(
    res: *mut sys::mlx_vector_array,
    res_axes: *mut sys::mlx_vector_int,
    inputs: sys::mlx_vector_array,
    axes: *const c_int,
    axes_len: usize,
    payload: *mut c_void,
) -> c_int {
    shield(|| {
        // SAFETY: the payload is a `VmapState` of these types, the vectors and numbers are valid for the call
        let (state, inputs, axes) = unsafe {
            let state = Owned::<VmapState<T, R>>::get(payload);
            let axes = if axes_len == 0 { &[] } else { std::slice::from_raw_parts(axes, axes_len) };
            (state, borrow_vector(inputs), axes)
        };
        let axes: Vec<Option<i32>> = axes.iter().map(|&a| (a >= 0).then_some(a)).collect();
        let (out, out_axes) = (state.f)(&state.inputs.fill(&inputs), &axes);
        let out = out.leaves();
        if out.len() != out_axes.len() {
            refuse("custom_function", format!("vmap gave {} arrays and {} axes", out.len(), out_axes.len()));
        }
        let wrap = |(a, axis): (&Array, &Option<i32>)| axis.map_or(-1, |x| if x < 0 { x + a.ndim() as i32 } else { x });
        let mut out_axes: Vec<c_int> = out.iter().zip(&out_axes).map(wrap).collect();
        // SAFETY: C copies the numbers and takes over the vector
        unsafe {
            give(res, &out);
            sys::mlx_vector_int_set_data(res_axes, out_axes.as_mut_ptr(), out_axes.len());
        }
        0
    })
}
