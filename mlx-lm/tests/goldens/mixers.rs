//! Sequence mixers against published implementations: operations on given tensors, layers with their weights.
//!
//! Every case is run at once, token by token, in pieces and as rows of a batch; it must agree with the recorded outputs
//! and states each time, and no output may depend on a later token.

use crate::{Job, case, layers, rule};
use flate2::read::GzDecoder;
use mlx::{self as mx, Array, Dtype};
use mlx_lm::cache::Cache;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Recorded arrays by `case/output`: shape and values.
type Outputs = BTreeMap<String, (Vec<i32>, Vec<f32>)>;
/// Tensors by bare name.
pub type Inputs = BTreeMap<String, Array>;

/// Tokens after the recorded ones, for lengths that are only compared among themselves.
const MORE: i32 = 70;

pub fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for file in case::all("mixers") {
        let kind = file["kind"].as_str().unwrap_or_default().to_string();
        let outputs = Arc::new(outputs(&kind));
        let lengths = case::ints(&file["lengths"]);
        for case in file["cases"].as_array().cloned().unwrap_or_default() {
            let (kind, outputs, lengths) = (kind.clone(), outputs.clone(), lengths.clone());
            let name = format!("mixers {}", case["name"].as_str().unwrap_or_default());
            let run = move || mx::catch(|| run(&kind, &case, &lengths, &outputs)).map_err(|e| e.to_string())?;
            jobs.push(Job { name, run: Box::new(run) });
        }
    }
    jobs
}

fn outputs(kind: &str) -> Outputs {
    let bytes = match std::env::var_os("MLX_LM_GOLDENS_DIR") {
        Some(dir) => {
            std::fs::read(Path::new(&dir).join("mixers").join(format!("{kind}.safetensors"))).unwrap_or_default()
        }
        None => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mixers.safetensors.gz");
            let mut bytes = Vec::new();
            GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
            bytes
        }
    };
    let Some(length) = bytes.get(..8) else { return Outputs::new() };
    let n = 8 + u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..n]).unwrap();
    let tensors = header.into_iter().filter(|(k, _)| k != "__metadata__");
    tensors
        .map(|(k, t)| {
            let at = case::ints(&t["data_offsets"]);
            let raw = &bytes[n + at[0] as usize..n + at[1] as usize];
            let values = raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (k, (case::ints(&t["shape"]), values))
        })
        .collect()
}

/// A tensor by the rule of the goldens' README.
pub fn tensor(spec: &Value, name: &str, seed: u64) -> Array {
    let mut shape = case::ints(&spec["shape"]);
    if shape.is_empty() {
        shape = vec![1];
    }
    tensor_of(spec, name, seed, &shape)
}

fn tensor_of(spec: &Value, name: &str, seed: u64, shape: &[i32]) -> Array {
    let (mul, add) = (spec["mul"].as_f64().unwrap(), spec["add"].as_f64().unwrap());
    let base = rule::base(name, seed);
    let n: i32 = shape.iter().product();
    let heads: Vec<f64> =
        spec["head_mul"].as_array().map(|a| a.iter().map(|v| v.as_f64().unwrap()).collect()).unwrap_or_default();
    let axis = spec["head_axis"].as_u64().unwrap_or(0) as usize;
    let after: i32 = shape.iter().skip(axis + 1).product();
    let factor = |i: i32| match heads.len() {
        0 => 1.0,
        h => heads[((i / after) % shape[axis]) as usize / (shape[axis] as usize / h)],
    };
    let values: Vec<f32> =
        (0..n).map(|i| (rule::unit(rule::raw(base, i as u64)) * mul * factor(i) + add) as f32).collect();
    Array::from_slice(&values, shape)
}

/// What runs some tokens of every input, and makes its memory.
pub struct Subject {
    pub run: Box<dyn Fn(&Inputs, &mut dyn Cache) -> Array>,
    pub fresh: Box<dyn Fn() -> Box<dyn Cache>>,
    /// The choice of blocks jumps where two are equally good: nothing follows for lower precision.
    pub chooses: bool,
}

