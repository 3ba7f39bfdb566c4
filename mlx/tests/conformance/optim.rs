//! The area `optim`: trajectories and states of optimizers, schedules, clipping, refused options.

use super::args::{Args, Fail, R, float, int, wrong};
use super::calls::judge;
use super::compare::Tolerance;
use super::data::{Case, Value};
use super::verdict::Verdict;
use mlx::nn::Grads;
use mlx::optim::{self, *};
use mlx::{self as mx, Array};
use std::rc::Rc;

type Step = Rc<dyn Fn(&Array) -> Array>;

/// The numbers in `text`, which is a call of `name`.
fn numbers(text: &str, name: &str) -> Option<Vec<f64>> {
    let inside = text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
    inside.split(',').map(|n| n.trim().split('=').next_back()?.trim().parse().ok()).collect()
}

/// A schedule from its Python text.
fn schedule(text: &str) -> R<Step> {
    let text = text.trim();
    if let Some(inside) = text.strip_prefix("join_schedules([").and_then(|t| t.strip_suffix("])")) {
        let (schedules, boundaries) = inside.rsplit_once("], [").ok_or(Fail::Unknown)?;
        let mut parts: Vec<Schedule> = Vec::new();
        for part in schedules.split_inclusive(')') {
            let f = schedule(part.trim_start_matches([',', ' ']))?;
            parts.push(Box::new(move |s| f(s)));
        }
        let boundaries = boundaries.split(',').filter_map(|b| b.trim().parse().ok()).collect();
        return Ok(Rc::new(join_schedules(parts, boundaries)));
    }
    if let Some(v) = numbers(text, "exponential_decay") {
        return Ok(Rc::new(exponential_decay(v[0], v[1])));
    }
    if let Some(v) = numbers(text, "step_decay") {
        return Ok(Rc::new(step_decay(v[0], v[1], v[2] as i32)));
    }
    if let Some(v) = numbers(text, "cosine_decay") {
        return Ok(Rc::new(cosine_decay(v[0], v[1] as i32, v.get(2).copied().unwrap_or(0.0))));
    }
    if let Some(v) = numbers(text, "linear_schedule") {
        return Ok(Rc::new(linear_schedule(v[0], v[1], v[2] as i32)));
    }
    wrong(text)
}

fn rate(a: &Args<'_>) -> R<Option<Rate>> {
    Ok(match a.some(9, "learning_rate") {
        None => None,
        Some(Value::Str(text)) => Some(Rate::Schedule(schedule(text)?)),
        Some(v) => Some(Rate::Constant(float(v)?)),
    })
}

fn pair(a: &Args<'_>, name: &str, default: [f64; 2]) -> R<[f64; 2]> {
    match a.some(9, name).and_then(Value::items) {
        None => Ok(default),
        Some([x, y]) => Ok([float(x)?, float(y)?]),
        Some(other) => wrong(other),
    }
}

/// The optimizer that a record's keywords describe.
fn optimizer(name: &str, a: &Args<'_>) -> R<Box<dyn Optimizer>> {
    let real = |name: &str, default: f64| a.float_or(9, name, default);
    let flag = |name: &str, default: bool| a.bool_or(9, name, default);
    let given = rate(a)?;
    let rate = || given.clone().unwrap_or(Rate::Constant(0.0));
    Ok(match name {
        "SGD" => {
            let o = SGD::new(rate());
            Box::new(SGD {
                momentum: real("momentum", 0.0)?,
                weight_decay: real("weight_decay", 0.0)?,
                dampening: real("dampening", 0.0)?,
                nesterov: flag("nesterov", false)?,
                ..o
            })
        }
        "RMSprop" => {
            let o = RMSprop::new(rate());
            Box::new(RMSprop { alpha: real("alpha", o.alpha)?, eps: real("eps", o.eps)?, ..o })
        }
        "Adagrad" => {
            let o = Adagrad::new(rate());
            Box::new(Adagrad { eps: real("eps", o.eps)?, ..o })
        }
        "AdaDelta" => {
            let o = AdaDelta::new(rate());
            Box::new(AdaDelta { rho: real("rho", o.rho)?, eps: real("eps", o.eps)?, ..o })
        }
        "Adam" => {
            let o = Adam::new(rate());
            let (betas, eps) = (pair(a, "betas", o.betas)?, real("eps", o.eps)?);
            Box::new(Adam { betas, eps, bias_correction: flag("bias_correction", false)?, ..o })
        }
        "AdamW" => {
            let o = AdamW::new(rate());
            let (betas, eps) = (pair(a, "betas", o.betas)?, real("eps", o.eps)?);
            let (weight_decay, bias_correction) =
                (real("weight_decay", o.weight_decay)?, flag("bias_correction", false)?);
            Box::new(AdamW { betas, eps, weight_decay, bias_correction, ..o })
        }
        "Adamax" => {
            let o = Adamax::new(rate());
            Box::new(Adamax { betas: pair(a, "betas", o.betas)?, eps: real("eps", o.eps)?, ..o })
        }
        "Lion" => {
            let o = Lion::new(rate());
            Box::new(Lion { betas: pair(a, "betas", o.betas)?, weight_decay: real("weight_decay", 0.0)?, ..o })
        }
        "Muon" => {
            let o = Muon::new(rate());
            Box::new(Muon {
                momentum: real("momentum", o.momentum)?,
                weight_decay: real("weight_decay", o.weight_decay)?,
                nesterov: flag("nesterov", o.nesterov)?,
                ns_steps: a.int_or(9, "ns_steps", 5)? as usize,
                ..o
            })
        }
        "Adafactor" => {
            let o = given.clone().map_or_else(Adafactor::default, Adafactor::new);
            Box::new(Adafactor {
                eps: pair(a, "eps", o.eps)?,
                clip_threshold: real("clip_threshold", o.clip_threshold)?,
                decay_rate: real("decay_rate", o.decay_rate)?,
                beta_1: a.opt_float(9, "beta_1")?,
                weight_decay: real("weight_decay", 0.0)?,
                scale_parameter: flag("scale_parameter", o.scale_parameter)?,
                relative_step: flag("relative_step", o.relative_step)?,
                warmup_init: flag("warmup_init", o.warmup_init)?,
                ..o
            })
        }
        _ => return Err(Fail::Unknown),
    })
}

