//! A case file: its tensors written as a checkpoint, its recorded values.

use crate::rule;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// All cases of one folder: from `MLX_LM_GOLDENS_DIR`, else the committed ones.
pub fn all(folder: &str) -> Vec<Value> {
    if let Some(dir) = std::env::var_os("MLX_LM_GOLDENS_DIR") {
        let dir = PathBuf::from(dir).join(folder);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
            .map(|d| d.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect())
            .unwrap_or_default();
        files.sort();
        return files.iter().map(|f| serde_json::from_slice(&std::fs::read(f).unwrap()).unwrap()).collect();
    }
    let name = folder.replace('/', "_");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.jsonl.gz"));
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = BufReader::new(GzDecoder::new(file)).lines().map(|l| l.unwrap());
    // one file each for those that `mlx-lm new-family` starts
    let mut own: Vec<PathBuf> = std::fs::read_dir(path.with_file_name(&name))
        .map(|d| d.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect())
        .unwrap_or_default();
    own.sort();
    let own = own.iter().map(|p| std::fs::read_to_string(p).unwrap());
    lines.chain(own).map(|text| serde_json::from_str(&text).unwrap()).collect()
}

/// The cases of one file `{name}.json`, beside the folders.
pub fn list(name: &str) -> Vec<Value> {
    let given = std::env::var_os("MLX_LM_GOLDENS_DIR").map(|d| PathBuf::from(d).join(format!("{name}.json")));
    if let Some(file) = given {
        return std::fs::read(file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.json.gz"));
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_reader(GzDecoder::new(file)).unwrap()
}

/// A named tensor as it is stored.
pub struct Stored {
    pub name: String,
    pub shape: Vec<i32>,
    pub dtype: &'static str,
    pub bytes: Vec<u8>,
}

pub fn ints(v: &Value) -> Vec<i32> {
    v.as_array().map(|a| a.iter().map(|x| x.as_i64().unwrap() as i32).collect()).unwrap_or_default()
}

pub fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(float).collect()
}

/// A number; infinities and NaN come as text.
pub fn float(v: &Value) -> f32 {
    match v {
        Value::Number(n) => n.as_f64().unwrap() as f32,
        Value::String(s) if s.contains("-inf") || s.contains("-Inf") => f32::NEG_INFINITY,
        Value::String(s) if s.contains("inf") || s.contains("Inf") => f32::INFINITY,
        Value::Object(o) => o.get("__float__").map_or(f32::NAN, float),
        _ => f32::NAN,
    }
}

/// The tensors of a case, quantised where it says so.
pub fn tensors(case: &Value) -> Vec<Stored> {
    let seed = case["seed"].as_u64().unwrap();
    let mut out = Vec::new();
    for row in case["tensors"].as_array().unwrap() {
        let (name, shape, dtype) = (row[0].as_str().unwrap(), ints(&row[1]), row[2].as_str().unwrap());
        let init = row.get(3).filter(|v| v.is_array()).map(|v| (v[0].as_f64().unwrap(), v[1].as_f64().unwrap()));
        let bytes = rule::tensor(name, &shape, dtype, seed, init);
        let q = &case["quantize"];
        let module = name.strip_suffix(".weight").filter(|m| q["modules"].get(*m).is_some());
        match module {
            Some(module) => quantized(module, &shape, dtype, &bytes, q, &mut out),
            None => out.push(Stored { name: name.into(), shape, dtype: stored_dtype(dtype), bytes }),
        }
    }
    out
}

fn stored_dtype(dtype: &str) -> &'static str {
    match dtype {
        "SIGN" => "F32",
        "TERNARY" => "U8",
        "F32" => "F32",
        "BF16" => "BF16",
        "F16" => "F16",
        "U8" => "U8",
        "U32" => "U32",
        "I32" => "I32",
        "I64" => "I64",
        "F8_E4M3" => "F8_E4M3",
        other => panic!("dtype {other}"),
    }
}

fn quantized(module: &str, shape: &[i32], dtype: &str, bytes: &[u8], q: &Value, out: &mut Vec<Stored>) {
    let own = &q["modules"][module];
    let get = |k: &str| own.get(k).or_else(|| q.get(k));
    let mode = get("mode").and_then(Value::as_str).unwrap_or("affine");
    let quant = mlx::Quant {
        group_size: get("group_size").unwrap().as_i64().unwrap() as i32,
        bits: get("bits").unwrap().as_i64().unwrap() as i32,
        mode: mlx::QuantMode::from_name(mode).unwrap(),
    };
    let d = match dtype {
        "BF16" => mlx::Dtype::Bfloat16,
        _ => mlx::Dtype::Float32,
    };
    let w = mlx::Array::try_from_bytes(bytes, shape, d).unwrap();
    let (w, s, b) = mlx::quantize(&w, quant);
    let name = |a: &mlx::Array| match a.dtype() {
        mlx::Dtype::Uint8 => "U8",
        mlx::Dtype::Bfloat16 => "BF16",
        mlx::Dtype::Uint32 => "U32",
        _ => "F32",
    };
    let mut put = |leaf: &str, a: mlx::Array| {
        out.push(Stored {
            name: format!("{module}.{leaf}"),
            shape: a.shape().to_vec(),
            dtype: name(&a),
            bytes: a.to_bytes().unwrap(),
        })
    };
    put("weight", w);
    put("scales", s);
    if let Some(b) = b {
        put("biases", b);
    }
}

/// Writes config.json and model.safetensors.
pub fn write(dir: &Path, config: &Value, tensors: &[Stored]) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for t in tensors {
        let end = at + t.bytes.len();
        header.insert(t.name.clone(), json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().div_ceil(8) * 8, b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    tensors.iter().for_each(|t| file.extend(&t.bytes));
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
}
