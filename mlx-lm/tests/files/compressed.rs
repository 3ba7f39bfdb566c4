//! Checkpoints of compressed-tensors, ModelOpt and GPTQ, packed by a scalar loop, against the same model with the weights
//! unpacked by another.

use crate::goldens::{self, Stored};
use mlx::nn::ModuleExt;
use mlx::{Array, Dtype};
use mlx_lm::Model;
use serde_json::{Value, json};

const GROUP: usize = 32;
const FP4: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn stored(name: String, shape: &[usize], dtype: &'static str, bytes: Vec<u8>) -> Stored {
    Stored { name, shape: shape.iter().map(|&d| d as i32).collect(), dtype, bytes }
}

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Packed tensors of one weight [rows, cols], and its values.
type Pack = fn(base: &str, rows: usize, cols: usize, seed: usize) -> (Vec<Stored>, Vec<f32>);

fn integers(base: &str, rows: usize, cols: usize, seed: usize, bits: usize) -> (Vec<Stored>, Vec<f32>) {
    let code = |i: usize| (i * 2654435761 + seed * 97) >> 7 & ((1 << bits) - 1);
    let scale = |g: usize| 0.002 + ((g * 31 + seed) % 17) as f32 * 0.001 * if bits == 4 { 4.0 } else { 0.25 };
    let n = rows * cols;
    let words: Vec<u8> = (0..n / (32 / bits))
        .flat_map(|w| {
            (0..32 / bits).fold(0u32, |word, i| word | (code(w * (32 / bits) + i) as u32) << (bits * i)).to_le_bytes()
        })
        .collect();
    let half = (1 << (bits - 1)) as f32;
    let values = (0..n).map(|i| (code(i) as f32 - half) * scale(i / GROUP)).collect();
    let scales: Vec<f32> = (0..n / GROUP).map(scale).collect();
    let shape = [rows as i64, cols as i64].iter().flat_map(|d| d.to_le_bytes()).collect();
    let tensors = vec![
        stored(format!("{base}.weight_packed"), &[rows, cols * bits / 32], "I32", words),
        stored(format!("{base}.weight_scale"), &[rows, cols / GROUP], "F32", float_bytes(&scales)),
        stored(format!("{base}.weight_shape"), &[2], "I64", shape),
    ];
    (tensors, values)
}

fn mxfp4(base: &str, rows: usize, cols: usize, seed: usize) -> (Vec<Stored>, Vec<f32>) {
    let code = |i: usize| (i * 2654435761 + seed * 97) >> 7 & 15;
    let exponent = |g: usize| (121 + (g * 7 + seed) % 4) as u8;
    let n = rows * cols;
    let bytes = (0..n / 2).map(|i| (code(2 * i) | code(2 * i + 1) << 4) as u8).collect();
    let value = |i: usize| {
        let sign = if code(i) > 7 { -1.0 } else { 1.0 };
        sign * FP4[code(i) & 7] * 2f32.powi(exponent(i / GROUP) as i32 - 127)
    };
    let tensors = vec![
        stored(format!("{base}.weight_packed"), &[rows, cols / 2], "U8", bytes),
        stored(format!("{base}.weight_scale"), &[rows, cols / GROUP], "U8", (0..n / GROUP).map(exponent).collect()),
    ];
    (tensors, (0..n).map(value).collect())
}

/// Codes of `bits`, lowest first, in words.
fn words(codes: &[usize], bits: usize) -> Vec<u8> {
    let per_word = 32 / bits;
    let word = |w: &[usize]| w.iter().rev().fold(0u32, |word, c| word << bits | *c as u32);
    codes.chunks(per_word).flat_map(|w| word(w).to_le_bytes()).collect()
}

fn mixed(i: usize, seed: usize, below: usize) -> usize {
    ((i * 2654435761 + seed * 97) >> 7) % below
}

/// e4m3 by its definition, bias 7, no infinities.
fn e4m3(code: usize) -> f32 {
    let (sign, e, m) = (if code > 127 { -1.0 } else { 1.0 }, code >> 3 & 15, (code & 7) as f32);
    sign * if e == 0 { m / 8.0 * 2f32.powi(-6) } else { (1.0 + m / 8.0) * 2f32.powi(e as i32 - 7) }
}

