//! The area `nn`: layers, activations, initialisers, gradients of models, names, trees.

use super::args::{Args, Fail, R, as_array, int, ints, wrong};
use super::calls::judge;
use super::compare::Tolerance;
use super::data::{Case, Value};
use super::layers;
use super::verdict::Verdict;
use mlx::nn::{self, Embedding, Grads, LayerMut, Linear, Module, ModuleExt, Sequential};
use mlx::{self as mx, Array, Dtype, Nested, Quant};
use std::collections::BTreeMap;

/// A dict of the record as keyword arguments.
pub fn dict_field(case: &Case, name: &str) -> BTreeMap<String, Value> {
    match case.field(name) {
        Some(Value::Dict(d)) => d.iter().cloned().collect(),
        _ => BTreeMap::new(),
    }
}

pub fn list_field(case: &Case, name: &str) -> Vec<Value> {
    case.field(name).and_then(Value::items).map(<[Value]>::to_vec).unwrap_or_default()
}

fn arrays_of(case: &Case, name: &str) -> R<Grads> {
    dict_field(case, name).iter().map(|(n, v)| Ok((n.clone(), as_array(v)?))).collect()
}

fn named(arrays: impl IntoIterator<Item = (String, Array)>) -> Value {
    Value::Dict(arrays.into_iter().map(|(n, a)| (n, a.into())).collect())
}

/// A function of `mlx.nn`.
fn activation(name: &str, a: &Args<'_>) -> R<Option<Array>> {
    let x = || a.array(0, "x");
    Ok(Some(match name {
        "sigmoid" => nn::sigmoid(&x()?),
        "relu" => nn::relu(&x()?),
        "relu2" => nn::relu2(&x()?),
        "relu6" => nn::relu6(&x()?),
        "leaky_relu" => nn::leaky_relu(&x()?, a.float_or(1, "negative_slope", 0.01)?),
        "log_softmax" => nn::log_softmax(&x()?, a.int_or(1, "axis", -1)?),
        "elu" => nn::elu(&x()?, a.float_or(1, "alpha", 1.0)?),
        "softmax" => nn::softmax(&x()?, a.int_or(1, "axis", -1)?),
        "softplus" => nn::softplus(&x()?),
        "softsign" => nn::softsign(&x()?),
        "softshrink" => nn::softshrink(&x()?, a.float_or(1, "lambd", 0.5)?),
        "celu" => nn::celu(&x()?, a.float_or(1, "alpha", 1.0)?),
        "silu" => nn::silu(&x()?),
        "log_sigmoid" => nn::log_sigmoid(&x()?),
        "gelu" => nn::gelu(&x()?),
        "gelu_approx" => nn::gelu_approx(&x()?),
        "gelu_fast_approx" => nn::gelu_fast_approx(&x()?),
        "glu" => nn::glu(&x()?, a.int_or(1, "axis", -1)?),
        "step" => nn::step(&x()?, a.float_or(1, "threshold", 0.0)?),
        "selu" => nn::selu(&x()?),
        "prelu" => nn::prelu(&x()?, a.operand(1, "alpha")?),
        "mish" => nn::mish(&x()?),
        "hardswish" => nn::hardswish(&x()?),
        "hard_tanh" => nn::hard_tanh(&x()?, a.float_or(1, "min_val", -1.0)?, a.float_or(2, "max_val", 1.0)?),
        "hard_shrink" => nn::hard_shrink(&x()?, a.float_or(1, "lambd", 0.5)?),
        "softmin" => nn::softmin(&x()?, a.int_or(1, "axis", -1)?),
        "tanh" => nn::tanh(&x()?),
        _ => return Ok(None),
    }))
}