fn grads(v: Option<&Value>) -> R<Grads> {
    match v {
        Some(Value::Dict(d)) => d.iter().map(|(n, v)| Ok((n.clone(), super::args::as_array(v)?))).collect(),
        other => wrong(other),
    }
}

fn dict(arrays: impl IntoIterator<Item = (String, Array)>) -> Value {
    Value::Dict(arrays.into_iter().map(|(n, a)| (n, a.into())).collect())
}

/// What a run of an optimizer does with gradients, and its state.
trait Run {
    fn apply(&mut self, grads: &Grads, params: &Grads) -> Grads;
    fn all(&self) -> Grads;
}
impl Run for Box<dyn Optimizer> {
    fn apply(&mut self, grads: &Grads, params: &Grads) -> Grads {
        self.apply_gradients(grads, params)
    }
    fn all(&self) -> Grads {
        self.state()
    }
}
impl Run for MultiOptimizer {
    fn apply(&mut self, grads: &Grads, params: &Grads) -> Grads {
        self.apply_gradients(grads, params)
    }
    fn all(&self) -> Grads {
        self.state()
    }
}

/// (trajectories, state after the last step). `aliased`: Python's weight decay in Adafactor changes the parameters of
/// the step before in place (`parameter += ...`), and the records hold them so: their factor.
fn trajectory(case: &Case, opt: &mut dyn Run, aliased: f64) -> R<(Value, Value)> {
    let (mut params, target) = (grads(case.field("params"))?, grads(case.field("target"))?);
    let scale = super::args::as_array(case.field("scale").ok_or(Fail::Unknown)?)?;
    let steps = int(case.field("steps").ok_or(Fail::Unknown)?)?;
    let mut path = vec![params.clone()];
    for _ in 0..steps {
        let gradient = |(n, p): (&String, &Array)| {
            let g = p - target[n].astype(p.dtype());
            (n.clone(), if n == "w" { scale.astype(p.dtype()) * g } else { g })
        };
        let g: Grads = params.iter().map(gradient).collect();
        if aliased != 0.0
            && let Some(last) = path.last_mut()
        {
            last.values_mut().for_each(|p| *p = &*p + &*p * aliased);
        }
        params = opt.apply(&g, &params);
        mx::eval(params.values().chain(opt.all().values()))?;
        path.push(params.clone());
    }
    let stacked = params.keys().map(|n| {
        let list: Vec<Array> = path.iter().map(|p| p[n].clone()).collect();
        (n.clone(), mx::stack(&list, 0))
    });
    Ok((dict(stacked), dict(opt.all())))
}

fn run(case: &Case) -> R<Value> {
    let a = Args { pos: &case.args, kw: &case.kwargs };
    let name = case.name.trim_start_matches("optimizers.");
    if case.name == "schedule" {
        let Some(Value::Str(text)) = case.field("schedule") else { return Err(Fail::Unknown) };
        let f = schedule(text)?;
        let steps = int(case.field("steps").ok_or(Fail::Unknown)?)?;
        let values: Vec<Array> = (0..steps).map(|i| f(&Array::from(i as u64)).astype(mx::Dtype::Float32)).collect();
        return Ok(mx::stack(&values, 0).into());
    }
    if name == "clip_grad_norm" {
        let (clipped, norm) = optim::clip_grad_norm(&grads(a.pos.first())?, a.float_or(1, "max_norm", 1.0)?);
        return Ok(Value::Tuple(vec![dict(clipped), norm.into()]));
    }
    if let Some(name) = name.strip_suffix(".new") {
        optimizer(name, &a)?.validate()?;
        return Ok(Value::Null);
    }
    let (path, state) = if name == "MultiOptimizer" {
        // "SGD(0.1) where ndim > 1", "Adam(0.05) otherwise"
        let mut multi = MultiOptimizer::new(Adam::new(0.05)).with(SGD::new(0.1), |_, p| p.ndim() > 1);
        trajectory(case, &mut multi, 0.0)?
    } else {
        let mut opt = optimizer(name, &a)?;
        opt.validate()?;
        let decays =
            name == "Adafactor" && !a.bool_or(9, "relative_step", true)? && !a.bool_or(9, "scale_parameter", true)?;
        let factor = -a.float_or(9, "weight_decay", 0.0)? * a.float_or(9, "learning_rate", 0.0).unwrap_or(0.0);
        trajectory(case, &mut opt, if decays { factor } else { 0.0 })?
    };
    Ok(Value::Tuple(vec![path, state]))
}

/// Checks one record; the final state counts as part of the result.
pub fn check(case: &Case) -> Verdict {
    let got = mx::catch(|| run(case)).unwrap_or_else(|e| Err(Fail::Call(e)));
    let Some(state) = case.field("out_state") else { return judge(case, got, Tolerance::Loose) };
    let want = Case {
        id: case.id.clone(),
        name: case.name.clone(),
        args: Vec::new(),
        kwargs: Default::default(),
        out: case.out.as_ref().map(|out| Value::Tuple(vec![out.clone(), state.clone()])),
        error: None,
        more: Default::default(),
    };
    judge(&want, got, Tolerance::Loose)
}