struct Case<'a> {
    subject: Subject,
    inputs: Inputs,
    tokens: i32,
    tolerance: f32,
    json: &'a Value,
}

fn run(kind: &str, json: &Value, lengths: &[i32], outputs: &Outputs) -> Result<(), String> {
    let (name, seed) = (json["name"].as_str().unwrap_or_default(), json["seed"].as_u64().unwrap_or_default());
    let specs = json["inputs"].as_array().ok_or("no inputs")?;
    let tokens = specs.iter().find_map(|s| s["shape"].get(1)).and_then(Value::as_i64).ok_or("no tokens")? as i32;
    // recorded inputs, and some more tokens of each that has tokens
    let inputs: Inputs = specs
        .iter()
        .map(|s| {
            let full = s["name"].as_str().unwrap();
            let mut shape = case::ints(&s["shape"]);
            let mut a = tensor(s, full, seed);
            if shape.len() > 1 {
                shape[1] = MORE;
                a = mx::concatenate(&[a, tensor_of(s, &format!("{full}.more"), seed, &shape)], 1);
            }
            (full.strip_prefix(&format!("{name}.")).unwrap_or(full).to_string(), a)
        })
        .collect();
    let largest = case::float(&json["out_max"]).max(1.0);
    let subject = |dtype| layers::subject(kind, json, dtype);
    let c = Case { subject: subject(Dtype::Float32)?, inputs: inputs.clone(), tokens, tolerance: 1e-4 * largest, json };
    c.recorded(lengths, outputs)?;
    c.consistent()?;
    c.causal()?;
    c.batched()?;
    let low = Case { subject: subject(Dtype::Bfloat16)?, inputs, tokens, tolerance: 0.1 * largest, json };
    low.half_precision(&c)
}

