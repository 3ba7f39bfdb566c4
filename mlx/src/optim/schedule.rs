//! Schedules: functions from the step (an array) to a learning rate.

use crate::error::refuse;
use crate::{Array, power, where_};

/// init * decay_rate^step.
pub fn exponential_decay(init: f64, decay_rate: f64) -> impl Fn(&Array) -> Array + Clone {
    move |step| power(decay_rate, step) * init
}

/// init * decay_rate^(step / step_size), in whole steps.
#[track_caller]
pub fn step_decay(init: f64, decay_rate: f64, step_size: i32) -> impl Fn(&Array) -> Array + Clone {
    if step_size < 1 {
        refuse("step_decay", format!("step_size {step_size} is not positive"));
    }
    move |step| power(decay_rate, step.floor_divide(step_size)) * init
}

/// Half a cosine from `init` to `end` over `decay_steps`, then `end`.
#[track_caller]
pub fn cosine_decay(init: f64, decay_steps: i32, end: f64) -> impl Fn(&Array) -> Array + Clone {
    if decay_steps < 1 {
        refuse("cosine_decay", format!("decay_steps {decay_steps} is not positive"));
    }
    move |step| {
        let s = step.minimum(decay_steps);
        let decay = ((s * (std::f64::consts::PI / f64::from(decay_steps))).cos() + 1.0) * 0.5;
        decay * (init - end) + end
    }
}

/// A line from `init` to `end` over `steps`, then `end`.
#[track_caller]
pub fn linear_schedule(init: f64, end: f64, steps: i32) -> impl Fn(&Array) -> Array + Clone {
    if steps < 1 {
        refuse("linear_schedule", format!("steps {steps} is not positive"));
    }
    move |step| step.minimum(steps) * ((end - init) / f64::from(steps)) + init
}

/// A schedule as [`join_schedules`] takes it.
pub type Schedule = Box<dyn Fn(&Array) -> Array>;

/// One schedule after the other; each counts from its boundary.
#[track_caller]
pub fn join_schedules(schedules: Vec<Schedule>, boundaries: Vec<i32>) -> impl Fn(&Array) -> Array {
    if schedules.is_empty() || schedules.len() != boundaries.len() + 1 {
        refuse("join_schedules", format!("{} schedules and {} boundaries", schedules.len(), boundaries.len()));
    }
    move |step| {
        let mut out = schedules[0](step);
        for (boundary, schedule) in boundaries.iter().zip(&schedules[1..]) {
            out = where_(step.lt(*boundary), &out, schedule(&(step - *boundary)));
        }
        out
    }
}
