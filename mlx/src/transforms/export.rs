//! Functions in files (`.mlxfn`, exchanged with Python and C++), and graphs as pictures.

use super::closure::{Closure, Owned, free_owned, give, outcome, shield};
use super::stack::deep;
use crate::error::{Error, Result};
use crate::ffi::{self, VectorArray, borrow_vector};
use crate::{Array, stream};
use mlx_sys as sys;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

/// Named arrays of a call (`**kwargs`).
pub type Kwargs = BTreeMap<String, Array>;

/// Writes the graph of `f` for these arguments to a file (`mx.export_function`).
///
/// # Errors
/// If the file cannot be written or the function cannot be exported. Panics of `f` pass through.
pub fn export_function(
    path: impl AsRef<Path>,
    f: impl Fn(&[Array]) -> Vec<Array>,
    args: &[Array],
    shapeless: bool,
) -> Result<()> {
    let mut exporter = Exporter::new(path, f, shapeless)?;
    exporter.trace(args)
}

/// [`export_function`] with named arguments.
pub fn export_function_kwargs(
    path: impl AsRef<Path>,
    f: impl Fn(&[Array], &Kwargs) -> Vec<Array> + 'static,
    args: &[Array],
    kwargs: &Kwargs,
    shapeless: bool,
) -> Result<()> {
    let path = path.as_ref();
    let file = c_path(path)?;
    stream::current();
    let (inputs, map) = (VectorArray::from_arrays(args), Map::new(kwargs)?);
    // SAFETY: the payload matches the callbacks; valid handles
    let rc = deep(|| unsafe {
        let payload = Owned::<Box<KwargsBody>>::into_payload(Box::new(f));
        let dtor = free_owned::<Box<KwargsBody>>;
        let closure = sys::mlx_closure_kwargs_new_func_payload(Some(call_kwargs), payload, Some(dtor));
        let rc = sys::mlx_export_function_kwargs(file.as_ptr(), closure, inputs.raw, map.0, shapeless);
        sys::mlx_closure_kwargs_free(closure);
        rc
    });
    outcome("export_function", rc).map_err(|e| Error::file(path, e.to_string()))
}

type KwargsBody = dyn Fn(&[Array], &Kwargs) -> Vec<Array>;

unsafe extern "C" fn call_kwargs(
    res: *mut sys::mlx_vector_array,
    args: sys::mlx_vector_array,
    kwargs: sys::mlx_map_string_to_array,
    payload: *mut c_void,
) -> c_int {
    shield(|| {
        // SAFETY: the payload is that of `export_function_kwargs`, the handles are valid for the call
        unsafe {
            let f = Owned::<Box<KwargsBody>>::get(payload);
            give(res, &f(&borrow_vector(args), &read_map(kwargs)));
        }
        0
    })
}

/// Exports one function for several shapes into one file (`mx.exporter`); the file is complete when this is dropped.
pub struct Exporter<'f> {
    raw: sys::mlx_function_exporter,
    path: std::path::PathBuf,
    _f: Closure<'f>,
}

impl<'f> Exporter<'f> {
    pub fn new(path: impl AsRef<Path>, f: impl Fn(&[Array]) -> Vec<Array> + 'f, shapeless: bool) -> Result<Self> {
        let path = path.as_ref();
        let file = c_path(path)?;
        // SAFETY: the exporter, which holds a copy of the closure, is freed before `'f` ends
        let (closure, raw) = unsafe {
            let closure = Closure::scoped(Box::new(f));
            let raw = sys::mlx_function_exporter_new(file.as_ptr(), closure.raw, shapeless);
            (closure, raw)
        };
        if raw.ctx.is_null() {
            return Err(Error::file(path, ffi::take_message()));
        }
        Ok(Exporter { raw, path: path.into(), _f: closure })
    }

    /// Adds the graph for arguments like these.
    pub fn trace(&mut self, args: &[Array]) -> Result<()> {
        stream::current();
        let inputs = VectorArray::from_arrays(args);
        // SAFETY: valid handles
        let rc = deep(|| unsafe { sys::mlx_function_exporter_apply(self.raw, inputs.raw) });
        outcome("export_function", rc).map_err(|e| Error::file(&self.path, e.to_string()))
    }
}

impl Drop for Exporter<'_> {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once
        if unsafe { sys::mlx_function_exporter_free(self.raw) } != 0 {
            ffi::take_message();
        }
    }
}

/// A function from a file (`mx.import_function`).
pub struct ImportedFunction {
    raw: sys::mlx_imported_function,
    path: std::path::PathBuf,
}

