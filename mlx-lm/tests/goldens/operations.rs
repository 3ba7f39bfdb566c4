//! From a case of `mixers` to the operation of its kind, on given queries, keys and values.

use crate::layers::{Args, nsa_blocks};
use crate::mixers::{Inputs, tensor};
use mlx::fast::{LinearScan, Rule, linear_scan};
use mlx::{self as mx, Array, Dtype, nn};
use mlx_lm::blueprint::CacheKind;
use mlx_lm::cache::{self, Cache, Slots};
use mlx_lm::mixers::history::History;
use mlx_lm::mixers::{gsa, heads, moba, nsa, retention};
use serde_json::Value;

type Run = Box<dyn Fn(&Inputs, &mut dyn Cache) -> Array>;
type Fresh = Box<dyn Fn() -> Box<dyn Cache>>;

/// An operation on q, k, v, .. [B, T, H, D], whose states lie in slots from 0 on as this crate keeps them.
pub fn operation(kind: &str, json: &Value) -> Result<(Run, Fresh), String> {
    let (params, seed) = (json["params"].clone(), json["seed"].as_u64().unwrap_or_default());
    let specs = json["states"].as_array().cloned().unwrap_or_default();
    let kept: Vec<Array> = specs.iter().map(|s| tensor(s, s["name"].as_str().unwrap_or_default(), seed)).collect();
    let flip = |a: &Array| mx::contiguous(&a.swapaxes(-1, -2));
    let start: Vec<Array> = if kind == "mamba2" { kept } else { kept.iter().map(flip).collect() };
    let fresh: Fresh = match kind {
        "nsa" | "moba" => Box::new(|| cache::make(&CacheKind::Kv).expect("a cache")),
        _ => Box::new(move || {
            let mut slots = Slots::new(2);
            start.iter().enumerate().for_each(|(i, s)| slots.set(i, s.clone()));
            Box::new(slots)
        }),
    };
    let f = |key: &str, default: f64| Args(&params).num(key, default) as f32;
    let (normalizer, scale) = (f("normalizer", 1.0), f("scale", 1.0));
    let (key_scale, a) = (f("K", 1.0).powf(-0.5), Args(&params));
    let (block, top, blocks) = (a.int("block_size", 64), a.int("topk", 4), nsa_blocks(&a, "window"));
    let q_l2 = a.flag("q_l2", kind != "deltanet");
    // heads before tokens
    let h = |i: &Inputs, name: &str| i[name].swapaxes(1, 2);
    let one = |i: &Inputs, name: &str| i[name].swapaxes(1, 2).expand_dims(-1);
    let back = |(o, state): (Array, Array), cache: &mut dyn Cache| {
        cache.slots().set(0, state);
        o.swapaxes(1, 2)
    };
    let run: Run = match kind {
        "gla" | "simple_gla" | "retnet" => {
            let kind = kind.to_string();
            Box::new(move |i, cache| {
                let (q, k, v) = (h(i, "q") * key_scale, h(i, "k"), h(i, "v"));
                let [b, heads, l, _] = q.dims();
                let g = match kind.as_str() {
                    "gla" => heads::log_decay(&h(i, "gk"), normalizer),
                    "simple_gla" => heads::log_decay(&one(i, "g"), normalizer),
                    _ => mx::broadcast_to(&retention::log_decays(heads), [b, heads, l, 1]),
                };
                let rule = Rule::Add { beta: None };
                let state = cache.slots().take(0);
                back(linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, state), cache)
            })
        }
        "deltanet" | "gated_deltanet" | "kda" => {
            let kind = kind.to_string();
            Box::new(move |i, cache| {
                let v = h(i, "v");
                let [b, heads, l, _] = v.dims();
                let (q, k) = (h(i, "q"), h(i, "k"));
                let q = if q_l2 { heads::unit(&q) } else { q.astype(Dtype::Float32) } * key_scale;
                let g = match kind.as_str() {
                    "deltanet" => mx::zeros([b, heads, l, 1], Dtype::Float32),
                    "kda" => -nn::softplus(&h(i, "g").astype(Dtype::Float32)),
                    _ => -nn::softplus(&one(i, "g").astype(Dtype::Float32)),
                };
                let beta = one(i, "b").astype(Dtype::Float32).sigmoid();
                let k = heads::unit(&k);
                let rule = Rule::Delta { beta: &beta };
                let state = cache.slots().take(0);
                back(linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, state), cache)
            })
        }
        "gsa" => Box::new(move |i, cache| {
            let g = heads::log_decay(&h(i, "f"), normalizer);
            let states = [cache.slots().take(0), cache.slots().take(1)];
            let (o, [keys, values]) = gsa::attend([&h(i, "q"), &h(i, "k"), &h(i, "v"), &g], scale, states);
            cache.slots().set(1, values);
            back((o, keys), cache)
        }),
        "mamba2" => Box::new(move |i, cache| {
            let x = h(i, "x");
            let (k, q) = (h(i, "B"), h(i, "C"));
            let dt = nn::softplus(&(one(i, "dt").astype(Dtype::Float32) + i["dt_bias"].reshape([-1, 1, 1])));
            let g = -(&dt * i["A_log"].exp().reshape([-1, 1, 1]));
            let rule = Rule::Add { beta: Some(&dt) };
            let state = cache.slots().take(0);
            let (o, state) = linear_scan(&LinearScan { q: &q, k: &k, v: &x, g: &g, rule }, state);
            back((o + x * i["D"].reshape([-1, 1, 1]), state), cache)
        }),
        "rwkv7" => Box::new(move |i, cache| {
            let (q, k, v) = (h(i, "r"), h(i, "k"), h(i, "v"));
            let g = -h(i, "w").astype(Dtype::Float32).exp();
            let (at, under) = (-h(i, "a"), h(i, "b"));
            let rule = Rule::Remove { at: &at, under: &under };
            let state = cache.slots().take(0);
            back(linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, state), cache)
        }),
        "nsa" => Box::new(move |i, cache| {
            let past = History::update(cache.kv(), h(i, "k"), h(i, "v"));
            nsa::attend(&h(i, "q"), &h(i, "g"), &past, &blocks).swapaxes(1, 2)
        }),
        "moba" => Box::new(move |i, cache| {
            let past = History::update(cache.kv(), h(i, "k"), h(i, "v"));
            moba::attend(&h(i, "q"), &past, block, top).swapaxes(1, 2)
        }),
        other => return Err(format!("load: no mixer for the operation {other}")),
    };
    Ok((run, fresh))
}