fn initialiser(name: &str, case: &Case) -> R<Array> {
    let (ctor, ctor_kw) = (list_field(case, "ctor"), dict_field(case, "ctor_kwargs"));
    let c = Args { pos: &ctor, kw: &ctor_kw };
    let call_kw = dict_field(case, "call_kwargs");
    let call = Args { pos: &[], kw: &call_kw };
    let shape = ints(case.field("shape").ok_or(Fail::Unknown)?)?;
    let dtype = c.dtype(9, "dtype")?.unwrap_or(Dtype::Float32);
    let gain = call.float_or(9, "gain", 1.0)?;
    let fan = match call.opt_str(9, "mode")? {
        None | Some("fan_in") => nn::init::Fan::In,
        Some("fan_out") => nn::init::Fan::Out,
        Some(other) => return wrong(other),
    };
    Ok(match name {
        "constant" => nn::init::constant(shape, c.float_or(0, "value", 0.0)?, dtype),
        "normal" => nn::init::normal(shape, c.float_or(0, "mean", 0.0)?, c.float_or(1, "std", 1.0)?, dtype),
        "uniform" => nn::init::uniform(shape, c.float_or(0, "low", 0.0)?, c.float_or(1, "high", 1.0)?, dtype),
        "identity" => nn::init::identity(shape, dtype),
        "glorot_normal" => nn::init::glorot_normal(shape, gain, dtype),
        "glorot_uniform" => nn::init::glorot_uniform(shape, gain, dtype),
        "he_normal" => nn::init::he_normal(shape, fan, gain, dtype),
        "he_uniform" => nn::init::he_uniform(shape, fan, gain, dtype),
        "sparse" => {
            let (mean, std) = (c.float_or(1, "mean", 0.0)?, c.float_or(2, "std", 1.0)?);
            nn::init::sparse(shape, c.float_or(0, "sparsity", 0.0)?, mean, std, dtype)
        }
        "orthogonal" => nn::init::orthogonal(shape, c.float_or(0, "gain", 1.0)?, dtype),
        _ => return Err(Fail::Unknown),
    })
}

/// Loss and gradients of one model.
fn differentiate<M: Module>(mut model: M, case: &Case, loss: impl Fn(&M, &[Array]) -> Array) -> R<Value> {
    model.update(arrays_of(case, "params")?, true)?;
    let args = Args { pos: &case.args, kw: &case.kwargs }.all_arrays()?;
    let (value, grads) = nn::value_and_grad(|m: &M, a: &[Array]| loss(m, a))(&mut model, &args[..]);
    Ok(Value::Tuple(vec![value.into(), named(grads)]))
}

fn value_and_grad(case: &Case, model: &str) -> R<Value> {
    let squares = |y: Array| y.square().sum(());
    let linear = |i, o| Linear::init(i, o, true);
    if model.starts_with("Sequential(Linear(8,5) frozen") {
        let mut frozen = linear(8, 5);
        frozen.freeze();
        return differentiate(Sequential::new((frozen, linear(5, 2))), case, |m, a| squares(m.forward(&a[0])));
    }
    if model.starts_with("Sequential(Linear(8,5), ReLU, Linear(5,3))") {
        let m = Sequential::new((linear(8, 5), nn::ReLU {}, linear(5, 3)));
        return differentiate(m, case, |m, a| nn::losses::cross_entropy(&m.forward(&a[0]), &a[1]).mean(()));
    }
    if model.starts_with("Sequential(Linear(8,4), BatchNorm(4))") {
        let m = Sequential::new((linear(8, 4), nn::BatchNorm::new(4)));
        return differentiate(m, case, |m, a| {
            let y = m.forward(&a[0]);
            (&y * &y * 0.5 + &y).sum(())
        });
    }
    if model.starts_with("Sequential(Conv2d(4,3,3,padding=1), GELU, MaxPool2d(2))") {
        let o = mx::Conv { padding: [1, 1], ..mx::Conv::default() };
        let m =
            Sequential::new((nn::Conv2d::init(4, 3, [3, 3], true, o), nn::GELU::default(), nn::MaxPool2d::new([2, 2])));
        return differentiate(m, case, |m, a| squares(m.forward(&a[0])));
    }
    if model.starts_with("LSTM(8,3)") {
        return differentiate(nn::LSTM::init(8, 3, true), case, |m, a| squares(m.forward(&a[0], None, None).0));
    }
    if model.starts_with("Embedding(7,4)") {
        return differentiate(Embedding::init(7, 4), case, |m, a| squares(m.forward(&a[0])));
    }
    if model.starts_with("TransformerEncoderLayer(8,2,10), eval") {
        let o = nn::TransformerOptions { mlp_dims: Some(10), ..nn::TransformerOptions::default() };
        let mut m = nn::TransformerEncoderLayer::init(8, 2, o);
        m.eval();
        return differentiate(m, case, |m, a| squares(m.forward(&a[0], None)));
    }
    Err(Fail::Unknown)
}

