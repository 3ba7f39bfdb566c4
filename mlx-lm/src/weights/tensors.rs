//! The tensors of a checkpoint while it is being loaded: names to lazily read arrays, and the moves that bring
//! published layouts into the shape that mixers ask for.
//!
//! Renaming and dropping touch no data; a tensor becomes an array when it is first changed or taken.

use super::{Checkpoint, Dtype};
use crate::{Error, Result};
use mlx::{self as mx, Array};
use std::collections::BTreeMap;

/// One tensor: still in the file, or an array.
#[derive(Debug, Clone)]
enum Tensor {
    /// `from`: its name in the checkpoint, which reads (or converts) it when it is taken.
    Stored {
        checkpoint: Checkpoint,
        from: String,
        dtype: Dtype,
        shape: Vec<i32>,
    },
    Array(Array),
}

/// Tensors by name, each taken once.
#[derive(Debug, Default)]
pub struct Tensors {
    map: BTreeMap<String, Tensor>,
    /// Where they came from, for messages.
    origin: String,
    /// What stored 16- and 32-bit floats become when they are taken.
    float: Option<mx::Dtype>,
    /// Stand-ins of the right type and shape are taken; no byte is read.
    outline: bool,
}

impl Tensors {
    /// All tensors of a checkpoint, none of them read yet.
    pub fn open(checkpoint: &Checkpoint) -> Result<Tensors> {
        let mut map = BTreeMap::new();
        for info in checkpoint.infos() {
            let shape = info
                .shape
                .iter()
                .map(|&d| i32::try_from(d))
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|_| Error::tensor(&info.name, format!("shape {:?} is too large", info.shape)))?;
            let (checkpoint, from) = (checkpoint.clone(), info.name.clone());
            let tensor = Tensor::Stored { checkpoint, from, dtype: info.dtype, shape };
            map.insert(info.name.clone(), tensor);
        }
        Ok(Tensors { map, origin: checkpoint.path().display().to_string(), ..Tensors::default() })
    }

    /// Makes stored floats (f16, bf16, f32) arrays of this type, dense weights and scales alike.
    pub fn cast_floats(&mut self, dtype: Option<mx::Dtype>) {
        self.float = dtype;
    }

    /// Takes stand-ins of the right type and shape from now on: a model is built from them, and never computed.
    pub fn outline(&mut self) {
        self.outline = true;
    }

    pub fn is_outline(&self) -> bool {
        self.outline
    }

    /// Where the tensors came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }
    /// Whether any name starts with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.map.range(prefix.to_string()..).next().is_some_and(|(k, _)| k.starts_with(prefix))
    }
    pub fn shape(&self, name: &str) -> Option<&[i32]> {
        Some(match self.map.get(name)? {
            Tensor::Stored { shape, .. } => shape,
            Tensor::Array(a) => a.shape(),
        })
    }
    /// The type in the file; `None` for a tensor that was changed or is absent.
    pub fn stored_dtype(&self, name: &str) -> Option<Dtype> {
        match self.map.get(name)? {
            Tensor::Stored { dtype, .. } => Some(*dtype),
            Tensor::Array(_) => None,
        }
    }
    /// The type that dense weights are computed in: what is asked for, else that of the first such weight.
    pub fn float_type(&self) -> mx::Dtype {
        let stored = |(name, t): (&String, &Tensor)| match t {
            Tensor::Stored { dtype, .. } if name.ends_with(".weight") => match dtype {
                Dtype::F16 => Some(mx::Dtype::Float16),
                Dtype::BF16 => Some(mx::Dtype::Bfloat16),
                Dtype::F32 => Some(mx::Dtype::Float32),
                _ => None,
            },
            _ => None,
        };
        self.float.or_else(|| self.map.iter().find_map(stored)).unwrap_or(mx::Dtype::Bfloat16)
    }
    /// Whether it is made of bytes (uint8).
    pub fn is_bytes(&self, name: &str) -> bool {
        match self.map.get(name) {
            Some(Tensor::Stored { dtype, .. }) => *dtype == Dtype::U8,
            Some(Tensor::Array(a)) => a.dtype() == mx::Dtype::Uint8,
            None => false,
        }
    }
    /// Takes a tensor out. 8-bit floats come as their bytes (uint8).
    pub fn take(&mut self, name: &str) -> Result<Array> {
        match self.map.remove(name) {
            Some(t) => t.into_array(name, self.float, self.outline),
            None => Err(Error::tensor(name, format!("missing in {}", self.origin))),
        }
    }
    /// A stored whole number that says how others are to be read; it is taken out, also where only shapes are wanted.
    pub fn take_number(&mut self, name: &str) -> Result<i64> {
        let fail = || Error::tensor(name, format!("is not a whole number in {}", self.origin));
        let Some(Tensor::Stored { checkpoint, from, dtype, .. }) = self.map.get(name) else { return Err(fail()) };
        let bytes = checkpoint.bytes(from)?;
        let number = match dtype {
            Dtype::U8 => bytes.first().map(|b| i64::from(*b)),
            Dtype::I32 | Dtype::U32 => {
                bytes.get(..4).and_then(|b| Some(i64::from(i32::from_le_bytes(b.try_into().ok()?))))
            }
            Dtype::I64 => bytes.get(..8).and_then(|b| Some(i64::from_le_bytes(b.try_into().ok()?))),
            _ => None,
        };
        let number = number.ok_or_else(fail)?;
        self.remove(name);
        Ok(number)
    }
    /// As [`take`](Self::take), a float in the type that it is stored in.
    pub fn take_exact(&mut self, name: &str) -> Result<Array> {
        let float = self.float.take();
        let taken = self.take(name);
        self.float = float;
        taken
    }
    pub fn insert(&mut self, name: impl Into<String>, array: Array) {
        self.map.insert(name.into(), Tensor::Array(array));
    }
    /// Drops a tensor, if it is there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.map.remove(name).is_some()
    }
    pub fn rename(&mut self, from: &str, to: impl Into<String>) -> Result<()> {
        match self.map.remove(from) {
            Some(t) => self.put(to.into(), t),
            None => Err(Error::tensor(from, format!("missing in {}", self.origin))),
        }
    }

    fn put(&mut self, name: String, tensor: Tensor) -> Result<()> {
        match self.map.insert(name.clone(), tensor) {
            None => Ok(()),
            Some(_) => Err(Error::tensor(name, format!("two tensors of {} get this name", self.origin))),
        }
    }

    /// Gives every tensor the name that `f` returns; `None` drops it.
    pub fn rename_all(&mut self, f: impl Fn(&str) -> Option<String>) -> Result<()> {
        for (name, tensor) in std::mem::take(&mut self.map) {
            if let Some(new) = f(&name) {
                self.put(new, tensor)?;
            }
        }
        Ok(())
    }
    /// Drops the tensors whose name `f` accepts (vision towers, rotary tables, unused heads).
    pub fn drop_where(&mut self, f: impl Fn(&str) -> bool) {
        self.map.retain(|name, _| !f(name));
    }
    /// Replaces a prefix of names: `strip("language_model.", "")`. Names without it stay.
    pub fn replace_prefix(&mut self, from: &str, to: &str) -> Result<()> {
        self.rename_all(|n| Some(n.strip_prefix(from).map_or_else(|| n.to_string(), |rest| format!("{to}{rest}"))))
    }
    /// Changes one tensor's value.
    pub fn change(&mut self, name: &str, f: impl FnOnce(Array) -> Array) -> Result<()> {
        let new = f(self.take(name)?);
        self.insert(name, new);
        Ok(())
    }
    /// Changes every tensor whose name `which` accepts.
    fn change_where(&mut self, which: impl Fn(&str) -> bool, f: impl Fn(Array) -> Array) -> Result<()> {
        let names: Vec<String> = self.names().filter(|n| which(n)).map(String::from).collect();
        names.iter().try_for_each(|n| self.change(n, &f))
    }
    /// Swaps the last two axes of every tensor whose name `which` accepts (GPT-2's [in, out] matrices).
    pub fn transpose_where(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        self.change_where(which, |a| mx::contiguous(&a.swapaxes(-1, -2)))
    }
    /// Makes a tensor of one element 0-d, if it is there.
    pub fn to_scalar(&mut self, name: &str) -> Result<()> {
        if self.has(name) { self.change(name, |a| a.reshape(())) } else { Ok(()) }
    }
    /// Drops a first axis of length 1.
    pub fn squeeze_first(&mut self, name: &str) -> Result<()> {
        let a = self.take(name)?;
        self.insert(name, mx::catch(|| a.squeeze(0))?);
        Ok(())
    }
    /// Cuts the rows of a matrix [n * r, c] into [n, r, c], under another name.
    pub fn unflatten_rows(&mut self, name: &str, n: i32, to: &str) -> Result<()> {
        let a = self.take(name)?;
        self.insert(to, mx::catch(|| a.unflatten(0, [n, -1]))?);
        Ok(())
    }
    /// Reorders the rows of each head of `width` rows: those of pairs (i, i + width / 2) become neighbours.
    pub fn interleave_halves(&mut self, name: &str, width: i32) -> Result<()> {
        let a = self.take(name)?;
        let rows = mx::catch(|| a.unflatten(0, [-1, 2, width / 2]).swapaxes(1, 2).flatten(0, 2))?;
        self.insert(name, mx::contiguous(&rows));
        Ok(())
    }
    /// Divides each row of a matrix by its length plus `eps`.
    pub fn unit_rows(&mut self, name: &str, eps: f32) -> Result<()> {
        self.change(name, |w| {
            let f = w.astype(mx::Dtype::Float32);
            let length = f.square().sum_keepdims(-1).sqrt();
            (f / (length + eps)).astype(w.dtype())
        })
    }
    /// The names that `f` accepts.
    pub fn select(&self, f: impl Fn(&str) -> bool) -> Vec<String> {
        self.names().filter(|n| f(n)).map(String::from).collect()
    }

    /// Joins per-expert tensors along a new first axis: `{prefix}.{e}.{leaf}` for e in 0..n become `{to}`.
    ///
    /// Does nothing when expert 0 is absent; a later one that is missing is an error.
    pub fn stack(&mut self, n: i32, from: impl Fn(i32) -> String, to: impl Into<String>) -> Result<()> {
        if n == 0 || !self.has(&from(0)) {
            return Ok(());
        }
        let parts = (0..n).map(|e| self.take(&from(e))).collect::<Result<Vec<_>>>()?;
        self.insert(to, mx::catch(|| mx::stack(&parts, 0))?);
        Ok(())
    }

    /// Joins tensors along their first axis; does nothing when the first is absent.
    pub fn join(&mut self, from: &[String], to: &str) -> Result<()> {
        if !from.first().is_some_and(|n| self.has(n)) {
            return Ok(());
        }
        let parts = from.iter().map(|n| self.take(n)).collect::<Result<Vec<_>>>()?;
        self.insert(to, mx::catch(|| mx::concatenate(&parts, 0))?);
        Ok(())
    }

    /// Makes a tensor 1-d, of its first `n` numbers.
    pub fn flatten(&mut self, name: &str, n: i32) -> Result<()> {
        if self.shape(name).is_none_or(|s| s == [n] || s.iter().product::<i32>() < n) {
            return Ok(());
        }
        self.change(name, |a| mx::contiguous(&a.flatten(0, -1).slice_axis(0, 0..n)))
    }

    /// Cuts a tensor along `axis` into parts of these sizes.
    pub fn split(&mut self, name: &str, axis: i32, parts: &[(i32, &str)]) -> Result<()> {
        let whole = self.take(name)?;
        let total: i32 = parts.iter().map(|(n, _)| n).sum();
        if mx::catch(|| whole.dim(axis))? != total {
            let sizes: Vec<i32> = parts.iter().map(|(n, _)| *n).collect();
            return Err(Error::tensor(
                name,
                format!("axis {axis} of {:?} does not split into {sizes:?}", whole.shape()),
            ));
        }
        let mut at = 0;
        for (n, to) in parts {
            self.insert(*to, mx::catch(|| mx::contiguous(&whole.slice_axis(axis, at..at + n)))?);
            at += n;
        }
        Ok(())
    }

    /// Cuts a tensor whose rows are `groups` groups of parts of these sizes: each part's rows of all groups together.
    pub fn split_groups(&mut self, name: &str, groups: i32, parts: &[(i32, &str)]) -> Result<()> {
        self.change(name, |a| if groups > 0 && a.dim(0) % groups == 0 { a.unflatten(0, [groups, -1]) } else { a })?;
        self.split(name, 1, parts)?;
        parts.iter().try_for_each(|(_, to)| self.change(to, |a| mx::contiguous(&a.flatten(0, 1))))
    }

    /// Cuts a tensor whose rows alternate along `axis` (negative) into the even and the odd ones.
    pub fn split_alternating(&mut self, name: &str, axis: i32, even: &str, odd: &str) -> Result<()> {
        let whole = self.take(name)?;
        let pairs = mx::catch(|| whole.unflatten(axis, [-1, 2]))?;
        for (i, to) in [even, odd].into_iter().enumerate() {
            let i = i as i32;
            self.insert(to, mx::catch(|| mx::contiguous(&pairs.slice_axis(axis, i..i + 1).squeeze(axis)))?);
        }
        Ok(())
    }

    /// Bytes [.., groups, 4 n] become words [.., groups * n] under another name.
    pub fn bytes_to_words(&mut self, name: &str, to: &str) -> Result<()> {
        let bytes = self.take(name)?;
        self.insert(to, mx::catch(|| bytes.view(mx::Dtype::Uint32).flatten(-2, -1))?);
        Ok(())
    }

    /// Adds a number to every tensor whose name `which` accepts (norms published as weight - 1).
    pub fn shift_where(&mut self, which: impl Fn(&str) -> bool, by: f32) -> Result<()> {
        self.change_where(which, |a| a + by)
    }

    /// Rounds every tensor whose name `which` accepts to bf16.
    pub fn round_bf16_where(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        self.change_where(which, |a| a.astype(mx::Dtype::Bfloat16))
    }

    /// Multiplies every tensor whose name `which` accepts (falcon_h1's multipliers).
    pub fn scale_where(&mut self, which: impl Fn(&str) -> bool, by: f32) -> Result<()> {
        self.change_where(which, |a| a * by)
    }

    /// Multiplies blocks of rows, one after the other, by a factor each: (rows, factor).
    pub fn scale_rows_where(&mut self, which: impl Fn(&str) -> bool, blocks: &[(i32, f32)]) -> Result<()> {
        let parts: Vec<Array> = blocks.iter().map(|&(n, by)| mx::full([n, 1], by, Some(mx::Dtype::Float32))).collect();
        self.change_where(which, |w| &w * mx::concatenate(&parts, 0).astype(w.dtype()))
    }

    /// Divides each column of a matrix by its length + eps.
    pub fn unit_columns(&mut self, name: &str, eps: f32) -> Result<()> {
        self.change(name, |w| {
            let length = w.astype(mx::Dtype::Float32).square().sum_keepdims(0).sqrt() + eps;
            (&w / length).astype(w.dtype())
        })
    }

    /// Moves axis 1 of published convolution weights [C, 1, K] to the end, where they are not [C, K, 1] already.
    pub fn conv_last(&mut self, suffix: &str) -> Result<()> {
        for name in self.select(|n| n.ends_with(suffix)) {
            if self.shape(&name).is_some_and(|s| s.len() == 3 && s[2] != 1) {
                self.change(&name, |a| a.moveaxis(2, 1))?;
            }
        }
        Ok(())
    }
}

