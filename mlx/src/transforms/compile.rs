//! Compiled functions: traced once per structure and set of shapes, then replayed.

use super::autograd::rebuilt;
use super::closure::{Closure, finish};
use super::state::{State, state_arrays};
use crate::error::refuse;
use crate::tree::Tree;
use crate::{Array, ffi};
use mlx_sys as sys;
use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Compiles `f` (`mx.compile`): the first call with new shapes and dtypes runs it, later ones replay its graph.
///
/// Arrays that `f` captures are constants of the trace; what changes from call to call goes into the argument, or into
/// the state of [`compile_with_state`]. Other side effects happen only while tracing.
///
/// ```
/// use mlx::{self as mx, Array, array};
/// let gelu = mx::compile(|x: &Array| x * (1.0 + (x * std::f64::consts::FRAC_1_SQRT_2).erf()) * 0.5);
/// assert!((gelu.call(&array!(1.0)).item::<f32>()? - 0.841345).abs() < 1e-5);
/// # Ok::<(), mx::Error>(())
/// ```
pub fn compile<T: Tree + 'static, R: Tree + 'static>(f: impl Fn(&T) -> R + 'static) -> Compiled<T, R> {
    Compiled { inner: compile_with_state(move |_: &mut (), args: &T| f(args)) }
}

/// Compiles `f` for all shapes at once (`mx.compile(f, shapeless=True)`): it must not depend on them.
pub fn compile_shapeless<T: Tree + 'static, R: Tree + 'static>(f: impl Fn(&T) -> R + 'static) -> Compiled<T, R> {
    let mut compiled = compile(f);
    compiled.inner.shapeless = true;
    compiled
}

/// Compiles a step that changes a state (`mx.compile(f, inputs=state, outputs=state)`): models, optimizers,
/// [`RandomState`](crate::RandomState), trees of arrays, and tuples of them.
///
/// ```
/// use mlx::{self as mx, Array, array};
/// let count = mx::compile_with_state(|n: &mut Array, by: &Array| { *n = &*n + by; &*n * 10 });
/// let mut n = array!(1);
/// for expected in [30, 50] {
///     assert_eq!(count.call(&mut n, &array!(2)).item::<i32>()?, expected);
/// }
/// assert_eq!(n.item::<i32>()?, 5);
/// # Ok::<(), mx::Error>(())
/// ```
pub fn compile_with_state<S: State + 'static, T: Tree + 'static, R: Tree + 'static>(
    f: impl Fn(&mut S, &T) -> R + 'static,
) -> CompiledStep<S, T, R> {
    default_mode();
    CompiledStep { f: Rc::new(f), shapeless: false, entries: RefCell::default(), _thread_bound: PhantomData }
}

/// A compiled function. Bound to its thread, where MLX keeps the trace; dropping it frees the trace.
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<mlx::Compiled<mlx::Array, mlx::Array>>();
/// ```
pub struct Compiled<T: Tree + 'static, R: Tree + 'static> {
    inner: CompiledStep<(), T, R>,
}

impl<T: Tree + 'static, R: Tree + 'static> Compiled<T, R> {
    #[track_caller]
    pub fn call(&self, args: &T) -> R {
        self.inner.call(&mut (), args)
    }
}

/// A compiled function with state. Bound to its thread; dropping it frees the trace.
pub struct CompiledStep<S: State + 'static, T: Tree + 'static, R: Tree + 'static> {
    f: Rc<dyn Fn(&mut S, &T) -> R>,
    shapeless: bool,
    /// One for each structure of arguments and state.
    entries: RefCell<Vec<Rc<Entry<S, T, R>>>>,
    _thread_bound: PhantomData<*const ()>,
}

/// The traces of one structure of arguments.
struct Entry<S, T, R> {
    /// The names of the arguments, their number, and that of the state's arrays.
    key: (u64, usize, usize),
    traced: Trace,
    call: Rc<Call<S, T, R>>,
    /// Shapes and dtypes that were traced: replaying them walks no graph and needs no large stack.
    seen: RefCell<HashSet<u64>>,
}