/// Four-bit floats, a scale per 16 of them and one of all, which divides or multiplies.
fn nvfp4(base: &str, rows: usize, cols: usize, seed: usize, divides: bool) -> (Vec<Stored>, Vec<f32>) {
    let n = rows * cols;
    let (code, scale) = (|i: usize| mixed(i, seed, 16), |g: usize| 0x28 + mixed(g, seed + 5, 40));
    let whole = 0.004 + seed as f32 * 0.000_37;
    let bytes = (0..n / 2).map(|i| (code(2 * i) | code(2 * i + 1) << 4) as u8).collect();
    let sign = |i: usize| if code(i) > 7 { -1.0 } else { 1.0 };
    let values = (0..n).map(|i| sign(i) * FP4[code(i) & 7] * e4m3(scale(i / 16)) * whole).collect();
    let (packed, one) = if divides { ("weight_packed", "weight_global_scale") } else { ("weight", "weight_scale_2") };
    let mut tensors = vec![
        stored(format!("{base}.{packed}"), &[rows, cols / 2], "U8", bytes),
        stored(
            format!("{base}.weight_scale"),
            &[rows, cols / 16],
            "F8_E4M3",
            (0..n / 16).map(|g| scale(g) as u8).collect(),
        ),
        stored(
            format!("{base}.{one}"),
            if divides { &[1] } else { &[] },
            "F32",
            float_bytes(&[if divides { 1.0 / whole } else { whole }]),
        ),
    ];
    let unused: &[&str] = if divides { &["input_global_scale"] } else { &["input_scale", "k_scale", "v_scale"] };
    tensors.extend(unused.iter().map(|u| stored(format!("{base}.{u}"), &[1], "F32", float_bytes(&[3.0]))));
    (tensors, values)
}

/// Eight-bit floats with one scale, or one per row.
fn fp8(base: &str, rows: usize, cols: usize, seed: usize, per_row: bool) -> (Vec<Stored>, Vec<f32>) {
    let code = |i: usize| mixed(i, seed, 256) & 0xb7;
    let scale = |r: usize| 0.3 + 0.11 * mixed(if per_row { r } else { 0 }, seed, 13) as f32;
    let values = (0..rows * cols).map(|i| e4m3(code(i)) * scale(i / cols)).collect();
    let scales: Vec<f32> = (0..if per_row { rows } else { 1 }).map(scale).collect();
    let shape: &[usize] = if per_row { &[rows, 1] } else { &[] };
    let tensors = vec![
        stored(format!("{base}.weight"), &[rows, cols], "F8_E4M3", (0..rows * cols).map(|i| code(i) as u8).collect()),
        stored(format!("{base}.weight_scale"), shape, "F32", float_bytes(&scales)),
        stored(format!("{base}.input_scale"), &[1], "F32", float_bytes(&[3.0])),
    ];
    (tensors, values)
}

/// Signed bytes with a scale per row.
fn int8(base: &str, rows: usize, cols: usize, seed: usize) -> (Vec<Stored>, Vec<f32>) {
    let code = |i: usize| mixed(i, seed, 256) as f32 - 128.0;
    let scale = |r: usize| 0.001 + 0.0001 * mixed(r, seed, 13) as f32;
    let bytes = (0..rows * cols).map(|i| code(i) as i8 as u8).collect();
    let tensors = vec![
        stored(format!("{base}.weight"), &[rows, cols], "I8", bytes),
        stored(
            format!("{base}.weight_scale"),
            &[rows, 1],
            "F32",
            float_bytes(&(0..rows).map(scale).collect::<Vec<_>>()),
        ),
    ];
    (tensors, (0..rows * cols).map(|i| code(i) * scale(i / cols)).collect())
}

/// The group of a column: in their order, or scattered over the row.
fn group(c: usize, cols: usize, scattered: bool) -> usize {
    if scattered { c * 7 % cols / GROUP } else { c / GROUP }
}