impl Case<'_> {
    /// All outputs [B, n, ..] in pieces that end at these places.
    fn pieces(&self, inputs: &Inputs, ends: &[i32], cache: &mut dyn Cache) -> Result<Array, String> {
        let cut = |a: &Array, from, to| if a.ndim() > 1 { a.slice_axis(1, from..to) } else { a.clone() };
        let (mut parts, mut from) = (Vec::new(), 0);
        for &to in ends {
            let piece = inputs.iter().map(|(k, a)| (k.clone(), cut(a, from, to))).collect();
            let o = (self.subject.run)(&piece, cache);
            let mut arrays = vec![o.clone()];
            cache.each(&mut |a| arrays.push(a.clone()));
            mx::eval(&arrays).map_err(|e| e.to_string())?;
            parts.push(o);
            from = to;
        }
        Ok(mx::concatenate(&parts, 1).astype(Dtype::Float32))
    }

    fn whole(&self, n: i32) -> Result<Array, String> {
        self.pieces(&self.inputs, &[n], (self.subject.fresh)().as_mut())
    }

    /// Outputs and states of every length and cut against the recorded ones.
    fn recorded(&self, lengths: &[i32], outputs: &Outputs) -> Result<(), String> {
        let steps: Vec<i32> = (1..=self.tokens).collect();
        let sevens: Vec<i32> = (1..self.tokens).filter(|i| i % 7 == 0).chain([self.tokens]).collect();
        let mut cuts: Vec<Vec<i32>> = lengths.iter().map(|&l| vec![l]).collect();
        cuts.extend([steps, sevens, vec![1, self.tokens], vec![64, self.tokens], vec![63, 65, self.tokens]]);
        for ends in cuts.iter().filter(|c| c.iter().all(|&e| e <= self.tokens)) {
            let n = *ends.last().unwrap_or(&0);
            let mut cache = (self.subject.fresh)();
            let got = self.pieces(&self.inputs, ends, cache.as_mut())?;
            let what = format!("{n} tokens in {} pieces", ends.len());
            self.check_outputs(&what, &got, n, outputs)?;
            self.check_states(&what, cache.as_ref(), n, outputs)?;
        }
        Ok(())
    }

    fn check_outputs(&self, what: &str, got: &Array, n: i32, outputs: &Outputs) -> Result<(), String> {
        let name = self.json["name"].as_str().unwrap_or_default();
        let key = ["o", "y"].map(|o| format!("{name}/{o}"));
        let (shape, want) = key.iter().find_map(|k| outputs.get(k)).ok_or("no recorded output")?;
        let rows: Vec<i32> = match self.json["rows"].is_array() {
            true => case::ints(&self.json["rows"]).into_iter().filter(|&r| r < n).collect(),
            false => (0..n).collect(),
        };
        let count = rows.len() as i32;
        let got = got.take(&Array::from(rows), 1);
        let want = Array::from_slice(want, shape.as_slice()).slice_axis(1, 0..count);
        close(what, &got, &want, self.tolerance)
    }

    /// Each recorded state is somewhere in the cache, as it is or transposed; or its last columns are (convolutions).
    fn check_states(&self, what: &str, cache: &dyn Cache, n: i32, outputs: &Outputs) -> Result<(), String> {
        let prefix = format!("{}/", self.json["name"].as_str().unwrap_or_default());
        let mut arrays = Vec::new();
        cache.each(&mut |a| arrays.push(a.astype(Dtype::Float32)));
        for (key, (shape, values)) in outputs.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix)) {
            let output = &key[prefix.len()..];
            let latent = output == "latent" && n == self.tokens;
            if !latent && !output.ends_with(&format!("_L{n}")) {
                continue;
            }
            let want = Array::from_slice(values, shape.as_slice());
            let flipped = want.swapaxes(-1, -2);
            let mut forms = vec![want.clone(), flipped.clone()];
            if shape.len() == 3 {
                forms.push(flipped.slice_axis(1, 1..flipped.dim(1)));
            }
            let found = arrays.iter().any(|a| {
                let a = if latent && a.ndim() == 4 { a.squeeze(1).slice_axis(1, 0..n) } else { a.clone() };
                forms.iter().any(|w| a.shape() == w.shape() && close("", &a, w, self.tolerance).is_ok())
            });
            if !found {
                return Err(format!("{what}: {output} is nowhere in the cache"));
            }
        }
        Ok(())
    }

    /// Lengths beyond the recorded ones give the same at once, in pieces and token by token.
    fn consistent(&self) -> Result<(), String> {
        let n = self.tokens + MORE;
        let whole = self.whole(n)?;
        let steps: Vec<i32> = [self.tokens].into_iter().chain(self.tokens + 1..=n).collect();
        for ends in [steps, vec![1, n], vec![64, 128, n], vec![n - 65, n - 2, n]] {
            let got = self.pieces(&self.inputs, &ends, (self.subject.fresh)().as_mut())?;
            close(&format!("{n} tokens in {} pieces", ends.len()), &got, &whole, self.tolerance)?;
        }
        Ok(())
    }

    /// Another token changes nothing before it, and something from it on.
    fn causal(&self) -> Result<(), String> {
        let n = self.tokens + MORE;
        let whole = self.whole(n)?;
        for t in [1, 64, 65, self.tokens - 1] {
            let bump = mx::arange(0, n, 1, None).eq(t).astype(Dtype::Float32);
            let other: Inputs = self
                .inputs
                .iter()
                .map(|(k, a)| {
                    let column: Vec<i32> = (0..a.ndim() as i32).map(|i| if i == 1 { n } else { 1 }).collect();
                    (k.clone(), if a.ndim() > 1 { a + bump.reshape(column) } else { a.clone() })
                })
                .collect();
            let got = self.pieces(&other, &[n], (self.subject.fresh)().as_mut())?;
            let before = |a: &Array| a.slice_axis(1, 0..t);
            close(&format!("before token {t} changed"), &before(&got), &before(&whole), 1e-6)?;
            let after = |a: &Array| a.slice_axis(1, t..n);
            if close("", &after(&got), &after(&whole), 1e-4).is_ok() {
                return Err(format!("token {t} changes nothing"));
            }
        }
        Ok(())
    }

    /// Two rows of unequal length in one cache go on as each does alone.
    fn batched(&self) -> Result<(), String> {
        let lengths = [self.tokens, self.tokens - self.tokens / 4];
        let row = |i: usize, from: i32, to: i32| -> Inputs {
            let cut = |a: &Array| a.slice_axis(0, i as i32..i as i32 + 1).slice_axis(1, from..to);
            self.inputs.iter().map(|(k, a)| (k.clone(), if a.ndim() > 1 { cut(a) } else { a.clone() })).collect()
        };
        let mut joined: Option<Box<dyn Cache>> = None;
        let mut alone = Vec::new();
        for (i, &n) in lengths.iter().enumerate() {
            // states that a case starts from belong to both rows
            let mut cache = (self.subject.fresh)();
            if cache.rows() > 1 {
                cache.keep_rows(&[i]).map_err(|e| e.to_string())?;
            }
            (self.subject.run)(&row(i, 0, n), cache.as_mut());
            let mut own = cache.boxed_clone();
            let steps: Vec<Array> = (n..n + 5).map(|t| (self.subject.run)(&row(i, t, t + 1), own.as_mut())).collect();
            alone.push(mx::concatenate(&steps, 1));
            joined = Some(match joined.take() {
                None => cache,
                Some(mut all) => {
                    all.join(cache).map_err(|e| e.to_string())?;
                    all
                }
            });
        }
        let mut all = joined.ok_or("no rows")?;
        let both = |from: i32, to: i32| -> Inputs {
            let rows: Vec<Inputs> = (0..2).map(|i| row(i, lengths[i] + from, lengths[i] + to)).collect();
            let join = |k: &String, a: &Array| match a.ndim() {
                1 => a.clone(),
                _ => mx::concatenate(&[a.clone(), rows[1][k].clone()], 0),
            };
            rows[0].iter().map(|(k, a)| (k.clone(), join(k, a))).collect()
        };
        let parts: Vec<Array> =
            [(0, 1), (1, 2), (2, 5)].map(|(a, b)| (self.subject.run)(&both(a, b), all.as_mut())).into();
        close("rows of unequal length", &mx::concatenate(&parts, 1), &mx::concatenate(&alone, 0), self.tolerance)
    }

    /// bf16 in gives bf16 out near the exact outputs, with states in float32.
    fn half_precision(&self, exact: &Case) -> Result<(), String> {
        let low = |a: &Array| if a.ndim() > 1 { a.astype(Dtype::Bfloat16) } else { a.clone() };
        let inputs: Inputs = self.inputs.iter().map(|(k, a)| (k.clone(), low(a))).collect();
        let mut cache = (self.subject.fresh)();
        let got = self.pieces(&inputs, &[self.tokens - 1, self.tokens], cache.as_mut())?;
        let mut states = Vec::new();
        cache.each(&mut |a| states.push(a.clone()));
        let recurrent = cache.as_slots().is_some();
        if recurrent && !states.iter().any(|a| a.ndim() == 4 && a.dtype() == Dtype::Float32) {
            return Err("bf16: no state in float32".into());
        }
        let got = got.astype(Dtype::Float32);
        match self.subject.chooses {
            true if got.to_vec::<f32>().is_ok_and(|v| v.iter().all(|x| x.is_finite())) => Ok(()),
            true => Err("bf16: not finite".into()),
            false => close("bf16", &got, &exact.whole(self.tokens)?, self.tolerance),
        }
    }
}

fn close(what: &str, got: &Array, want: &Array, tolerance: f32) -> Result<(), String> {
    if got.shape() != want.shape() {
        return Err(format!("{what}: shape {:?} instead of {:?}", got.shape(), want.shape()));
    }
    let list = |a: &Array| mx::contiguous(&a.astype(Dtype::Float32)).to_vec::<f32>().map_err(|e| e.to_string());
    let (got, want) = (list(got)?, list(want)?);
    let off = |g: f32, w: f32| if (g - w).is_nan() { f32::INFINITY } else { (g - w).abs() };
    let worst = got.iter().zip(&want).map(|(&g, &w)| off(g, w)).fold(0.0, f32::max);
    if worst <= tolerance { Ok(()) } else { Err(format!("{what}: off by {worst:.2e} (allowed {tolerance:.1e})")) }
}
