//! Modules whose parameters are spread over the processes and gathered for each call (FSDP, `nn.fully_shard`).

use super::module::{Module, Path};
use super::module_ext::ModuleExt;
use super::sharded::{Segments, part};
use crate::distributed::{Group, all_gather, sum_scatter};
use crate::error::{Error, Result};
use crate::transforms::CustomFunction;
use crate::{Array, Dtype};
use std::rc::Rc;

/// A module of which each process keeps a part of every parameter (`nn.FullyShardedModule`).
///
/// Parameters report as `module.<name>`; gradients come back averaged over the processes, and sharded.
#[derive(Clone, mlx_macros::Module)]
pub struct FullyShardedModule<M> {
    module: M,
    #[module(skip)]
    group: Rc<Group>,
    #[module(skip)]
    shapes: Vec<Vec<i32>>,
    #[module(skip)]
    compute_dtype: Option<Dtype>,
}

/// Keeps this process's part of each parameter along its first axis.
///
/// # Errors
/// If a parameter is a scalar, or its first axis does not divide among the processes.
pub fn fully_shard<M: Module + Clone>(
    module: M,
    group: Rc<Group>,
    compute_dtype: Option<Dtype>,
) -> Result<FullyShardedModule<M>> {
    let n = group.size() as i32;
    let mut module = module;
    let (mut shapes, mut failed) = (Vec::new(), None);
    module.visit_mut(&mut Path::new(), &mut |name, p| {
        shapes.push(p.shape().to_vec());
        if p.ndim() == 0 || p.dim(0) % n != 0 {
            let message = format!("axis 0 of {:?} cannot be spread over {n} processes", p.shape());
            failed = failed.take().or(Some(Error::parameter(name, message)));
            return;
        }
        match part(p.value(), 0, &Segments::default(), &group) {
            Ok(a) => p.set(a),
            Err(e) => failed = failed.take().or(Some(e)),
        }
    });
    failed.map_or(Ok(FullyShardedModule { module, group, shapes, compute_dtype }), Err)
}

impl<M: Module + Clone> FullyShardedModule<M> {
    /// Runs `f` on the module with its whole parameters.
    #[track_caller]
    pub fn call<R>(&self, f: impl FnOnce(&M) -> R) -> R {
        let shards: Vec<Array> = self.module.parameters().into_iter().map(|(_, a)| a).collect();
        let mut whole = self.module.clone();
        let mut full = self.gather().call(&shards).into_iter();
        whole.visit_mut(&mut Path::new(), &mut |_, p| {
            if let Some(a) = full.next() {
                p.set(a);
            }
        });
        f(&whole)
    }

    /// From all shards of this process to whole parameters; backwards, gradients are averaged and sharded.
    fn gather(&self) -> CustomFunction<Vec<Array>, Vec<Array>> {
        let (group, shapes, dtype) = (self.group.clone(), self.shapes.clone(), self.compute_dtype);
        let n = group.size() as i32;
        let back = group.clone();
        CustomFunction::new(move |shards: &Vec<Array>| {
            let flat = shards.iter().map(|s| dtype.map_or_else(|| s.clone(), |d| s.astype(d)).reshape([1, -1]));
            let full = all_gather(&crate::concatenate(&flat.collect::<Vec<_>>(), 1), Some(&group));
            let mut start = 0;
            let whole = |(shape, shard): (&Vec<i32>, &Array)| {
                let end = start + shard.size() as i32;
                let a = full.slice_axis(1, start..end).reshape(&shape[..]);
                start = end;
                a
            };
            shapes.iter().zip(shards).map(whole).collect()
        })
        .vjp(move |shards, cotangents: &Vec<Array>, _| {
            let flat: Vec<Array> = cotangents.iter().map(|c| c.reshape([n, -1])).collect();
            let local = sum_scatter(&crate::concatenate(&flat, 1), Some(&back)) / n;
            let mut start = 0;
            let own = |shard: &Array| {
                let end = start + shard.size() as i32;
                let g = local.slice_axis(1, start..end).reshape(shard.shape()).astype(shard.dtype());
                start = end;
                g
            };
            shards.iter().map(own).collect()
        })
    }
}
