use mlx::io::{self, GgufValue};
use mlx::{self as mx, Array, Dtype, array};
use std::collections::BTreeMap;
use std::io::Cursor;

fn data(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/io").join(name)
}

fn every_dtype() -> Vec<(String, Array)> {
    use Dtype::*;
    let all = [
        Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Float16, Bfloat16, Float32, Float64, Complex64,
    ];
    let cast = |d: Dtype| mx::with_device(mx::Device::Cpu, || array!([[0, 1, 2], [3, 4, 5]]).astype(d));
    let mut out: Vec<(String, Array)> = all.iter().map(|&d| (d.to_string(), cast(d))).collect();
    out.push(("empty".into(), mx::zeros([0, 3], Float32)));
    out.push(("scalar".into(), array!(7.5)));
    out
}

fn refs(list: &[(String, Array)]) -> impl Iterator<Item = (&str, &Array)> {
    list.iter().map(|(n, a)| (n.as_str(), a))
}

fn same(a: &Array, b: &Array) {
    assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
    assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
}

#[test]
fn every_dtype_survives_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let list = every_dtype();
    let metadata: BTreeMap<String, String> = [("key".to_string(), "välue %s%n".to_string())].into();
    let path = dir.path().join("a%n.safetensors");
    io::save_safetensors(&path, refs(&list), &metadata).unwrap();
    let (arrays, found) = io::load_safetensors(&path).unwrap();
    list.iter().for_each(|(n, a)| same(a, &arrays[n]));
    assert_eq!(found, metadata);

    for (file, save) in [("a.npz", false), ("b.npz", true)] {
        let path = dir.path().join(file);
        if save { io::savez_compressed(&path, refs(&list)) } else { io::savez(&path, refs(&list)) }.unwrap();
        let arrays = io::load(&path).unwrap().into_arrays().unwrap();
        list.iter().for_each(|(n, a)| same(a, &arrays[n]));
    }
    for (n, a) in &list {
        let path = dir.path().join(n);
        mx::save(&path, a).unwrap();
        same(a, &io::load(dir.path().join(format!("{n}.npy"))).unwrap().into_array().unwrap());
    }
    let some: Vec<(String, Array)> = list
        .into_iter()
        .filter(|(_, a)| a.dtype().is_float() || matches!(a.dtype(), Dtype::Int8 | Dtype::Int64))
        .collect();
    let mut values = BTreeMap::new();
    values.insert("text".to_string(), GgufValue::String("x".into()));
    values.insert("list".to_string(), GgufValue::Strings(vec!["p".into(), "q".into()]));
    values.insert("number".to_string(), GgufValue::Array(array!(3)));
    let path = dir.path().join("a.gguf");
    io::save_gguf(&path, refs(&some), &values).unwrap();
    let (arrays, found) = io::load_gguf(&path).unwrap();
    some.iter().for_each(|(n, a)| same(a, &arrays[n]));
    assert!(matches!(&found["list"], GgufValue::Strings(l) if l == &["p", "q"]));
    assert!(io::save_gguf(&path, [("c", &Array::from([mx::Complex32::new(1.0, 2.0)]))], &values).is_err());
    assert!(io::load(dir.path().join("a.bin")).is_err());
}

