//! Optimizers and schedules from a run's settings, under Python's names.

use super::config::{LoraConfig, OptimizerName, ScheduleConfig};
use crate::{Error, Result};
use mlx::optim::{self, Optimizer, Rate};
use mlx::{Array, Dtype};
use serde_json::{Map, Value};

/// The optimizer of a run. Its state is float32, whatever the parameters are.
///
/// # Errors
/// An option that the optimizer does not have or of the wrong type, a schedule that is not known.
pub fn optimizer(c: &LoraConfig) -> Result<Box<dyn Optimizer>> {
    let rate = rate(c)?;
    let mut o = Options::new(c)?;
    let mut made: Box<dyn Optimizer> = match c.optimizer {
        OptimizerName::Adam => {
            let mut a = optim::Adam::new(rate);
            o.pair("betas", &mut a.betas)?;
            o.number("eps", &mut a.eps)?;
            o.flag("bias_correction", &mut a.bias_correction)?;
            Box::new(a)
        }
        OptimizerName::Adamw => {
            let mut a = optim::AdamW::new(rate);
            o.pair("betas", &mut a.betas)?;
            o.number("eps", &mut a.eps)?;
            o.number("weight_decay", &mut a.weight_decay)?;
            o.flag("bias_correction", &mut a.bias_correction)?;
            Box::new(a)
        }
        OptimizerName::Muon => {
            let mut a = optim::Muon::new(rate);
            o.number("momentum", &mut a.momentum)?;
            o.number("weight_decay", &mut a.weight_decay)?;
            o.flag("nesterov", &mut a.nesterov)?;
            let mut steps = a.ns_steps as f64;
            o.number("ns_steps", &mut steps)?;
            a.ns_steps = steps as usize;
            Box::new(a)
        }
        OptimizerName::Sgd => {
            let mut a = optim::SGD::new(rate);
            o.number("momentum", &mut a.momentum)?;
            o.number("weight_decay", &mut a.weight_decay)?;
            o.number("dampening", &mut a.dampening)?;
            o.flag("nesterov", &mut a.nesterov)?;
            Box::new(a)
        }
        OptimizerName::Adafactor => {
            let mut a = optim::Adafactor::new(rate);
            o.pair("eps", &mut a.eps)?;
            o.number("clip_threshold", &mut a.clip_threshold)?;
            o.number("decay_rate", &mut a.decay_rate)?;
            let mut beta = a.beta_1.unwrap_or(f64::NAN);
            o.number("beta_1", &mut beta)?;
            a.beta_1 = Some(beta).filter(|b| !b.is_nan());
            o.number("weight_decay", &mut a.weight_decay)?;
            o.flag("scale_parameter", &mut a.scale_parameter)?;
            o.flag("relative_step", &mut a.relative_step)?;
            o.flag("warmup_init", &mut a.warmup_init)?;
            Box::new(a)
        }
    };
    o.finish()?;
    made.validate()?;
    made.base_mut().state_dtype = Some(Dtype::Float32);
    Ok(made)
}

/// `optimizer_config` of the chosen optimizer; what is taken out of it is known.
struct Options {
    name: &'static str,
    left: Map<String, Value>,
}

impl Options {
    /// Python nests the options under the optimizer's name; options right in `optimizer_config` are taken too.
    fn new(c: &LoraConfig) -> Result<Options> {
        let name = c.optimizer.name();
        let mut left: Map<String, Value> =
            c.optimizer_config.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        let own = left.remove(name);
        for other in OptimizerName::ALL {
            left.remove(other.name());
        }
        match own {
            None => {}
            Some(Value::Object(own)) => left.extend(own),
            Some(v) => return Err(Error::Request(format!("optimizer_config.{name}: {v} is not a table of options"))),
        }
        Ok(Options { name, left })
    }

    fn bad(&self, key: &str, v: &Value, what: &str) -> Error {
        Error::Request(format!("optimizer_config.{}.{key}: {v} is not {what}", self.name))
    }

    fn number(&mut self, key: &str, to: &mut f64) -> Result<()> {
        if let Some(v) = self.left.remove(key) {
            *to = v.as_f64().ok_or_else(|| self.bad(key, &v, "a number"))?;
        }
        Ok(())
    }

    fn flag(&mut self, key: &str, to: &mut bool) -> Result<()> {
        if let Some(v) = self.left.remove(key) {
            *to = v.as_bool().ok_or_else(|| self.bad(key, &v, "true or false"))?;
        }
        Ok(())
    }

    fn pair(&mut self, key: &str, to: &mut [f64; 2]) -> Result<()> {
        if let Some(v) = self.left.remove(key) {
            *to = serde_json::from_value(v.clone()).map_err(|_| self.bad(key, &v, "a pair of numbers"))?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        match self.left.keys().next() {
            Some(key) => Err(Error::Request(format!("optimizer_config: {} has no option {key:?}", self.name))),
            None => Ok(()),
        }
    }
}

/// Learning rate of a run: a number, or a schedule after a warm-up.
fn rate(c: &LoraConfig) -> Result<Rate> {
    let Some(s) = &c.lr_schedule else { return Ok(c.learning_rate.into()) };
    let schedule = schedule(s)?;
    if s.warmup <= 0 {
        return Ok(Rate::from(move |step: &Array| schedule(step)));
    }
    // Python starts the schedule one step after the warm-up has reached its first value
    let peak = s.arguments.first().copied().unwrap_or_default();
    let warm = optim::linear_schedule(s.warmup_init, peak, s.warmup);
    let joined = optim::join_schedules(vec![Box::new(warm), schedule], vec![s.warmup + 1]);
    Ok(Rate::from(joined))
}

fn schedule(s: &ScheduleConfig) -> Result<optim::Schedule> {
    let fail = |m: String| Error::Request(format!("lr_schedule {}: {m}", s.name));
    let (least, most) = match s.name.as_str() {
        "cosine_decay" => (2, 3),
        "linear_schedule" | "step_decay" => (3, 3),
        "exponential_decay" => (2, 2),
        other => return Err(Error::Request(format!("lr_schedule {other:?} is not known"))),
    };
    let a = &s.arguments;
    if a.len() < least || a.len() > most {
        return Err(fail(format!("{} arguments, it takes {least} to {most}", a.len())));
    }
    let steps = |i: usize| match a[i] {
        n if n >= 1.0 && n <= f64::from(i32::MAX) => Ok(n as i32),
        n => Err(fail(format!("{n} is not a number of steps"))),
    };
    Ok(match s.name.as_str() {
        "cosine_decay" => Box::new(optim::cosine_decay(a[0], steps(1)?, a.get(2).copied().unwrap_or(0.0))),
        "linear_schedule" => Box::new(optim::linear_schedule(a[0], a[1], steps(2)?)),
        "exponential_decay" => Box::new(optim::exponential_decay(a[0], a[1])),
        _ => Box::new(optim::step_decay(a[0], a[1], steps(2)?)),
    })
}
