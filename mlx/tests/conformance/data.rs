//! Reading the records: compressed JSON and safetensors, parsed plainly (MLX's own loader refuses float64).

use flate2::read::GzDecoder;
use mlx::{Arg, Array, Complex32, Dtype, DtypeCategory, Operand, Scalar};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A recorded Python value.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Complex(Complex32),
    Str(String),
    Array(Array),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// start, stop, step
    Slice(Box<[Value; 3]>),
    Ellipsis,
    Dtype(Dtype),
    Category(DtypeCategory),
    Dict(Vec<(String, Value)>),
}

impl Operand for Value {
    fn arg(&self) -> Arg<'_> {
        match self {
            Value::Array(a) => Arg::Array(a),
            Value::Bool(v) => Arg::Scalar(Scalar::Bool(*v)),
            Value::Int(v) => Arg::Scalar(Scalar::Int(*v)),
            Value::Float(v) => Arg::Scalar(Scalar::Float(*v)),
            Value::Complex(v) => Arg::Scalar(Scalar::Complex(*v)),
            other => panic!("{other:?} is no operand"),
        }
    }
}

macro_rules! from {
    ($($t:ty => $f:expr;)*) => { $( impl From<$t> for Value { fn from(v: $t) -> Self { let f: fn($t) -> Value = $f; f(v) } } )* };
}
from! {
    Array => Value::Array;
    bool => Value::Bool;
    Vec<Array> => |v| Value::List(v.into_iter().map(Value::Array).collect());
    (Array, Array) => |(a, b)| Value::Tuple(vec![a.into(), b.into()]);
    (Array, Array, Array) => |(a, b, c)| Value::Tuple(vec![a.into(), b.into(), c.into()]);
    Dtype => Value::Dtype;
    String => Value::Str;
}

impl Value {
    pub fn is_operand(&self) -> bool {
        matches!(self, Value::Array(_) | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Complex(_))
    }
    /// Elements of a list or tuple.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::List(v) | Value::Tuple(v) => Some(v),
            _ => None,
        }
    }
    /// All arrays inside, to evaluate.
    pub fn arrays(&self) -> Vec<Array> {
        match self {
            Value::Array(a) => vec![a.clone()],
            Value::List(v) | Value::Tuple(v) => v.iter().flat_map(Value::arrays).collect(),
            Value::Dict(d) => d.iter().flat_map(|(_, v)| v.arrays()).collect(),
            _ => Vec::new(),
        }
    }
}

/// One recorded call.
pub struct Case {
    pub id: String,
    /// `mx.softmax`, `array.__add__`, ...
    pub name: String,
    pub args: Vec<Value>,
    pub kwargs: BTreeMap<String, Value>,
    pub out: Option<Value>,
    pub error: Option<Failure>,
    /// Everything else of the record: `seed`, `ctor`, `params`, ...
    pub more: BTreeMap<String, Value>,
}

/// The recorded exception.
pub struct Failure {
    /// During evaluation, not at the call.
    pub at_eval: bool,
    /// Refused by Python's overload resolution: a compile error here.
    pub signature: bool,
    pub message: String,
}

impl Case {
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.more.get(name)
    }
}

/// One file of records.
pub struct Area {
    pub name: String,
    pub cases: Vec<Case>,
}

/// Where the records lie: MLX_CONFORMANCE_DIR, else the committed copy.
pub fn dir() -> PathBuf {
    std::env::var_os("MLX_CONFORMANCE_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conformance"))
}

/// The bytes of `name`, or of `name.gz`.
pub fn bytes(name: &str) -> Option<Vec<u8>> {
    let plain = dir().join(name);
    if let Ok(b) = std::fs::read(&plain) {
        return Some(b);
    }
    let packed = std::fs::File::open(dir().join(format!("{name}.gz"))).ok()?;
    let mut out = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut out).ok()?;
    Some(out)
}