#[test]
fn python_files_are_read() {
    let a = array!([[1.5, -2.0], [3.0, 4.25]]);
    let half = a.astype(Dtype::Bfloat16);
    let npz = io::load(data("python.npz")).unwrap().into_arrays().unwrap();
    same(&npz["a"], &a);
    same(&npz["h"], &half);
    assert_eq!(npz["b"].to_vec::<i64>().unwrap(), [1, 2, 3]);
    assert_eq!(npz["c"].to_vec::<mx::Complex32>().unwrap(), [mx::Complex32::new(1.0, 2.0)]);
    assert_eq!((npz["z"].ndim(), npz["z"].dtype()), (0, Dtype::Uint8));
    same(&io::load(data("python_compressed.npz")).unwrap().into_arrays().unwrap()["a"], &a);
    same(&io::load(data("python_bf16.npy")).unwrap().into_array().unwrap(), &half);
    let fortran = io::load(data("fortran.npy")).unwrap().into_array().unwrap();
    assert_eq!((fortran.shape(), fortran.to_vec::<f32>().unwrap()), (&[2, 3][..], vec![0., 1., 2., 3., 4., 5.]));
    let (tensors, metadata) = io::load_safetensors(data("python.safetensors")).unwrap();
    same(&tensors["h"], &half);
    assert_eq!((tensors["e"].shape(), metadata["note"].as_str()), (&[0, 3][..], "x"));
    let (tensors, metadata) = io::load_gguf(data("python.gguf")).unwrap();
    same(&tensors["a"], &a);
    assert_eq!(tensors["i"].to_vec::<i32>().unwrap(), [1, 2]);
    assert!(matches!(&metadata["s"], GgufValue::String(s) if s == "text"));
    assert!(matches!(&metadata["v"], GgufValue::Array(v) if v.to_vec::<f32>().unwrap() == [1.0, 2.0]));
}

#[test]
fn packed_gguf_blocks_become_affine_weights() {
    // one block of each type, by hand: element j of Q4 is the low half of byte j, element j + 16 the high half
    let d = half::f16::from_f32(0.5).to_le_bytes();
    let m = half::f16::from_f32(-3.0).to_le_bytes();
    let nibbles: Vec<u8> = (0..16).map(|j| j as u8 | (15 - j as u8) << 4).collect();
    let value = |i: usize| if i < 16 { i as f32 } else { 15.0 - (i - 16) as f32 };
    let bytes: Vec<u8> = (0..32).map(|i| (i * 7 - 100) as i8 as u8).collect();
    let q4_0: Vec<u8> = d.iter().chain(&nibbles).copied().collect();
    let q4_1: Vec<u8> = d.iter().chain(&m).chain(&nibbles).copied().collect();
    let q8_0: Vec<u8> = d.iter().chain(&bytes).copied().collect();
    let cases: [(u32, Vec<u8>, i32, Vec<f32>); 3] = [
        (2, q4_0, 4, (0..32).map(|i| 0.5 * (value(i) - 8.0)).collect()),
        (3, q4_1, 4, (0..32).map(|i| 0.5 * value(i) - 3.0).collect()),
        (8, q8_0, 8, (0..32).map(|i| 0.5 * (i as f32 * 7.0 - 100.0)).collect()),
    ];
    for (kind, block, bits, expected) in cases {
        let (tensors, _) = io::read_gguf(&mut Cursor::new(gguf(kind, &[32, 1], &block))).unwrap();
        let q = mx::Quant::affine(32, bits);
        let w = mx::dequantize(&tensors["t.weight"], &tensors["t.scales"], Some(&tensors["t.biases"]), q, None);
        assert_eq!(w.to_vec::<f32>().unwrap(), expected, "type {kind}");
    }
    let e = io::read_gguf(&mut Cursor::new(gguf(19, &[256, 1], &[0; 144]))).unwrap_err().to_string();
    assert!(e.contains("t.weight") && e.contains("type 19"), "{e}");
}