/// Reads a function that [`export_function`], Python or C++ wrote.
pub fn import_function(path: impl AsRef<Path>) -> Result<ImportedFunction> {
    let path = path.as_ref();
    let file = c_path(path)?;
    ffi::init();
    stream::current();
    // SAFETY: a NUL-terminated string; null result is checked
    let raw = unsafe { sys::mlx_imported_function_new(file.as_ptr()) };
    if raw.ctx.is_null() {
        return Err(Error::file(path, ffi::take_message()));
    }
    Ok(ImportedFunction { raw, path: path.into() })
}

impl ImportedFunction {
    /// # Errors
    /// If no graph in the file is for arguments like these.
    pub fn call(&self, args: &[Array]) -> Result<Vec<Array>> {
        self.call_kwargs(args, &Kwargs::new())
    }

    /// [`call`](Self::call) with named arguments.
    pub fn call_kwargs(&self, args: &[Array], kwargs: &Kwargs) -> Result<Vec<Array>> {
        stream::current();
        let (inputs, map) = (VectorArray::from_arrays(args), Map::new(kwargs)?);
        let mut res = VectorArray::new();
        // SAFETY: valid handles
        let rc = deep(|| unsafe {
            if kwargs.is_empty() {
                sys::mlx_imported_function_apply(&mut res.raw, self.raw, inputs.raw)
            } else {
                sys::mlx_imported_function_apply_kwargs(&mut res.raw, self.raw, inputs.raw, map.0)
            }
        });
        outcome("import_function", rc).map_err(|e| Error::file(&self.path, e.to_string()))?;
        Ok(res.to_vec())
    }
}

impl Drop for ImportedFunction {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once
        unsafe { sys::mlx_imported_function_free(self.raw) };
    }
}

/// An owned map from names to arrays.
struct Map(sys::mlx_map_string_to_array);

impl Map {
    fn new(arrays: &Kwargs) -> Result<Map> {
        ffi::init();
        // SAFETY: no arguments
        let map = Map(unsafe { sys::mlx_map_string_to_array_new() });
        for (name, a) in arrays {
            let name = c_string(name)?;
            // SAFETY: valid handles and string; C copies both
            let rc = unsafe { sys::mlx_map_string_to_array_insert(map.0, name.as_ptr(), a.raw) };
            ffi::check(rc, Error::Data)?;
        }
        Ok(map)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once
        unsafe { sys::mlx_map_string_to_array_free(self.0) };
    }
}

/// # Safety
/// `map` is a valid handle.
unsafe fn read_map(map: sys::mlx_map_string_to_array) -> Kwargs {
    let mut out = Kwargs::new();
    // SAFETY: valid handles; a key lives as long as the map
    unsafe {
        let it = sys::mlx_map_string_to_array_iterator_new(map);
        loop {
            let (mut key, mut value) = (std::ptr::null::<c_char>(), Array::null());
            if sys::mlx_map_string_to_array_iterator_next(&mut key, &mut value.raw, it) != 0 {
                break;
            }
            out.insert(CStr::from_ptr(key).to_string_lossy().into_owned(), value);
        }
        sys::mlx_map_string_to_array_iterator_free(it);
    }
    out
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Data(format!("{text:?} contains a NUL")))
}

fn c_path(path: &Path) -> Result<CString> {
    ffi::init();
    let text = path.to_str().ok_or_else(|| Error::file(path, "the path is not UTF-8"))?;
    CString::new(text).map_err(|_| Error::file(path, "the path contains a NUL"))
}

unsafe extern "C" {
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut sys::FILE;
    fn fclose(file: *mut sys::FILE) -> c_int;
}

/// Writes the graph that computes `outputs` in Graphviz's language (`mx.export_to_dot`); `names` label arrays.
///
/// # Errors
/// If the file cannot be written.
pub fn export_to_dot(path: impl AsRef<Path>, outputs: &[Array], names: &[(&str, &Array)]) -> Result<()> {
    let path = path.as_ref();
    let file = c_path(path)?;
    let outputs = VectorArray::from_arrays(outputs);
    // SAFETY: valid handles and strings; the file is closed once
    unsafe {
        let out = fopen(file.as_ptr(), c"w".as_ptr());
        if out.is_null() {
            return Err(Error::file(path, std::io::Error::last_os_error().to_string()));
        }
        let namer = sys::mlx_node_namer_new();
        let mut named = Ok(());
        for (name, a) in names {
            named = named.and_then(|()| {
                let name = c_string(name)?;
                ffi::check(sys::mlx_node_namer_set_name(namer, a.raw, name.as_ptr()), Error::Data)
            });
        }
        let rc = deep(|| sys::mlx_export_to_dot(out, namer, outputs.raw));
        sys::mlx_node_namer_free(namer);
        let closed = fclose(out);
        named?;
        ffi::check(rc, |m| Error::file(path, m))?;
        if closed != 0 {
            return Err(Error::file(path, std::io::Error::last_os_error().to_string()));
        }
    }
    Ok(())
}