/// Four-bit integers with zeros of their own, rows of which are packed eight to a word.
fn with_zeros(base: &str, rows: usize, cols: usize, seed: usize, scattered: bool) -> (Vec<Stored>, Vec<f32>) {
    let groups = cols / GROUP;
    let code = |i: usize| mixed(i, seed, 16);
    let zero = |r: usize, g: usize| mixed(r * groups + g, seed + 3, 16);
    let scale = |r: usize, g: usize| 0.008 + 0.001 * mixed(r * groups + g, seed + 9, 17) as f32;
    let value = |i: usize| {
        let (r, g) = (i / cols, group(i % cols, cols, scattered));
        (code(i) as f32 - zero(r, g) as f32) * scale(r, g)
    };
    // [rows / 8, groups]: successive rows of one group lie in one word
    let zeros = (0..rows / 8).flat_map(|w| (0..groups).map(move |g| (w, g)));
    let zeros = zeros.flat_map(|(w, g)| words(&(0..8).map(|i| zero(8 * w + i, g)).collect::<Vec<_>>(), 4)).collect();
    let scales: Vec<f32> = (0..rows * groups).map(|i| scale(i / groups, i % groups)).collect();
    let shape = [rows as i64, cols as i64].iter().flat_map(|d| d.to_le_bytes()).collect();
    let codes: Vec<usize> = (0..rows * cols).map(code).collect();
    let mut tensors = vec![
        stored(format!("{base}.weight_packed"), &[rows, cols / 8], "I32", words(&codes, 4)),
        stored(format!("{base}.weight_scale"), &[rows, groups], "F32", float_bytes(&scales)),
        stored(format!("{base}.weight_zero_point"), &[rows / 8, groups], "I32", zeros),
        stored(format!("{base}.weight_shape"), &[2], "I64", shape),
    ];
    let index = (0..cols).flat_map(|c| (group(c, cols, scattered) as i32).to_le_bytes()).collect();
    tensors.push(stored(format!("{base}.weight_g_idx"), &[cols], "I32", index));
    (tensors, (0..rows * cols).map(value).collect())
}

/// GPTQ: codes of successive inputs in a word, zeros one less than they are.
fn gptq(base: &str, rows: usize, cols: usize, seed: usize, bits: usize, scattered: bool) -> (Vec<Stored>, Vec<f32>) {
    let groups = cols / GROUP;
    let top = 1 << bits;
    let code = |r: usize, c: usize| mixed(r * cols + c, seed, top);
    let zero = |r: usize, g: usize| 1 + mixed(r * groups + g, seed + 3, top - 1);
    let scale = |r: usize, g: usize| (0.128 + 0.016 * mixed(r * groups + g, seed + 9, 17) as f32) / top as f32;
    let value = |i: usize| {
        let (r, c) = (i / cols, i % cols);
        let g = group(c, cols, scattered);
        (code(r, c) as f32 - zero(r, g) as f32) * scale(r, g)
    };
    let per_word = 32 / bits;
    let packed = (0..cols / per_word).flat_map(|w| (0..rows).map(move |r| (w, r)));
    let packed =
        packed.flat_map(|(w, r)| words(&(0..per_word).map(|i| code(r, w * per_word + i)).collect::<Vec<_>>(), bits));
    let zeros: Vec<usize> = (0..groups * rows).map(|i| zero(i % rows, i / rows) - 1).collect();
    let scales: Vec<f32> = (0..groups * rows).map(|i| scale(i % rows, i / rows)).collect();
    let index = (0..cols).flat_map(|c| (group(c, cols, scattered) as i32).to_le_bytes()).collect();
    let tensors = vec![
        stored(format!("{base}.qweight"), &[cols / per_word, rows], "I32", packed.collect()),
        stored(format!("{base}.qzeros"), &[groups, rows / per_word], "I32", words(&zeros, bits)),
        stored(format!("{base}.scales"), &[groups, rows], "F32", float_bytes(&scales)),
        stored(format!("{base}.g_idx"), &[cols], "I32", index),
    ];
    (tensors, (0..rows * cols).map(value).collect())
}

