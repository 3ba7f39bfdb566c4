//! What can be done with a model as a whole: parameters by name, freezing, updating, files.

use super::module::{Module, Param, Path};
use crate::error::{Error, Result};
use crate::{Array, Dtype};
use std::collections::HashMap;

/// Methods of every [`Module`].
pub trait ModuleExt: Module {
    /// All parameters by dotted name.
    fn parameters(&self) -> Vec<(String, Array)> {
        self.parameters_where(|_, _| true)
    }

    /// The parameters that are trained (`trainable_parameters`).
    fn trainable(&self) -> Vec<(String, Array)> {
        self.parameters_where(|_, p| p.is_trainable())
    }

    /// The parameters that `keep` accepts (`filter_and_map`).
    fn parameters_where(&self, keep: impl Fn(&str, &Param) -> bool) -> Vec<(String, Array)> {
        let mut out = Vec::new();
        self.visit(&mut Path::new(), &mut |name, p| {
            if keep(name, p) {
                out.push((name.to_string(), p.value().clone()));
            }
        });
        out
    }

    /// Paths of all modules, the model itself first (`named_modules`).
    fn module_names(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.modules(&mut Path::new(), &mut |path| out.push(path.to_string()));
        out
    }

    /// Paths of the modules without modules in them, other than the model (`leaf_modules`).
    fn leaf_module_names(&self) -> Vec<String> {
        let all = self.module_names();
        let holds = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        let leaf = |n: &&String| !n.is_empty() && !all.iter().any(|m| holds(n, m));
        all.iter().filter(leaf).cloned().collect()
    }

    /// Number of parameter elements (of a quantised weight: of its packed words).
    fn num_parameters(&self) -> usize {
        let mut n = 0;
        self.visit(&mut Path::new(), &mut |_, p| n += p.size());
        n
    }

    /// Bytes of all parameters.
    fn nbytes(&self) -> usize {
        let mut n = 0;
        self.visit(&mut Path::new(), &mut |_, p| n += p.nbytes());
        n
    }

    /// Stops training every parameter.
    fn freeze(&mut self) {
        self.freeze_where(|_| true);
    }

    /// Stops training the parameters whose dotted name `which` accepts.
    fn freeze_where(&mut self, which: impl Fn(&str) -> bool) {
        self.visit_mut(&mut Path::new(), &mut |name, p| {
            if which(name) {
                p.set_trainable(false);
            }
        });
    }

    /// Trains every parameter again, except the parts of quantised weights (as in Python).
    fn unfreeze(&mut self) {
        self.visit_mut(&mut Path::new(), &mut |_, p| {
            if !p.is_sealed() {
                p.set_trainable(true);
            }
        });
    }

    /// Trains the floating-point parameters whose dotted name `which` accepts.
    fn unfreeze_where(&mut self, which: impl Fn(&str) -> bool) {
        self.visit_mut(&mut Path::new(), &mut |name, p| {
            if which(name) && p.dtype().is_inexact() {
                p.set_trainable(true);
            }
        });
    }

    /// Replaces parameters by name.
    ///
    /// # Errors
    /// If a name is unknown or a shape differs; with `strict` also if a parameter is missing from `values`. Then the
    /// model is unchanged.
    fn update<N: AsRef<str>>(&mut self, values: impl IntoIterator<Item = (N, Array)>, strict: bool) -> Result<()> {
        let mut values: HashMap<String, Array> = values.into_iter().map(|(n, v)| (n.as_ref().to_string(), v)).collect();
        let (mut missing, mut wrong, mut known) = (None, None, 0);
        self.visit(&mut Path::new(), &mut |name, p| match values.get(name) {
            None => missing = missing.take().or_else(|| Some(name.to_string())),
            Some(v) => {
                known += 1;
                if v.shape() != p.shape() && wrong.is_none() {
                    wrong =
                        Some(Error::parameter(name, format!("shape {:?} expected, {:?} given", p.shape(), v.shape())));
                }
            }
        });
        if let Some(e) = wrong {
            return Err(e);
        }
        if known < values.len() {
            let mut names = std::collections::HashSet::new();
            self.visit(&mut Path::new(), &mut |name, _| {
                names.insert(name.to_string());
            });
            let mut extra: Vec<&String> = values.keys().filter(|n| !names.contains(*n)).collect();
            extra.sort();
            return match extra.first() {
                Some(name) => Err(Error::parameter(*name, format!("not in the model ({} such names)", extra.len()))),
                None => Err(Error::parameter("", "two parameters of the model have the same name")),
            };
        }
        if let (true, Some(name)) = (strict, missing) {
            return Err(Error::parameter(name, "missing"));
        }
        self.visit_mut(&mut Path::new(), &mut |name, p| {
            if let Some(v) = values.remove(name) {
                p.set(v);
            }
        });
        Ok(())
    }

    /// Replaces each parameter by `f` of it (`apply`).
    fn apply(&mut self, mut f: impl FnMut(&str, &Array) -> Array) {
        self.visit_mut(&mut Path::new(), &mut |name, p| {
            let v = f(name, p.value());
            p.set(v);
        });
    }

    /// Converts the floating-point parameters (`set_dtype`).
    fn set_dtype(&mut self, dtype: Dtype) {
        self.apply(|_, a| if a.dtype().is_inexact() { a.astype(dtype) } else { a.clone() });
    }

    /// Reads parameters from a safetensors (or npz) file; without `strict`, names that only one side has are left out.
    ///
    /// # Errors
    /// If the file is not readable or a shape differs; with `strict` also if a name is unknown or missing.
    fn load_weights(&mut self, path: impl AsRef<std::path::Path>, strict: bool) -> Result<()> {
        let mut arrays = crate::io::load(path)?.into_arrays()?;
        if !strict {
            let mut known = std::collections::BTreeMap::new();
            self.visit(&mut Path::new(), &mut |name, _| {
                if let Some((name, a)) = arrays.remove_entry(name) {
                    known.insert(name, a);
                }
            });
            arrays = known;
        }
        self.update(arrays, strict)
    }

    /// Writes all parameters to a safetensors (or npz) file.
    fn save_weights(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        crate::io::save_arrays(path, self.parameters().iter().map(|(n, a)| (n.as_str(), a)))
    }

    /// Switches to training (the state of a new layer).
    fn train(&mut self) {
        self.set_training(true);
    }

    /// Switches to inference.
    fn eval(&mut self) {
        self.set_training(false);
    }

    /// Computes all parameters now.
    fn materialize(&self) -> Result<()> {
        crate::eval(self.parameters().iter().map(|(_, a)| a))
    }
}

impl<M: Module + ?Sized> ModuleExt for M {}
