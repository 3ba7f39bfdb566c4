//! Records with spoilt arguments: whatever comes, the answer is a value or an error, never a crash or a hang.

use super::args::Args;
use super::calls;
use super::data::{Case, Value};
use mlx::{self as mx, Array, Dtype};

/// A small deterministic generator (xorshift).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

fn array(a: &Array, dice: &mut Dice) -> Array {
    let shape = a.shape().to_vec();
    match dice.roll(9) {
        // no elements, on one axis or all
        0 if !shape.is_empty() => {
            let mut s = shape.clone();
            s[dice.roll(shape.len())] = 0;
            mx::zeros(s, a.dtype())
        }
        1 => mx::zeros(vec![0; shape.len().max(1)], a.dtype()),
        2 => {
            let wild = [i64::MAX, i64::MIN, -1, 0, 1 << 31, -(1 << 31), 1000, -1000][dice.roll(8)];
            mx::with_device(mx::Device::Cpu, || mx::full(&shape[..], Array::from(wild), None).astype(a.dtype()))
        }
        3 => {
            let to = Dtype::ALL[dice.roll(14)];
            mx::with_device(mx::Device::Cpu, || a.astype(to))
        }
        4 => a.t(),
        5 => a.expand_dims(0),
        6 => a.reshape(-1),
        7 if a.size() > 0 => a.reshape(-1).i(0),
        _ => mx::broadcast_to(&a.expand_dims(0), [&[3], &shape[..]].concat()),
    }
}

fn spoil(v: &Value, dice: &mut Dice) -> Value {
    match v {
        Value::Array(a) => Value::Array(array(a, dice)),
        Value::Int(_) => {
            Value::Int([0, -1, 1, 2, -7, 1 << 20, i32::MAX as i128, i32::MIN as i128, 1 << 40][dice.roll(9)])
        }
        Value::Float(_) => Value::Float([0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, -1e-300][dice.roll(6)]),
        Value::Bool(b) => Value::Bool(!b),
        Value::Dtype(_) => Value::Dtype(Dtype::ALL[dice.roll(14)]),
        Value::List(l) => Value::List(each(l, dice)),
        Value::Tuple(l) => Value::Tuple(each(l, dice)),
        Value::Slice(s) => Value::Slice(Box::new(s.clone().map(|v| spoil(&v, dice)))),
        Value::Null => [Value::Null, Value::Int(0), Value::Int(-1)][dice.roll(3)].clone(),
        other => other.clone(),
    }
}

/// One element spoilt, one left out, one doubled, or nothing at all.
fn each(l: &[Value], dice: &mut Dice) -> Vec<Value> {
    let mut l = l.to_vec();
    if l.is_empty() {
        return l;
    }
    let i = dice.roll(l.len());
    match dice.roll(6) {
        0 => drop(l.remove(i)),
        1 => l.push(l[i].clone()),
        _ => l[i] = spoil(&l[i].clone(), dice),
    }
    l
}

/// Runs `case` with one or two arguments spoilt.
pub fn run(case: &Case, dice: &mut Dice) {
    let (mut args, mut kw) = (case.args.clone(), case.kwargs.clone());
    for _ in 0..1 + dice.roll(2) {
        let n = args.len() + kw.len();
        if n == 0 {
            return;
        }
        let i = dice.roll(n);
        let slot = if i < args.len() { args.get_mut(i) } else { kw.values_mut().nth(i - case.args.len()) };
        if let Some(v) = slot {
            let spoilt = mx::catch(|| spoil(v, dice));
            *v = spoilt.unwrap_or(Value::Null);
        }
    }
    if let Ok(v) = calls::call(&case.name, &Args { pos: &args, kw: &kw }) {
        // values of enormous shapes are views or refused: only read what is small
        let arrays: Vec<Array> = v.arrays().into_iter().filter(|a| a.size() < 1 << 22).collect();
        for a in arrays {
            let _ = a.eval();
            let _ = a.to_bytes();
        }
    }
}