/// Parameter and module names of a model.
fn names(model: &str) -> R<Value> {
    let linear = |i, o| Linear::init(i, o, true);
    let mut m: Box<dyn Module> = match model {
        "Linear(3,3).freeze(keys='bias')" => {
            let mut l = linear(3, 3);
            l.freeze_where(|name| name == "bias");
            Box::new(l)
        }
        "Sequential(Linear(8,5), ReLU, Linear(5,3))" => {
            Box::new(Sequential::new((linear(8, 5), nn::ReLU {}, linear(5, 3))))
        }
        "Sequential(Linear(64,64), ReLU, Linear(64,3)) after nn.quantize(group_size=32, bits=4)" => {
            Box::new(Sequential::new((linear(64, 64), nn::ReLU {}, linear(64, 3))))
        }
        "TransformerEncoder(1,8,2)" => {
            Box::new(nn::TransformerEncoder::init(1, 8, 2, nn::TransformerOptions::default()))
        }
        "BatchNorm(4)" => Box::new(nn::BatchNorm::new(4)),
        "same, layers[0].freeze()" => {
            let mut s = Sequential::new((linear(8, 5), linear(5, 3)));
            s.freeze_where(|name| name.starts_with("layers.0."));
            Box::new(s)
        }
        _ => return Err(Fail::Unknown),
    };
    if model.contains("nn.quantize") {
        nn::quantize(&mut *m, |_, _: &LayerMut<'_>| Some(Quant::affine(32, 4)))?;
    }
    let list = |names: Vec<String>| Value::List(names.into_iter().map(Value::Str).collect());
    let of = |arrays: Vec<(String, Array)>| list(arrays.into_iter().map(|(n, _)| n).collect());
    let mut modules = m.module_names();
    // Python lists children from the last to the first
    modules.sort();
    Ok(Value::Dict(vec![
        ("parameters".into(), of(m.parameters())),
        ("trainable".into(), of(m.trainable())),
        ("modules".into(), list(modules)),
        ("leaf_modules".into(), list(m.leaf_module_names())),
    ]))
}

/// A recorded tree; tuples count as lists.
fn tree(v: &Value) -> Nested<Value> {
    match v {
        Value::List(v) | Value::Tuple(v) => Nested::List(v.iter().map(tree).collect()),
        Value::Dict(d) => Nested::Map(d.iter().map(|(n, v)| (n.clone(), tree(v))).collect()),
        leaf => Nested::Leaf(leaf.clone()),
    }
}

fn untree(t: Nested<Value>) -> Value {
    match t {
        Nested::Leaf(v) => v,
        Nested::List(v) => Value::List(v.into_iter().map(untree).collect()),
        Nested::Map(d) => Value::Dict(d.into_iter().map(|(n, t)| (n, untree(t))).collect()),
    }
}

fn trees(name: &str, a: &Args<'_>) -> R<Value> {
    let first = tree(a.pos.first().ok_or(Fail::Unknown)?);
    let second = || a.pos.get(1).ok_or(Fail::Unknown);
    Ok(match name {
        "tree_flatten" => {
            let prefix = a.opt_str(1, "prefix")?.unwrap_or("").trim_start_matches('.').to_string();
            let leaf = |(n, v): (String, &Value)| Value::Tuple(vec![Value::Str(n), v.clone()]);
            Value::List(first.flatten(&prefix).into_iter().map(leaf).collect())
        }
        "tree_unflatten" => {
            let pair = |v: &Value| match v.items() {
                Some([Value::Str(n), v]) => Ok((n.clone(), v.clone())),
                _ => wrong(v),
            };
            let items = a.pos[0].items().ok_or(Fail::Unknown)?;
            untree(Nested::unflatten(items.iter().map(pair).collect::<R<_>>()?)?)
        }
        "tree_map" if a.pos.len() == 1 => untree(first.map(&mut |_, x| match x {
            // x -> 2*x
            Value::Int(x) => Value::Int(2 * x),
            other => other.clone(),
        })),
        "tree_map_with_path" => untree(first.map(&mut |name, _| Value::Str(name.to_string()))),
        // (x, y) -> x + 10 * y
        "tree_map" => {
            let other = tree(second()?);
            let others: BTreeMap<String, &Value> = other.flatten("").into_iter().collect();
            untree(first.map(&mut |name, x| match (x, others.get(name)) {
                (Value::Int(x), Some(Value::Int(y))) => Value::Int(x + 10 * y),
                _ => Value::Null,
            }))
        }
        "tree_reduce" => {
            let Value::Int(start) = second()? else { return wrong(a.pos) };
            Value::Int(first.fold(*start, &mut |acc, v| if let Value::Int(i) = v { acc + i } else { acc }))
        }
        "tree_merge" => {
            // None stands for a missing leaf
            let mut one_of = |a, b| match (a, b) {
                (Value::Null, v) | (v, Value::Null) => Ok(v),
                _ => Err(mx::Error::Data("both trees have a leaf here".into())),
            };
            untree(first.merge(tree(second()?), &mut one_of)?)
        }
        _ => return Err(Fail::Unknown),
    })
}

fn run(case: &Case) -> R<Value> {
    let a = Args { pos: &case.args, kw: &case.kwargs };
    if let Some(seed) = case.field("seed") {
        mx::random::seed(int(seed)? as u64);
    }
    let name = case.name.as_str();
    if let Some(name) = name.strip_prefix("utils.") {
        return trees(name, &a);
    }
    let name = name.trim_start_matches("nn.");
    let model = match case.field("model") {
        Some(Value::Str(text)) => text.as_str(),
        _ => "",
    };
    let value = if name == "value_and_grad" {
        value_and_grad(case, model)?
    } else if name == "Module.names" {
        names(model)?
    } else if let Some(name) = name.strip_prefix("init.") {
        initialiser(name, case)?.into()
    } else if let Some(y) = activation(name, &a)? {
        y.into()
    } else if let Some(name) = name.strip_suffix(".init") {
        named(layers::build(name, case)?.module().parameters())
    } else if name == "MultiHeadAttention.create_additive_causal_mask" {
        let dtype = a.dtype(1, "dtype")?.unwrap_or(Dtype::Float32);
        nn::MultiHeadAttention::create_additive_causal_mask(a.int(0, "N")?, dtype).into()
    } else if name == "Embedding.as_linear" {
        Embedding::new(a.array(0, "weight")?).as_linear(&a.array(1, "x")?).into()
    } else if name == "Linear.to_quantized" {
        let mut l = Linear::new(a.array(0, "weight")?, Some(a.array(1, "bias")?));
        l.quantize(layers::quant(&a)?);
        named(l.parameters())
    } else if name == "Embedding.to_quantized" {
        let mut e = Embedding::new(a.array(0, "weight")?);
        e.quantize(layers::quant(&a)?);
        named(e.parameters())
    } else if name == "QuantizedEmbedding.as_linear" {
        let kw = dict_field(case, "ctor_kwargs");
        let q = layers::quant(&Args { pos: &[], kw: &kw })?;
        let [w, s, b, x] = &a.all_arrays()?[..] else { return wrong(a.pos) };
        Embedding::quantized(w.clone(), s.clone(), Some(b.clone()), q).as_linear(x).into()
    } else {
        layer(name, case)?
    };
    mx::eval(value.arrays()).map_err(Fail::Eval)?;
    Ok(value)
}

/// Builds a layer, gives it the recorded parameters, calls it.
fn layer(name: &str, case: &Case) -> R<Value> {
    let mut net = layers::build(name, case)?;
    let module = net.module();
    if let Some(Value::Bool(train)) = case.field("train") {
        module.set_training(*train);
    }
    let given = arrays_of(case, "params")?;
    let recorded: Vec<&String> = given.keys().collect();
    let parameters = module.parameters();
    if parameters.iter().any(|(n, _)| !recorded.contains(&n)) {
        return wrong(format!("parameters {:?}, recorded {recorded:?}", parameters));
    }
    module.update(given, true)?;
    let kw = dict_field(case, "call_kwargs");
    let out = net.call(&Args { pos: &case.args, kw: &kw })?;
    if case.field("out_params_after").is_some() {
        mx::eval(out.arrays()).map_err(Fail::Eval)?;
        let running = net.module().parameters_where(|name, _| name.contains("running"));
        return Ok(Value::Tuple(vec![out, named(running)]));
    }
    Ok(out)
}

/// Checks one record; parameters after the call count as part of the result.
pub fn check(case: &Case) -> Verdict {
    let got = mx::catch(|| run(case)).unwrap_or_else(|e| Err(Fail::Call(e)));
    let sorted = |v: &Value| match v {
        Value::Dict(d) => Value::Dict(
            d.iter()
                .map(|(n, v)| match (n.as_str(), v) {
                    ("modules", Value::List(l)) => {
                        let mut l = l.clone();
                        l.sort_by_key(|v| format!("{v:?}"));
                        (n.clone(), Value::List(l))
                    }
                    _ => (n.clone(), v.clone()),
                })
                .collect(),
        ),
        other => other.clone(),
    };
    let out = match (&case.out, case.field("out_params_after")) {
        (Some(out), Some(after)) => Some(Value::Tuple(vec![out.clone(), after.clone()])),
        (Some(out), None) if case.name == "nn.Module.names" => Some(sorted(out)),
        (out, _) => out.clone(),
    };
    let error = case.error.as_ref().map(|e| super::data::Failure {
        // QQLinear's product is refused when it is computed
        at_eval: e.at_eval || case.name == "nn.QQLinear",
        signature: e.signature,
        message: e.message.clone(),
    });
    let want = Case {
        id: case.id.clone(),
        name: case.name.clone(),
        args: vec![],
        kwargs: BTreeMap::new(),
        out,
        error,
        more: BTreeMap::new(),
    };
    judge(&want, got, Tolerance::Loose)
}