#[test]
fn other_gguf_blocks_become_dense_numbers_as_in_python() {
    // random blocks of Q6_K, and what Python made of them; of Q2_K and Q4_K it makes something else than llama.cpp
    let (found, _) = io::load_gguf(data("blocks.gguf")).unwrap();
    let (expected, _) = io::load_safetensors(data("blocks.safetensors")).unwrap();
    let (name, e) = ("t14.weight", &expected["t14.weight"]);
    assert_eq!((found[name].shape(), found[name].dtype()), (e.shape(), Dtype::Float16));
    crate::assert_close(&found[name].astype(Dtype::Float32), &e.astype(Dtype::Float32), 2e-3);

    // the others from numbers put into blocks by hand
    let read = |kind: u32, n: u64, block: &[u8]| {
        let (t, _) = io::read_gguf(&mut Cursor::new(gguf(kind, &[n, 1], block))).unwrap();
        t["t.weight"].to_vec::<f32>().unwrap()
    };
    let d = half::f16::from_f32(0.5).to_le_bytes();
    let m = half::f16::from_f32(-3.0).to_le_bytes();
    let codes: Vec<u8> = (0..32u32).map(|i| ((i * 11 + 5) % 32) as u8).collect();
    let packed: Vec<u8> = (0..16).map(|j| codes[j] & 15 | (codes[j + 16] & 15) << 4).collect();
    let fifth = (0..32).fold(0u32, |bits, i| bits | u32::from(codes[i] >> 4) << i).to_le_bytes();
    let q5_0: Vec<u8> = d.iter().chain(&fifth).chain(&packed).copied().collect();
    assert_eq!(read(6, 32, &q5_0), codes.iter().map(|&c| 0.5 * (f32::from(c) - 16.0)).collect::<Vec<_>>());
    let q5_1: Vec<u8> = d.iter().chain(&m).chain(&fifth).chain(&packed).copied().collect();
    assert_eq!(read(7, 32, &q5_1), codes.iter().map(|&c| 0.5 * f32::from(c) - 3.0).collect::<Vec<_>>());
    let mut fp4 = vec![129];
    fp4.extend((0..16).map(|j| (j % 8) | (8 + j % 8) << 4));
    let halves = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
    let value = |i: usize| if i < 16 { 2.0 * halves[i % 8] } else { -2.0 * halves[i % 8] };
    assert_eq!(read(39, 32, &fp4), (0..32).map(value).collect::<Vec<f32>>());
    let mut iq4 = d.to_vec();
    iq4.extend((0..16).map(|j| j | (15 - j) << 4));
    let v = read(20, 32, &iq4);
    assert_eq!((v[0], v[15], v[16], v[31]), (-63.5, 56.5, 56.5, -63.5));
    // Q4_K: part k has scale k + 1, codes 1 in even parts and 2 in odd ones
    let mut plain: Vec<u8> = d.iter().copied().chain([0; 2]).chain([1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8]).collect();
    plain.extend([0x21; 128]);
    let v = read(12, 256, &plain);
    (0..8).for_each(|k| assert_eq!(v[32 * k + 3], 0.5 * (k + 1) as f32 * (1 + k % 2) as f32, "part {k}"));
    // Q5_K with all fifth bits set: 16 scales above Q4_K
    let q4_k = &std::fs::read(data("blocks.gguf")).unwrap();
    let at = q4_k.len() - 2 * 210 - 28 - 2 * 144;
    let block = &q4_k[at..at + 144];
    let q5_k: Vec<u8> = block[..16].iter().copied().chain([0; 32]).chain(block[16..].iter().copied()).collect();
    let low = read(12, 256, block);
    assert_eq!(read(13, 256, &q5_k), low);
    let mut high = q5_k.clone();
    high[16..48].fill(0xff);
    let scale = f32::from(block[4] & 63) * half::f16::from_le_bytes([block[0], block[1]]).to_f32();
    assert!((read(13, 256, &high)[0] - low[0] - 16.0 * scale).abs() < 1e-2);
    // Q2_K: scale g + 1 and minimum g of each 16, codes 2: 0.5 * 2 (g + 1) - 0.25 g
    let mut q2_k: Vec<u8> = (0..16).map(|g| if g < 15 { (g + 1) | (g << 4) } else { 0 }).collect();
    q2_k.extend([0xaa; 64]);
    q2_k.extend(d);
    q2_k.extend(half::f16::from_f32(0.25).to_le_bytes());
    let v = read(10, 256, &q2_k);
    (0..15).for_each(|g| assert_eq!(v[16 * g + 7], (g + 1) as f32 - 0.25 * g as f32, "part {g}"));
    // Q3_K: every scale 33 - 32, codes 3, no high bit: 1 * (3 - 4)
    let mut q3_k = vec![0; 32];
    q3_k.extend([0xff; 64]);
    q3_k.extend([0x11; 8]);
    q3_k.extend([0xaa; 4]);
    q3_k.extend(half::f16::from_f32(1.0).to_le_bytes());
    assert_eq!(read(11, 256, &q3_k), vec![-1.0; 256]);
    q3_k[..32].fill(0xff);
    assert_eq!(read(11, 256, &q3_k), vec![3.0; 256]);
}