/// The model with packed projections and the dense one; the prompt.
fn models(case: &str, config: Value, pack: Pack) -> (mlx_lm::Result<Model>, Model, Vec<i32>) {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == case).unwrap();
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    for (seed, t) in goldens::tensors(&c).into_iter().enumerate() {
        let own = |b: &&str| b.contains("proj") && t.shape.len() == 2 && t.shape[1] % 32 == 0;
        let base = t.name.strip_suffix(".weight").filter(own).map(str::to_owned);
        let shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
        match base {
            Some(base) => {
                let (tensors, values) = pack(&base, shape[0], shape[1], seed);
                packed.extend(tensors);
                dense.push(stored(t.name, &shape, "F32", float_bytes(&values)));
            }
            None => {
                dense.push(stored(t.name.clone(), &shape, "F32", t.bytes.clone()));
                packed.push(t);
            }
        }
    }
    let load = |config: &Value, tensors: &[Stored]| {
        let dir = tempfile::tempdir().unwrap();
        goldens::write(dir.path(), config, tensors);
        Model::load(dir.path())
    };
    let mut own = c["config"].clone();
    own["quantization_config"] = config;
    (load(&own, &packed), load(&c["config"], &dense).unwrap(), goldens::ints(&c["prompt"]))
}

fn config(format: &str, bits: usize, symmetric: bool) -> Value {
    let weights = json!({"num_bits": bits, "group_size": GROUP, "symmetric": symmetric});
    json!({"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": {"weights": weights}}})
}

#[test]
fn packed_integers_and_mxfp4_give_the_logits_of_their_values() {
    let modelopt = |algo: &str| json!({"quant_method": "modelopt", "quant_algo": algo});
    let gptq_config = |bits: usize| json!({"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": true, "sym": false});
    // eighths of the bytes that each weight takes: codes, then what a group or row adds
    let cases: [(&str, Value, Pack, usize); 16] = [
        ("qwen3", config("pack-quantized", 4, true), |b, r, c, s| integers(b, r, c, s, 4), 6),
        ("qwen3", config("pack-quantized", 8, true), |b, r, c, s| integers(b, r, c, s, 8), 10),
        ("qwen3", config("mxfp4-pack-quantized", 4, true), mxfp4, 5),
        ("qwen3", config("nvfp4-pack-quantized", 4, true), |b, r, c, s| nvfp4(b, r, c, s, true), 5),
        ("qwen3", modelopt("NVFP4"), |b, r, c, s| nvfp4(b, r, c, s, false), 5),
        ("qwen3_moe.hf", modelopt("NVFP4"), |b, r, c, s| nvfp4(b, r, c, s, false), 5),
        ("deepseek_v3.hf", config("nvfp4-pack-quantized", 4, true), |b, r, c, s| nvfp4(b, r, c, s, true), 0),
        ("qwen3", modelopt("FP8"), |b, r, c, s| fp8(b, r, c, s, false), 9),
        ("qwen3", config("float-quantized", 8, true), |b, r, c, s| fp8(b, r, c, s, true), 9),
        ("qwen3_moe.hf", config("float-quantized", 8, true), |b, r, c, s| fp8(b, r, c, s, true), 9),
        ("qwen3", config("int-quantized", 8, true), int8, 10),
        ("qwen3", config("pack-quantized", 4, false), |b, r, c, s| with_zeros(b, r, c, s, false), 6),
        ("qwen3", config("pack-quantized", 4, false), |b, r, c, s| with_zeros(b, r, c, s, true), 7),
        ("qwen3", gptq_config(4), |b, r, c, s| gptq(b, r, c, s, 4, false), 6),
        ("qwen3", gptq_config(4), |b, r, c, s| gptq(b, r, c, s, 4, true), 7),
        ("qwen3", gptq_config(8), |b, r, c, s| gptq(b, r, c, s, 8, true), 11),
    ];
    for (case, config, pack, bits) in cases {
        let (packed, dense, prompt) = models(case, config.clone(), pack);
        let config = format!("{case} {config}");
        let logits = |m: &Model| {
            let ids = Array::from_slice(&prompt, [1, prompt.len() as i32]);
            m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).astype(Dtype::Float32).to_vec::<f32>().unwrap()
        };
        let packed = packed.unwrap_or_else(|e| panic!("{config}: {e}"));
        // nothing of it is dense
        let held: usize =
            packed.decoder.parameters().iter().filter(|(n, _)| n.contains("proj")).map(|(_, a)| a.nbytes()).sum();
        let weights: usize =
            dense.decoder.parameters().iter().filter(|(n, _)| n.contains("proj")).map(|(_, a)| a.size()).sum();
        assert!(bits == 0 || held <= weights * bits / 8, "{config}: {held} bytes of {weights} weights");
        let (got, want) = (logits(&packed), logits(&dense));
        let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 2e-5 * largest, "{config}: off by {off} of {largest}");
    }
}

