//! compressed-tensors checkpoints, packed by a scalar loop, against the same model with the weights unpacked by another.

use crate::goldens::{self, Stored};
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

/// The model with packed projections and the dense one; the prompt.
fn models(config: Value, pack: Pack) -> (mlx_lm::Result<Model>, Model, Vec<i32>) {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == "qwen3").unwrap();
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    for (seed, t) in goldens::tensors(&c).into_iter().enumerate() {
        let base = t.name.strip_suffix(".weight").filter(|b| b.contains("proj")).map(str::to_owned);
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
    let cases: [(Value, Pack); 3] = [
        (config("pack-quantized", 4, true), |b, r, c, s| integers(b, r, c, s, 4)),
        (config("pack-quantized", 8, true), |b, r, c, s| integers(b, r, c, s, 8)),
        (config("mxfp4-pack-quantized", 4, true), mxfp4),
    ];
    for (config, pack) in cases {
        let (packed, dense, prompt) = models(config.clone(), pack);
        let logits = |m: &Model| {
            let ids = Array::from_slice(&prompt, [1, prompt.len() as i32]);
            m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).astype(Dtype::Float32).to_vec::<f32>().unwrap()
        };
        let (got, want) = (logits(&packed.unwrap()), logits(&dense));
        let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 2e-5 * largest, "{config}: off by {off} of {largest}");
    }
}

#[test]
fn codes_that_would_be_read_wrongly_are_refused() {
    let refused =
        |config: Value| models(config, |b, r, c, s| integers(b, r, c, s, 4)).0.map(|_| ()).unwrap_err().to_string();
    assert!(refused(config("pack-quantized", 4, false)).contains("zero points"));
    assert!(refused(config("pack-quantized", 3, true)).contains("3 bits"));
}