/// A file of one tensor.
fn gguf(kind: u32, dims: &[u64], data: &[u8]) -> Vec<u8> {
    let mut f = b"GGUF".to_vec();
    f.extend(3u32.to_le_bytes());
    f.extend(1u64.to_le_bytes());
    f.extend(0u64.to_le_bytes());
    f.extend(8u64.to_le_bytes());
    f.extend(b"t.weight");
    f.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| f.extend(d.to_le_bytes()));
    f.extend(kind.to_le_bytes());
    f.extend(0u64.to_le_bytes());
    f.resize(f.len().next_multiple_of(32), 0);
    f.extend(data);
    f
}

/// Whole files of each format, small.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let a = array!([[1.0, 2.0], [3.0, 4.0]]);
    let dir = tempfile::tempdir().unwrap();
    let mut out = Vec::new();
    for name in ["s.safetensors", "s.npz", "s.gguf"] {
        let path = dir.path().join(name);
        io::save_arrays(&path, [("a", &a), ("b", &a)]).unwrap();
        out.push((name, std::fs::read(&path).unwrap()));
    }
    mx::save(dir.path().join("s.npy"), &a).unwrap();
    out.push(("s.npy", std::fs::read(dir.path().join("s.npy")).unwrap()));
    out
}

fn read(name: &str, bytes: &[u8]) -> mx::Result<()> {
    let mut c = Cursor::new(bytes);
    match name {
        "s.safetensors" => io::read_safetensors(&mut c).map(drop),
        "s.npz" => io::read_npz(c).map(drop),
        "s.gguf" => io::read_gguf(&mut c).map(drop),
        _ => io::read_npy(&mut c).map(drop),
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    for (name, bytes) in samples() {
        read(name, &bytes).unwrap();
        for n in 0..bytes.len() {
            // padding after the last tensor may go
            let padding = name == "s.gguf" && n >= bytes.len() - 16;
            assert!(read(name, &bytes[..n]).is_err() || padding, "{name} cut at {n}");
        }
    }
}

#[test]
fn a_changed_byte_never_breaks_the_reader() {
    for (name, bytes) in samples() {
        let mut bytes = bytes;
        for i in 0..bytes.len().min(600) {
            let old = bytes[i];
            for new in [0, 1, 0x7f, 0x80, 0xff, old ^ 1, old.wrapping_add(1)] {
                bytes[i] = new;
                let _ = read(name, &bytes);
            }
            bytes[i] = old;
        }
    }
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_read() {
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend(b"{}");
    assert!(read("s.safetensors", &huge).unwrap_err().to_string().contains("header of"));
    let header = |h: &str| [&(h.len() as u64).to_le_bytes()[..], h.as_bytes(), &[0; 16]].concat();
    for (text, says) in [
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, "sizes"),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            "overlap",
        ),
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,16]}}"#, "sizes"),
        (r#"{"a":{"dtype":"F32","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,16]}}"#, "do not fill"),
        (r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,17]}}"#, "cut short"),
        (r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#, "cut short"),
        (r#"{"a%s%n":{"dtype":"Q9","shape":[4],"data_offsets":[0,16]}}"#, "a%s%n"),
        (r#"[1,2]"#, "header"),
    ] {
        let e = read("s.safetensors", &header(text)).unwrap_err().to_string();
        assert!(e.contains(says), "{text}: {e}");
    }
    for dims in [&[u64::MAX, 2][..], &[1 << 31], &[1 << 20, 1 << 20, 1 << 20, 1 << 20], &[0, 1 << 40]] {
        assert!(io::read_gguf(&mut Cursor::new(gguf(0, dims, &[0; 64]))).is_err(), "{dims:?}");
    }
    let npy = |shape: &str| {
        let h = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
        [b"\x93NUMPY\x01\x00", &(h.len() as u16).to_le_bytes()[..], h.as_bytes(), &[0; 16]].concat()
    };
    read("s.npy", &npy("4,")).unwrap();
    for shape in ["-4,", "99999999999,", "2147483647, 2147483647, 2147483647", "4, x", "1000000000,"] {
        assert!(read("s.npy", &npy(shape)).is_err(), "{shape}");
    }
}
