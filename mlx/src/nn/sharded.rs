//! Models over several processes: averaged gradients, and linear layers of which each process holds a part.

use super::Module;
use super::linear::Linear;
use super::module::Path;
use crate::distributed::{Group, all_sum};
use crate::error::{Error, Result, refuse};
use crate::transforms::CustomFunction;
use crate::tree::Tree;
use crate::{Array, Dtype, contiguous};
use std::rc::Rc;

/// Gradients averaged over the processes of a group (`nn.average_gradients`).
///
/// Gradients of one dtype travel together in pieces of about `all_reduce_size` bytes (Python: 32 MiB); 0 sends each alone.
#[track_caller]
pub fn average_gradients<T: Tree>(grads: &T, group: &Group, all_reduce_size: usize) -> T {
    let n = group.size() as i32;
    if n == 1 {
        return grads.map(|_, g| g.clone());
    }
    let leaves = grads.leaves();
    let dtype = leaves.first().map_or(Dtype::Float32, Array::dtype);
    if all_reduce_size == 0 || leaves.iter().any(|g| g.dtype() != dtype) {
        return grads.map(|_, g| all_sum(g, Some(group)) / n);
    }
    let mut averaged = Vec::with_capacity(leaves.len());
    let mut rest = &leaves[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let many = rest.iter().take_while(|g| {
            let fits = bytes < all_reduce_size;
            bytes += g.nbytes();
            fits
        });
        let (now, later) = rest.split_at(many.count());
        let flat: Vec<Array> = now.iter().map(|g| g.reshape(-1)).collect();
        let sum = all_sum(&crate::concatenate(&flat, 0), Some(group)) / n;
        let mut start = 0;
        for g in now {
            let end = start + g.size() as i32;
            averaged.push(sum.slice_axis(0, start..end).reshape(g.shape()));
            start = end;
        }
        rest = later;
    }
    grads.with_leaves(averaged).unwrap_or_else(|e| refuse("average_gradients", e.to_string()))
}

/// Its input, whose gradient is summed over the processes (`sum_gradients`).
#[track_caller]
pub fn sum_gradients(x: &Array, group: &Rc<Group>) -> Array {
    if group.size() == 1 {
        return x.clone();
    }
    let group = group.clone();
    CustomFunction::new(|x: &Array| x.clone()).vjp(move |_, c: &Array, _| all_sum(c, Some(&group))).call(x)
}

/// Parts of an axis that are sharded one by one, as of fused projections.
#[derive(Debug, Clone, PartialEq)]
pub enum Segments {
    /// So many equal ones.
    Equal(i32),
    /// Split at these shares of the axis.
    At(Vec<f64>),
}

impl Default for Segments {
    fn default() -> Self {
        Segments::Equal(1)
    }
}

/// Which side of a linear layer is spread over the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// Every process has the whole input and makes a part of the output (`all-to-sharded`).
    AllToSharded,
    /// Every process has a part of the input; outputs are summed (`sharded-to-all`).
    ShardedToAll,
}

/// This process's part of `a` along `axis`.
pub(super) fn part(a: &Array, axis: i32, segments: &Segments, group: &Group) -> Result<Array> {
    let (n, rank, width) = (group.size() as i32, group.rank() as i32, a.dim(axis));
    let wrong = || Error::op("shard", format!("axis {axis} of {:?} into {n} parts of {segments:?}", a.shape()));
    let bounds: Vec<i32> = match segments {
        Segments::Equal(k) if *k > 0 && width % k == 0 => (0..=*k).map(|i| i * width / k).collect(),
        Segments::Equal(_) => return Err(wrong()),
        Segments::At(shares) => {
            let inner = shares.iter().map(|s| (s * f64::from(width)) as i32);
            std::iter::once(0).chain(inner).chain([width]).collect()
        }
    };
    let mut parts = Vec::new();
    for w in bounds.windows(2) {
        let len = w[1] - w[0];
        if len <= 0 || len % n != 0 {
            return Err(wrong());
        }
        let start = w[0] + rank * (len / n);
        parts.push(a.slice_axis(axis, start..start + len / n));
    }
    Ok(contiguous(&crate::concatenate(&parts, axis)))
}

/// This process's part of a linear layer, dense or quantised (`shard_inplace`).
///
/// # Errors
/// If the sizes do not divide among the processes.
pub fn shard_linear_parts(linear: &Linear, sharding: Sharding, segments: &Segments, group: &Group) -> Result<Linear> {
    let mut out = linear.clone();
    let mut failed = None;
    out.visit_mut(&mut Path::new(), &mut |name, p| {
        let axis = match (sharding, name) {
            (Sharding::AllToSharded, "bias") => -1,
            // of the inputs, which stay whole
            (Sharding::AllToSharded, "signs") => return,
            (Sharding::AllToSharded, _) => (p.ndim() as i32 - 2).max(0),
            (Sharding::ShardedToAll, "bias") => return,
            (Sharding::ShardedToAll, _) => -1,
        };
        match part(p.value(), axis, segments, group) {
            Ok(a) => p.set(a),
            Err(e) => failed = failed.take().or(Some(e)),
        }
    });
    failed.map_or(Ok(out), Err)
}

/// A linear layer whose output is spread over the processes (`nn.AllToShardedLinear`, also quantised).
#[derive(Debug, Clone, Module)]
pub struct AllToShardedLinear {
    #[module(flatten)]
    linear: Linear,
    #[module(skip)]
    group: Rc<Group>,
}

impl AllToShardedLinear {
    /// This process's part of `linear`.
    pub fn from_linear(linear: &Linear, segments: &Segments, group: Rc<Group>) -> Result<Self> {
        Ok(AllToShardedLinear { linear: shard_linear_parts(linear, Sharding::AllToSharded, segments, &group)?, group })
    }
    /// x: [..., in] -> [..., out / processes]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        self.linear.forward(&sum_gradients(x, &self.group))
    }
}

/// A linear layer whose input is spread over the processes (`nn.ShardedToAllLinear`, also quantised).
#[derive(Debug, Clone, Module)]
pub struct ShardedToAllLinear {
    #[module(flatten)]
    linear: Linear,
    #[module(skip)]
    group: Rc<Group>,
}

impl ShardedToAllLinear {
    /// This process's part of `linear`; the bias stays whole.
    pub fn from_linear(linear: &Linear, segments: &Segments, group: Rc<Group>) -> Result<Self> {
        Ok(ShardedToAllLinear { linear: shard_linear_parts(linear, Sharding::ShardedToAll, segments, &group)?, group })
    }
    /// x: [..., in / processes] -> [..., out]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        let y = all_sum(&self.linear.forward_without_bias(x), Some(&self.group));
        match self.linear.bias() {
            Some(b) => y + b,
            None => y,
        }
    }
}
