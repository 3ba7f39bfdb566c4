//! What a lazy graph holds, for profiles: the ops that an evaluation would run.

use crate::{Array, ffi};
use mlx_sys as sys;
use std::collections::{BTreeMap, HashSet};
use std::ffi::CStr;

/// Ops by name that evaluating `outputs` would run, each counted once. Arrays that are evaluated already end the walk.
///
/// ```
/// use mlx::{self as mx, Array};
/// let x = Array::from_slice(&[1.0f32, 2.0], [2]);
/// let y = x.exp();
/// let ops = mx::graph_ops(&[&y + &y, y.clone()]);
/// assert_eq!((ops["Exp"], ops["Add"]), (1, 1));
/// ```
pub fn graph_ops(outputs: &[Array]) -> BTreeMap<String, usize> {
    ffi::init();
    let (mut counts, mut seen) = (BTreeMap::new(), HashSet::new());
    let mut open: Vec<Array> = outputs.to_vec();
    while let Some(a) = open.pop() {
        let (mut op, mut id, mut has) = (0usize, 0usize, false);
        // SAFETY: a valid handle and valid out-pointers; the string and the vector are freed below
        unsafe {
            let known = sys::mlxs_array_has_primitive(&mut has, a.as_raw()) == 0
                && sys::mlxs_array_primitive_id(&mut op, a.as_raw()) == 0
                && sys::mlxs_array_id(&mut id, a.as_raw()) == 0;
            if !known {
                ffi::take_message();
                continue;
            }
            // several outputs of one op are several arrays with one primitive; walk each array, count each op
            if !has || !seen.insert((false, id)) {
                continue;
            }
            if seen.insert((true, op)) {
                let mut name = sys::mlx_string_new();
                if sys::mlxs_array_primitive_name(&mut name, a.as_raw()) == 0 {
                    let text = CStr::from_ptr(sys::mlx_string_data(name)).to_string_lossy().into_owned();
                    *counts.entry(text).or_insert(0) += 1;
                }
                sys::mlx_string_free(name);
            }
            let mut inputs = ffi::VectorArray::new();
            if sys::mlxs_array_inputs(&mut inputs.raw, a.as_raw()) == 0 {
                open.extend(inputs.to_vec());
            }
        }
    }
    counts
}
