//! Normalisation layers.

use super::Module;
use super::module::{Param, Path, visit_field, visit_field_mut};
use crate::error::refuse;
use crate::{Array, Dtype, fast};
use std::cell::RefCell;

/// x / rms(x) * weight over the last axis (`nn.RMSNorm`).
#[derive(Debug, Clone, Module)]
pub struct RmsNorm {
    pub weight: Option<Param>,
    pub eps: f32,
}

impl RmsNorm {
    pub fn new(weight: Option<Array>, eps: f32) -> Self {
        RmsNorm { weight: weight.map(Param::new), eps }
    }
    /// A new layer with weight one.
    #[track_caller]
    pub fn init(dims: i32, eps: f32) -> Self {
        RmsNorm::new(Some(crate::ones([dims], Dtype::Float32)), eps)
    }
    /// x: [..., D] -> [..., D]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        fast::rms_norm(x, self.weight.as_deref(), self.eps)
    }
}

/// (x - mean) / std * weight + bias over the last axis (`nn.LayerNorm`).
#[derive(Debug, Clone, Module)]
pub struct LayerNorm {
    pub weight: Option<Param>,
    pub bias: Option<Param>,
    pub eps: f32,
}

impl LayerNorm {
    pub fn new(weight: Option<Array>, bias: Option<Array>, eps: f32) -> Self {
        LayerNorm { weight: weight.map(Param::new), bias: bias.map(Param::new), eps }
    }
    /// A new layer with weight one and bias zero, or without one or both.
    #[track_caller]
    pub fn init(dims: i32, eps: f32, affine: bool, bias: bool) -> Self {
        let weight = affine.then(|| crate::ones([dims], Dtype::Float32));
        let bias = (affine && bias).then(|| crate::zeros([dims], Dtype::Float32));
        LayerNorm::new(weight, bias, eps)
    }
    /// x: [..., D] -> [..., D]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        fast::layer_norm(x, self.weight.as_deref(), self.bias.as_deref(), self.eps)
    }
}

/// Normalises each channel of each example: [N, ..., C] (`nn.InstanceNorm`).
#[derive(Debug, Clone, Module)]
pub struct InstanceNorm {
    pub weight: Option<Param>,
    pub bias: Option<Param>,
    pub eps: f32,
}

impl InstanceNorm {
    /// A new layer, with weight one and bias zero if `affine` (Python: eps 1e-5, not affine).
    #[track_caller]
    pub fn init(dims: i32, eps: f32, affine: bool) -> Self {
        let (weight, bias) = affine_params(dims, affine);
        InstanceNorm { weight, bias, eps }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        if x.ndim() < 3 {
            refuse("InstanceNorm", format!("at least 3 axes expected, shape is {:?}", x.shape()));
        }
        let first = x.moveaxis(-1, 1);
        let y = fast::layer_norm(&first.reshape([x.dim(0), x.dim(-1), -1]), None, None, self.eps);
        scale_and_shift(y.reshape(first.shape()).moveaxis(1, -1), &self.weight, &self.bias)
    }
}

/// Normalises groups of channels over all positions: [N, ..., C] (`nn.GroupNorm`).
#[derive(Debug, Clone, Module)]
pub struct GroupNorm {
    pub bias: Option<Param>,
    pub weight: Option<Param>,
    pub num_groups: i32,
    pub eps: f32,
    /// Groups are neighbouring channels, as in PyTorch, instead of every `num_groups`-th.
    pub pytorch_compatible: bool,
}

impl GroupNorm {
    /// A new layer; panics if the groups do not divide the channels (Python: eps 1e-5, affine).
    #[track_caller]
    pub fn init(num_groups: i32, dims: i32, eps: f32, affine: bool, pytorch_compatible: bool) -> Self {
        if num_groups < 1 || dims < 1 || dims % num_groups != 0 {
            refuse("GroupNorm", format!("{num_groups} groups do not divide {dims} channels"));
        }
        let (weight, bias) = affine_params(dims, affine);
        GroupNorm { bias, weight, num_groups, eps, pytorch_compatible }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        let (batch, groups) = (x.dim(0), self.num_groups);
        let y = if self.pytorch_compatible {
            let y = x.reshape([batch, -1, groups, x.dim(-1) / groups.max(1)]).transpose([0, 2, 1, 3]);
            let shape = y.shape().to_vec();
            fast::layer_norm(&y.reshape([batch, groups, -1]), None, None, self.eps)
                .reshape(shape)
                .transpose([0, 2, 1, 3])
        } else {
            let y = x.reshape([batch, -1, groups]);
            let var = crate::var_with(&y, 1, true, 0);
            (&y - y.mean_keepdims(1)) * (var + self.eps).rsqrt()
        };
        scale_and_shift(y.reshape(x.shape()), &self.weight, &self.bias)
    }
}