/// A number for the shapes and dtypes of the inputs; all shapes are one if `shapeless`.
fn signature(inputs: &[Array], shapeless: bool) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    for a in inputs {
        a.dtype().hash(&mut hash);
        a.ndim().hash(&mut hash);
        if !shapeless {
            a.shape().hash(&mut hash);
        }
    }
    hash.finish()
}

/// What the traced closure needs from the call that traces, and what it leaves for replays.
struct Call<S, T, R> {
    state: RefCell<Option<*mut S>>,
    args: T,
    output: RefCell<Option<R>>,
    state_out: std::cell::Cell<usize>,
}

impl<S: State + 'static, T: Tree + 'static, R: Tree + 'static> CompiledStep<S, T, R> {
    #[track_caller]
    pub fn call(&self, state: &mut S, args: &T) -> R {
        let mut structure = std::hash::DefaultHasher::new();
        let mut leaves = Vec::new();
        args.visit_arrays(&mut crate::nn::Path::new(), &mut |name, a| {
            name.hash(&mut structure);
            leaves.push(a.clone());
        });
        let (structure, args_len) = (structure.finish(), leaves.len());
        let before = state_arrays(state);
        let state_len = before.len();
        leaves.extend(before.iter().cloned());
        let entry = self.entry(structure, args_len, state_len, args);

        *entry.call.state.borrow_mut() = Some(std::ptr::from_mut(state));
        // a trace leaves its tracers in the state: whatever happens, real arrays go back
        let restore = Restore { call: &entry.call, before };
        let signature = signature(&leaves, self.shapeless);
        let outputs = if entry.seen.borrow().contains(&signature) {
            entry.traced.closure.apply_here("compile", &leaves)
        } else {
            entry.traced.closure.apply("compile", &leaves)
        };
        entry.seen.borrow_mut().insert(signature);
        drop(restore);

        let state_out = entry.call.state_out.get();
        let (results, new_state) = outputs.split_at(outputs.len().saturating_sub(state_out));
        let mut new_state = new_state.iter().cloned();
        state.arrays_mut(&mut |a| {
            if let Some(new) = new_state.next() {
                *a = new;
            }
        });
        if state_out != state_len {
            // the state grew while it was traced (a new optimizer): another state of the old size must trace again
            self.entries.borrow_mut().retain(|e| !Rc::ptr_eq(e, &entry));
        }
        match &*entry.call.output.borrow() {
            Some(structure) => rebuilt(structure, results.iter().cloned()),
            None => refuse("compile", "the function was not traced"),
        }
    }

    #[track_caller]
    fn entry(&self, structure: u64, args_len: usize, state_len: usize, args: &T) -> Rc<Entry<S, T, R>> {
        let mut entries = self.entries.borrow_mut();
        if let Some(e) = entries.iter().find(|e| e.key == (structure, args_len, state_len)) {
            return e.clone();
        }
        let nothing = Array::from(0u8);
        let call = Rc::new(Call::<S, T, R> {
            state: RefCell::new(None),
            args: args.map(|_, _| nothing.clone()),
            output: RefCell::new(None),
            state_out: std::cell::Cell::new(state_len),
        });
        let (f, shared) = (self.f.clone(), call.clone());
        let body = move |inputs: &[Array]| {
            let Some(state) = *shared.state.borrow() else { refuse("compile", "traced outside of a call") };
            // SAFETY: set by the call that is running now, which holds the state mutably and does not touch it meanwhile
            let state = unsafe { &mut *state };
            let (args, tracers) = inputs.split_at(args_len);
            let mut tracers = tracers.iter().cloned();
            state.arrays_mut(&mut |a| {
                if let Some(tracer) = tracers.next() {
                    *a = tracer;
                }
            });
            let result = f(state, &rebuilt(&shared.args, args.iter().cloned()));
            let mut outputs = result.leaves();
            let after = state_arrays(state);
            shared.state_out.set(after.len());
            outputs.extend(after);
            *shared.output.borrow_mut() = Some(result.map(|_, _| nothing.clone()));
            outputs
        };
        let key = (structure, args_len, state_len);
        let traced = Trace::new(body, self.shapeless);
        let entry = Rc::new(Entry { key, traced, call, seen: RefCell::default() });
        entries.push(entry.clone());
        entry
    }
}