#[test]
fn codes_that_would_be_read_wrongly_are_refused() {
    let refused = |config: Value, pack: Pack| models("qwen3", config, pack).0.map(|_| ()).unwrap_err().to_string();
    let threes = refused(config("pack-quantized", 3, true), |b, r, c, s| integers(b, r, c, s, 4));
    assert!(threes.contains("3 bits"), "{threes}");
    let uneven = refused(config("pack-quantized", 4, true), |b, r, c, s| {
        let (mut tensors, values) = with_zeros(b, r, c, s, true);
        tensors[4].bytes[..4].copy_from_slice(&1i32.to_le_bytes());
        (tensors, values)
    });
    assert!(uneven.contains("not of one size"), "{uneven}");
    let marlin = json!({"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "marlin"});
    assert!(refused(marlin, |b, r, c, s| gptq(b, r, c, s, 4, false)).contains("marlin"));
}

/// muse_spark's experts, gate and up in one tensor, with three names of their own: layers of four and of sixteen bits.
#[test]
fn experts_in_one_nvfp4_tensor_give_the_logits_of_their_values() {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == "muse_spark.hf").unwrap();
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    for (seed, t) in goldens::tensors(&c).into_iter().enumerate() {
        let shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
        let own = t.name.contains("experts.") && t.shape.len() == 3 && !t.name.contains("layers.0.");
        if !own {
            dense.push(stored(t.name.clone(), &shape, "F32", t.bytes.clone()));
            packed.push(t);
            continue;
        }
        let (experts, rows, cols) = (shape[0], shape[1], shape[2]);
        let halves = if t.name.ends_with("gate_up_proj") { 2 } else { 1 };
        let (mut codes, mut scales, mut wholes, mut values) = (vec![], vec![], vec![], vec![]);
        for part in 0..experts * halves {
            let (tensors, v) = nvfp4("x", rows / halves, cols, 3 * seed + part, false);
            codes.extend(tensors[0].bytes.clone());
            scales.extend(tensors[1].bytes.clone());
            wholes.extend(tensors[2].bytes.clone());
            values.extend(v);
        }
        let name = |part: &str| format!("{}{part}", t.name);
        let sides: &[usize] = if halves == 2 { &[experts, 2] } else { &[experts] };
        packed.push(stored(name(""), &[experts, rows, cols / 2], "U8", codes));
        packed.push(stored(name("_weight_scale"), &[experts, rows, cols / 16], "F8_E4M3", scales));
        packed.push(stored(name("_weight_scale_2"), sides, "F32", wholes));
        packed.push(stored(name("_input_scale"), &[1], "F32", float_bytes(&[3.0])));
        dense.push(stored(t.name, &shape, "F32", float_bytes(&values)));
    }
    let mut config = c["config"].clone();
    config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16});
    let prompt = goldens::ints(&c["prompt"]);
    let logits = |config: &Value, tensors: &[Stored]| {
        let dir = tempfile::tempdir().unwrap();
        goldens::write(dir.path(), config, tensors);
        let m = Model::load(dir.path()).unwrap();
        let ids = Array::from_slice(&prompt, [1, prompt.len() as i32]);
        let y = m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).astype(Dtype::Float32);
        let scales = m.decoder.parameters().iter().filter(|(n, _)| n.ends_with("global_scale")).count();
        (y.to_vec::<f32>().unwrap(), scales)
    };
    let ((got, scales), (want, _)) = (logits(&config, &packed), logits(&c["config"], &dense));
    assert_eq!(scales, 9, "three projections in three of four layers");
    let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2e-3 * largest, "off by {off} of {largest}");
}