/// Normalises each channel over the batch, with running statistics for inference: [N, ..., C] (`nn.BatchNorm`).
#[derive(Debug, Clone)]
pub struct BatchNorm {
    pub weight: Option<Param>,
    pub bias: Option<Param>,
    pub eps: f32,
    /// Share of the batch in the running statistics.
    pub momentum: f64,
    pub training: bool,
    running: Option<RefCell<Running>>,
}

#[derive(Debug, Clone)]
struct Running {
    mean: Param,
    var: Param,
}

impl BatchNorm {
    /// A new layer (Python: eps 1e-5, momentum 0.1, affine, with running statistics).
    #[track_caller]
    pub fn init(features: i32, eps: f32, momentum: f64, affine: bool, track_running_stats: bool) -> Self {
        let (weight, bias) = affine_params(features, affine);
        let running = track_running_stats.then(|| {
            let (mean, var) = (crate::zeros([features], Dtype::Float32), crate::ones([features], Dtype::Float32));
            RefCell::new(Running { mean: Param::sealed(mean), var: Param::sealed(var) })
        });
        BatchNorm { weight, bias, eps, momentum, training: true, running }
    }

    /// Python's defaults.
    #[track_caller]
    pub fn new(features: i32) -> Self {
        BatchNorm::init(features, 1e-5, 0.1, true, true)
    }

    /// Running mean and variance.
    pub fn running(&self) -> Option<(Array, Array)> {
        let r = self.running.as_ref()?.borrow();
        Some((r.mean.value().clone(), r.var.value().clone()))
    }

    /// In training normalises by the batch and moves the running statistics, else by these.
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        if !(2..=4).contains(&x.ndim()) {
            refuse("BatchNorm", format!("2, 3 or 4 axes expected, shape is {:?}", x.shape()));
        }
        if self.training && x.size() as i32 == x.dim(-1) {
            refuse("BatchNorm", "training needs more than one value for each channel");
        }
        let axes: Vec<i32> = (0..x.ndim() as i32 - 1).collect();
        let (mean, var) = match (&self.running, self.training) {
            (Some(running), false) => {
                let r = running.borrow();
                (r.mean.value().clone(), r.var.value().clone())
            }
            (running, _) => {
                let mean = x.mean(&axes[..]);
                if let Some(running) = running {
                    let (mu, mut r) = (self.momentum, running.borrow_mut());
                    let (keep, unbiased) = (1.0 - mu, crate::var_with(x, &axes[..], false, 1));
                    let mean = r.mean.value() * keep + &mean * mu;
                    let var = r.var.value() * keep + unbiased * mu;
                    r.mean.set(mean);
                    r.var.set(var);
                }
                (mean, x.var(&axes[..]))
            }
        };
        scale_and_shift((x - mean) * (var + self.eps).rsqrt(), &self.weight, &self.bias)
    }
}

impl Module for BatchNorm {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        visit_field(&self.weight, "weight", path, f);
        visit_field(&self.bias, "bias", path, f);
        if let Some(running) = &self.running {
            let r = running.borrow();
            visit_field(&r.mean, "running_mean", path, f);
            visit_field(&r.var, "running_var", path, f);
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        visit_field_mut(&mut self.weight, "weight", path, f);
        visit_field_mut(&mut self.bias, "bias", path, f);
        if let Some(running) = &mut self.running {
            let r = running.get_mut();
            visit_field_mut(&mut r.mean, "running_mean", path, f);
            visit_field_mut(&mut r.var, "running_var", path, f);
        }
    }
    fn set_training(&mut self, on: bool) {
        self.training = on;
    }
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        f(path.as_str());
    }
}

#[track_caller]
fn affine_params(dims: i32, affine: bool) -> (Option<Param>, Option<Param>) {
    let param = |a: Array| affine.then(|| Param::new(a));
    (param(crate::ones([dims], Dtype::Float32)), param(crate::zeros([dims], Dtype::Float32)))
}

#[track_caller]
fn scale_and_shift(y: Array, weight: &Option<Param>, bias: &Option<Param>) -> Array {
    match (weight, bias) {
        (Some(w), Some(b)) => w.value() * y + b.value(),
        (Some(w), None) => w.value() * y,
        (None, Some(b)) => y + b.value(),
        (None, None) => y,
    }
}