/// All records of an area; `None` if the directory does not have it.
pub fn load(name: &str) -> Option<Area> {
    let json: Json = serde_json::from_slice(&bytes(&format!("{name}.json"))?).expect("records are JSON");
    let raw = bytes(&format!("{name}.safetensors")).unwrap_or_default();
    let tensors = Tensors::new(&raw);
    let known = ["id", "fn", "test", "args", "kwargs", "out", "error"];
    let cases = json["cases"].as_array().expect("cases").iter().map(|c| {
        let value = |v: &Json| decode(v, &tensors);
        let object = c.as_object().expect("a case is an object");
        Case {
            id: c["id"].as_str().unwrap_or_default().into(),
            name: c["fn"].as_str().unwrap_or_default().into(),
            args: c["args"].as_array().map(|v| v.iter().map(value).collect()).unwrap_or_default(),
            kwargs: c["kwargs"]
                .as_object()
                .map(|m| m.iter().map(|(k, v)| (k.clone(), value(v))).collect())
                .unwrap_or_default(),
            out: object.get("out").map(value),
            error: object.get("error").map(|e| Failure {
                at_eval: e["at"] == "eval",
                signature: e["kind"] == "signature",
                message: e["message"].as_str().unwrap_or_default().into(),
            }),
            more: object
                .iter()
                .filter(|(k, _)| !known.contains(&k.as_str()))
                .map(|(k, v)| (k.clone(), value(v)))
                .collect(),
        }
    });
    Some(Area { name: name.into(), cases: cases.collect() })
}

struct Tensors<'a> {
    header: Json,
    data: &'a [u8],
}

impl<'a> Tensors<'a> {
    fn new(raw: &'a [u8]) -> Self {
        if raw.len() < 8 {
            return Tensors { header: Json::Null, data: &[] };
        }
        let n = u64::from_le_bytes(raw[..8].try_into().expect("eight bytes")) as usize;
        Tensors { header: serde_json::from_slice(&raw[8..8 + n]).expect("header is JSON"), data: &raw[8 + n..] }
    }

    fn get(&self, name: &str) -> Array {
        let t = &self.header[name];
        let dtype = match t["dtype"].as_str().unwrap_or_else(|| panic!("no tensor {name}")) {
            "BOOL" => Dtype::Bool,
            "U8" => Dtype::Uint8,
            "U16" => Dtype::Uint16,
            "U32" => Dtype::Uint32,
            "U64" => Dtype::Uint64,
            "I8" => Dtype::Int8,
            "I16" => Dtype::Int16,
            "I32" => Dtype::Int32,
            "I64" => Dtype::Int64,
            "F16" => Dtype::Float16,
            "BF16" => Dtype::Bfloat16,
            "F32" => Dtype::Float32,
            "F64" => Dtype::Float64,
            "C64" => Dtype::Complex64,
            other => panic!("dtype {other}"),
        };
        let int = |v: &Json| v.as_i64().expect("a number");
        let shape: Vec<i32> = t["shape"].as_array().expect("shape").iter().map(|d| int(d) as i32).collect();
        let at = |i: usize| int(&t["data_offsets"][i]) as usize;
        Array::try_from_bytes(&self.data[at(0)..at(1)], &shape, dtype).expect("bytes fill the shape")
    }
}

fn decode(v: &Json, tensors: &Tensors<'_>) -> Value {
    let list = |v: &Vec<Json>| v.iter().map(|v| decode(v, tensors)).collect::<Vec<_>>();
    match v {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::String(s) => Value::Str(s.clone()),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i.into()),
            (_, Some(u)) => Value::Int(u.into()),
            _ => Value::Float(n.as_f64().expect("a number")),
        },
        Json::Array(v) => Value::List(list(v)),
        Json::Object(m) => {
            let (key, v) = m.iter().next().expect("a form has a key");
            match (key.as_str(), v) {
                ("a", Json::String(name)) => Value::Array(tensors.get(name)),
                ("f", Json::String(s)) => Value::Float(s.parse().expect("inf or nan")),
                ("c", Json::Array(v)) => {
                    let part = |v: &Json| match decode(v, tensors) {
                        Value::Float(f) => f as f32,
                        Value::Int(i) => i as f32,
                        other => panic!("complex part {other:?}"),
                    };
                    Value::Complex(Complex32::new(part(&v[0]), part(&v[1])))
                }
                ("i", Json::String(s)) => Value::Int(s.parse().unwrap_or(i128::MAX)),
                ("t", Json::Array(v)) => Value::Tuple(list(v)),
                ("s", Json::Array(v)) => Value::Slice(Box::new([0, 1, 2].map(|i| decode(&v[i], tensors)))),
                ("e", _) => Value::Ellipsis,
                ("dtype", Json::String(s)) => Value::Dtype(Dtype::from_name(s).expect("a dtype")),
                ("category", Json::String(s)) => Value::Category(DtypeCategory::from_name(s).expect("a category")),
                ("d", Json::Object(m)) => Value::Dict(m.iter().map(|(k, v)| (k.clone(), decode(v, tensors))).collect()),
                _ => panic!("unknown form {m:?}"),
            }
        }
    }
}
