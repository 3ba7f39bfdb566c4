use mlx_lm::config::Config;
use mlx_lm::weights::GgufOptions;
use mlx_lm::weights::gguf::model::GgufModel;
use mlx_lm::weights::gguf::{Array, Value};

use crate::gguf::{llama, parse};
use crate::gguf_file::{GgufFile, kv};
use crate::random::Random;

#[test]
fn metadata_of_every_type_is_read() {
    let mut f = GgufFile::new("llama");
    f.kv("i8", (1, vec![0xff])).kv("u16", (2, vec![1, 2])).kv("bool", (7, vec![1]));
    f.kv("f64", (12, 2.5f64.to_le_bytes().to_vec())).kv("i64", (11, (-5i64).to_le_bytes().to_vec()));
    f.kv("floats", kv::array(6, 1, 0.5f32.to_le_bytes().to_vec()))
        .kv("wide", kv::array(4, 1, u32::MAX.to_le_bytes().to_vec()));
    f.kv("nested", kv::array(9, 2, [kv::array(4, 1, 7u32.to_le_bytes().to_vec()).1, kv::strings(&["x"]).1].concat()));
    let g = parse(&f.bytes()).unwrap();
    assert_eq!(g.get("i8").unwrap().as_i64(), Some(-1));
    assert_eq!(g.get("u16"), Some(&Value::U16(513)));
    assert_eq!((g.get("bool").unwrap().as_bool(), g.get("f64").unwrap().as_f64()), (Some(true), Some(2.5)));
    assert_eq!(g.get("i64").unwrap().as_usize(), None);
    assert_eq!(g.get("floats").unwrap().as_f32s(), Some(&[0.5][..]));
    assert_eq!((g.get("wide").unwrap().as_i32s(), g.get("wide").unwrap().to_i64s()), (None, Some(vec![4294967295])));
    use mlx_lm::tokenizer::GgufMeta;
    assert_eq!(
        (g.string("general.architecture"), g.u64("u16"), g.u64("i8"), g.u64("bool")),
        (Some("llama"), Some(513), None, None)
    );
    assert_eq!((g.bool("bool"), g.f32("f64"), g.f32s("floats").map(<[f32]>::len)), (Some(true), Some(2.5), Some(1)));
    assert_eq!((g.i32s("wide"), g.strings("nested"), g.string("none")), (None, None, None));
    let nested = Array::Nested(vec![Array::I32(vec![7]), Array::Str(vec!["x".into()])]);
    assert_eq!(g.get("nested").unwrap().as_array(), Some(&nested));
}

#[test]
fn every_truncation_is_an_error() {
    let all = llama().bytes();
    let header = parse(&all).unwrap().tensors.iter().map(|t| t.range.start).min().unwrap();
    for n in (0..header).chain((header..all.len()).step_by(101)).chain([all.len() - 1]) {
        let e = parse(&all[..n]).unwrap_err().to_string();
        assert!(e.starts_with("m.gguf: "), "{e}");
    }
}

#[test]
fn hostile_headers_are_errors() {
    let message = |f: &GgufFile| parse(&f.bytes()).unwrap_err().to_string();
    let with = |key: &str, value: (u32, Vec<u8>)| {
        let mut f = GgufFile::new("llama");
        f.kv(key, value);
        message(&f)
    };
    let tensor = |dims: &[u64], ty: u32| {
        let mut f = GgufFile::new("llama");
        f.raw_tensor("t", dims, ty, 0);
        message(&f)
    };
    let huge = u64::MAX.to_le_bytes();
    let mut twice = GgufFile::new("llama");
    twice.kv("k", kv::u32(1)).kv("k", kv::u32(2));
    let mut same = GgufFile::new("llama");
    same.tensor("t", &[4], 0).tensor("t", &[4], 0);
    let mut overlap = GgufFile::new("llama");
    overlap.tensor("a", &[64], 0).raw_tensor("b", &[4], 0, 32);
    let mut counts = GgufFile::new("llama").bytes();
    counts[8..16].copy_from_slice(&huge);
    let mut big_endian = GgufFile::new("llama").bytes();
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    let deep = (0..9).fold(kv::array(0, 0, vec![]).1, |inner, _| kv::array(9, 1, inner).1);
    for (got, want) in [
        (parse(b"GGML").unwrap_err().to_string(), "not a GGUF file"),
        (parse(&big_endian).unwrap_err().to_string(), "is a big-endian GGUF (version 3)"),
        (parse(&counts).unwrap_err().to_string(), "tensor count 18446744073709551615 is impossible"),
        (with("k", (99, vec![])), "metadata \"k\": unknown value type 99"),
        (with("k", (7, vec![9])), "metadata \"k\": 9 is not a bool"),
        (with("k", (8, huge.to_vec())), "metadata \"k\": string length 18446744073709551615 is impossible"),
        (with("k", (8, [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat())), "invalid utf-8"),
        (with("k", (9, [&4u32.to_le_bytes()[..], &huge].concat())), "array length 18446744073709551615 is impossible"),
        (with("k", (9, deep)), "arrays nested deeper than 4"),
        (with("general.alignment", kv::u32(0)), "general.alignment"),
        (with("general.alignment", kv::u32(24)), "general.alignment"),
        (message(&twice), "metadata \"k\" appears twice"),
        (message(&same), "tensor \"t\" appears twice"),
        (message(&overlap), "tensors \"a\" and \"b\" overlap"),
        (tensor(&[4, 4, 4, 4, 4], 0), "tensor \"t\": 5 dimensions"),
        (tensor(&[u64::MAX, 4], 0), "tensor \"t\": "),
        (tensor(&[0, 4], 0), "tensor \"t\": dimension 0 is impossible"),
        (tensor(&[1 << 40, 1 << 40], 0), "tensor \"t\": the shape is too large"),
        (tensor(&[1 << 40], 0), "tensor \"t\": data ends at byte"),
        (tensor(&[33], 2), "row length 33 is not a multiple of the Q4_0 block of 32"),
        (tensor(&[32], 4), "unknown type id 4"),
    ] {
        assert!(got.starts_with("m.gguf: ") && got.contains(want), "{got}");
    }
}

#[test]
fn random_damage_never_panics() {
    let good = llama().bytes();
    let header = parse(&good).unwrap().tensors.iter().map(|t| t.range.start).min().unwrap();
    let mut random = Random(11);
    for _ in 0..5_000 {
        let mut bad = good.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(header);
            bad[at] = match random.below(3) {
                0 => 0xff,
                1 => bad[at] ^ 1 << random.below(8),
                _ => random.below(256) as u8,
            };
        }
        let Ok(gguf) = parse(&bad) else { continue };
        let Ok(model) = GgufModel::new(vec![gguf], GgufOptions::default()) else { continue };
        for info in model.infos() {
            if let Ok(bytes) = model.bytes(&info.name) {
                assert_eq!(bytes.len(), info.nbytes(), "{}", info.name);
            }
        }
        if let Ok(c) = Config::from_json(model.config().clone(), "m") {
            let _ = (c.rope(), c.quantization(), c.tie_word_embeddings());
        }
    }
}