impl Tensor {
    fn into_array(self, name: &str, float: Option<mx::Dtype>, outline: bool) -> Result<Array> {
        let (checkpoint, from, dtype, shape) = match self {
            Tensor::Array(a) => return Ok(a),
            Tensor::Stored { checkpoint, from, dtype, shape } => (checkpoint, from, dtype, shape),
        };
        use mx::Dtype as D;
        let to = match dtype {
            Dtype::Bool => D::Bool,
            Dtype::U8 | Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F8E8M0 => D::Uint8,
            Dtype::I8 => D::Int8,
            Dtype::U16 => D::Uint16,
            Dtype::I16 => D::Int16,
            Dtype::F16 => D::Float16,
            Dtype::BF16 => D::Bfloat16,
            Dtype::U32 => D::Uint32,
            Dtype::I32 => D::Int32,
            Dtype::F32 => D::Float32,
            Dtype::U64 => D::Uint64,
            Dtype::I64 => D::Int64,
            Dtype::F64 => D::Float64,
            Dtype::C64 => D::Complex64,
        };
        let array = match outline {
            true => mx::catch(|| mx::zeros(&shape[..], to))?,
            false => Array::try_from_bytes(&checkpoint.bytes(&from)?, &shape, to)
                .map_err(|e| Error::tensor(name, e.to_string()))?,
        };
        match (float, dtype) {
            (Some(f), Dtype::F16 | Dtype::BF16 | Dtype::F32) => Ok(array.astype(f)),
            _ => Ok(array),
        }
    }
}
