use std::borrow::Cow;
use std::fs;
use std::path::Path;

use mlx_lm::weights::safetensors::{File, read};
use mlx_lm::weights::{Bytes, Checkpoint, Dtype, Tensor, save_shards};

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend((0..data).map(|i| i as u8));
    out
}

fn message(bytes: &[u8]) -> String {
    read(bytes, Path::new("m.safetensors")).unwrap_err().to_string()
}

const GOOD: &str = r#"{"__metadata__":{"format":"mlx"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[24,28]},"e":{"dtype":"BF16","shape":[0,7],"data_offsets":[28,28]}}"#;

#[test]
fn a_good_header_is_read() {
    let f = File::from_bytes(file(GOOD, 28).into(), Path::new("m")).unwrap();
    assert_eq!(f.header().metadata["format"], "mlx");
    let a = f.info("a").unwrap();
    assert_eq!((a.dtype, &a.shape[..], a.nbytes()), (Dtype::F32, &[2, 3][..], 24));
    assert_eq!(f.bytes("b").unwrap(), [24u8, 25, 26, 27]);
    assert!(f.bytes("e").unwrap().is_empty());
    let kept = f.shared("b").unwrap();
    drop(f);
    assert_eq!(kept[0], 24);
}

#[test]
fn all_dtypes_have_their_size() {
    for (name, size) in [
        ("BOOL", 1),
        ("U8", 1),
        ("F8_E5M2", 1),
        ("F8_E8M0", 1),
        ("I16", 2),
        ("F16", 2),
        ("U32", 4),
        ("I64", 8),
        ("F64", 8),
        ("C64", 8),
    ] {
        let header = format!(r#"{{"t":{{"dtype":"{name}","shape":[3],"data_offsets":[0,{}]}}}}"#, 3 * size);
        assert_eq!(read(&file(&header, 3 * size), Path::new("m")).unwrap().tensors[0].dtype.name(), name);
    }
}

#[test]
fn every_truncation_is_an_error() {
    let all = file(GOOD, 28);
    for n in 0..all.len() {
        assert!(read(&all[..n], Path::new("m")).is_err(), "{n} bytes");
    }
}

#[test]
fn hostile_headers_name_the_file_and_the_tensor() {
    let one = |entry: &str| message(&file(&format!("{{\"w\":{entry}}}"), 16));
    for (got, want) in [
        (message(b"abc"), "truncated: 3 bytes"),
        (message(&file(&"x".repeat(40), 0)), "does not start with '{'"),
        (message(&u64::MAX.to_le_bytes()), "claims 18446744073709551615 bytes"),
        (message(&1000u64.to_le_bytes()), "truncated: the header claims 1000 bytes"),
        (one(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,8]}"#), r#"tensor "w": F32 [4] needs 16 bytes"#),
        (one(r#"{"dtype":"F32","shape":[8],"data_offsets":[0,32]}"#), r#"tensor "w": data ends at 32"#),
        (one(r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#), "run backwards"),
        (one(r#"{"dtype":"Q4","shape":[4],"data_offsets":[0,16]}"#), r#"tensor "w": unknown dtype "Q4""#),
        (one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}"#), "is too large"),
        (one(r#"{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}"#), "is too large"),
        (one(r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#), r#"tensor "w": invalid"#),
        (one(r#"{"shape":[4],"data_offsets":[0,16]}"#), r#"tensor "w": missing field `dtype`"#),
        (
            message(&file(
                r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                2,
            )),
            "\"w\" appears twice",
        ),
        (
            message(&file(
                r#"{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"v":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
                3,
            )),
            "\"w\" and \"v\" overlap",
        ),
        (message(&file(&format!("{{\"w\":{}", "[".repeat(100_000)), 0)), "bad header"),
    ] {
        assert!(got.starts_with("m.safetensors: ") && got.contains(want), "{got}");
    }
}

#[test]
fn random_damage_never_panics() {
    let good = file(GOOD, 28);
    let mut random = crate::random::Random(7);
    let mut next = || random.below(1 << 30);
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % bad.len();
            bad[at] = next() as u8;
        }
        bad.truncate(bad.len() - next() % 3);
        if let Ok(f) = File::from_bytes(Bytes::from(bad), Path::new("m")) {
            for t in &f.header().tensors {
                assert_eq!(f.bytes(&t.name).unwrap().len(), t.nbytes());
            }
        }
    }
}

fn tensor(name: &str, n: usize) -> Tensor<'static> {
    let bytes = (0..n).map(|i| (i * 7 + name.len()) as u8).collect::<Vec<_>>();
    Tensor { name: name.into(), dtype: Dtype::U8, shape: vec![n], bytes: Cow::Owned(bytes), parameters: None }
}

#[test]
fn shards_round_trip_with_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a", "bb", "ccc", "dddd", "eeeee"];
    let saved = save_shards(dir.path(), names.iter().map(|n| Ok(tensor(n, 40))), 100).unwrap();
    assert_eq!((saved.files.len(), saved.total_size, saved.total_parameters), (3, 200, 200));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 200);
    assert_eq!(index["weight_map"]["ccc"], "model-00002-of-00003.safetensors");
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.names().collect::<Vec<_>>(), names);
    assert_eq!(c.metadata()["format"], "mlx");
    for n in names {
        assert_eq!(&c.bytes(n).unwrap()[..], &tensor(n, 40).bytes[..]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no temporary files are left");
    assert_eq!(c.bytes("zz").unwrap_err().to_string(), format!("tensor zz: missing in {}", dir.path().display()));
}

#[test]
fn one_shard_has_the_plain_name_and_failures_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = tensor("w", 4);
    wrong.shape = vec![5];
    let e = save_shards(dir.path(), [Ok(tensor("a", 4)), Ok(tensor("b", 200)), Ok(wrong)], 100).unwrap_err();
    assert_eq!(e.to_string(), "tensor w: U8 [5] does not fit 4 bytes");
    let e = save_shards(dir.path(), [Ok(tensor("a", 4)), Ok(tensor("a", 4))], 100).unwrap_err();
    assert_eq!(e.to_string(), "tensor a: written twice");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let saved = save_shards(dir.path(), [Ok(tensor("a", 4))], 100).unwrap();
    assert_eq!(saved.files, [dir.path().join("model.safetensors")]);
}

#[test]
fn broken_sets_of_shards_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n);
    let open = || Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(open().contains("holds neither model*.safetensors nor a .gguf file"));
    save_shards(dir.path(), ["a", "bb", "ccc"].iter().map(|n| Ok(tensor(n, 40))), 50).unwrap();
    let second = path("model-00002-of-00003.safetensors");
    let bytes = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    assert!(open().contains("model-00002-of-00003.safetensors: missing"));
    let index = fs::read(path("model.safetensors.index.json")).unwrap();
    fs::remove_file(path("model.safetensors.index.json")).unwrap();
    assert!(open().contains("model-00002-of-00003.safetensors: missing: shard 2 of 3"));
    fs::write(&second, fs::read(path("model-00001-of-00003.safetensors")).unwrap()).unwrap();
    assert!(open().starts_with("tensor a: is in "));
    fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
    assert!(open().contains("tensor \"bb\": data ends at 40, but the file has only 39"));
    fs::write(&second, bytes).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().len(), 3);
    let text = String::from_utf8(index).unwrap();
    fs::write(path("model.safetensors.index.json"), text.replace("\"bb\"", "\"zz\"")).unwrap();
    assert!(open().contains("tensor zz: the index puts it in model-00002-of-00003.safetensors, where it is not"));
    fs::write(path("model.safetensors.index.json"), text.replace("model-00002", "../x")).unwrap();
    assert!(open().contains("is not a plain file name"));
    assert!(Checkpoint::open(path("model-00001-of-00003.safetensors")).unwrap().contains("a"));
    assert!(Checkpoint::open(path("nothing")).unwrap_err().to_string().contains("nothing"));
}