/// Puts the arrays of before the call back into the state.
struct Restore<'c, S: State, T, R> {
    call: &'c Call<S, T, R>,
    before: Vec<Array>,
}

impl<S: State, T, R> Drop for Restore<'_, S, T, R> {
    fn drop(&mut self) {
        if let Some(state) = self.call.state.borrow_mut().take() {
            let mut before = self.before.drain(..);
            // SAFETY: as in the traced body; the trace is over
            unsafe { &mut *state }.arrays_mut(&mut |a| {
                if let Some(old) = before.next() {
                    *a = old;
                }
            });
        }
    }
}

/// One compiled closure of MLX and its place in this thread's cache.
struct Trace {
    closure: Closure<'static>,
    id: usize,
    cache: sys::mlx_compile_cache,
}

impl Trace {
    #[track_caller]
    fn new(f: impl Fn(&[Array]) -> Vec<Array> + 'static, shapeless: bool) -> Trace {
        // ids of MLX's own compiled functions are addresses: the top bit is never set in them
        static NEXT: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 1));
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let body = Closure::owned(f);
        // SAFETY: valid handles; no constants
        unsafe {
            let mut trace = Trace { closure: Closure::null(), id, cache: sys::mlx_compile_cache_new() };
            finish("compile", sys::mlx_detail_compile_cache(&mut trace.cache));
            let rc = sys::mlx_detail_compile(&mut trace.closure.raw, body.raw, id, shapeless, std::ptr::null(), 0);
            finish("compile", rc);
            trace
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once; the cache is the one of this thread, or gone with it
        unsafe {
            if sys::mlx_detail_compile_erase(self.cache, self.id) != 0 {
                ffi::take_message();
            }
            sys::mlx_compile_cache_free(self.cache);
        }
    }
}

/// What becomes of compiled functions (`MLX_DISABLE_COMPILE`, `mx.disable_compile`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileMode {
    /// Calls run the function.
    Disabled,
    /// Replays the trace as it is.
    NoSimplify,
    /// Joins equal subgraphs.
    NoFuse,
    /// Also fuses element-wise chains into kernels.
    Enabled,
}

/// Sets what compiled functions do from now on, in the whole process.
///
/// Fusion for the CPU runs the system's C++ compiler on files with predictable names in the temporary folder, which
/// other users of the machine can replace. A build for the CPU therefore starts in `NoFuse`, others in `Enabled`.
pub fn set_compile_mode(mode: CompileMode) {
    default_mode();
    apply(mode);
}

/// Makes compiled functions run as they are (`mx.disable_compile`).
pub fn disable_compile() {
    set_compile_mode(CompileMode::Disabled);
}

/// Back to what this build starts with (`mx.enable_compile`).
pub fn enable_compile() {
    default_mode();
    apply(starting_mode());
}

fn starting_mode() -> CompileMode {
    if sys::BUILD.backend == "cpu" && !crate::cuda_is_available() { CompileMode::NoFuse } else { CompileMode::Enabled }
}

fn apply(mode: CompileMode) {
    let raw = match mode {
        CompileMode::Disabled => sys::MLX_COMPILE_MODE_DISABLED,
        CompileMode::NoSimplify => sys::MLX_COMPILE_MODE_NO_SIMPLIFY,
        CompileMode::NoFuse => sys::MLX_COMPILE_MODE_NO_FUSE,
        CompileMode::Enabled => sys::MLX_COMPILE_MODE_ENABLED,
    };
    // SAFETY: a plain number of the enum
    if unsafe { sys::mlx_set_compile_mode(raw) } != 0 {
        ffi::take_message();
    }
}

fn default_mode() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        ffi::init();
        if std::env::var_os("MLX_DISABLE_COMPILE").is_none() {
            apply(starting_mode());
        }
    });
}
