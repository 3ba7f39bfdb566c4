//! Writes GGUF files for tests, right and wrong ones.
use mlx_lm::weights::gguf::GgmlType;

use crate::random::Random;

pub struct GgufFile {
    kv: Vec<(String, (u32, Vec<u8>))>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

/// Values as (type id, bytes).
pub mod kv {
    pub fn u32(v: u32) -> (u32, Vec<u8>) {
        (4, v.to_le_bytes().to_vec())
    }
    pub fn f32(v: f32) -> (u32, Vec<u8>) {
        (6, v.to_le_bytes().to_vec())
    }
    pub fn string(v: &str) -> (u32, Vec<u8>) {
        (8, [&(v.len() as u64).to_le_bytes()[..], v.as_bytes()].concat())
    }
    pub fn strings(v: &[&str]) -> (u32, Vec<u8>) {
        array(8, v.len() as u64, v.iter().flat_map(|s| string(s).1).collect())
    }
    pub fn array(ty: u32, n: u64, items: Vec<u8>) -> (u32, Vec<u8>) {
        (9, [&ty.to_le_bytes()[..], &n.to_le_bytes(), &items].concat())
    }
}

impl GgufFile {
    pub fn new(arch: &str) -> Self {
        let kv = vec![("general.architecture".to_owned(), kv::string(arch))];
        GgufFile { kv, tensors: vec![], data: vec![] }
    }
    pub fn kv(&mut self, key: &str, value: (u32, Vec<u8>)) -> &mut Self {
        self.kv.push((key.into(), value));
        self
    }
    /// Dimensions fastest first; random blocks with tame scales.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ty: u32) -> &mut Self {
        let kind = GgmlType::from_id(ty).unwrap();
        let blocks = dims.iter().product::<u64>() as usize / kind.block();
        let offset = self.data.len().next_multiple_of(32);
        self.data.resize(offset, 0);
        let mut random = Random(name.bytes().fold(ty as u64, |h, b| h.wrapping_mul(31) + b as u64));
        for _ in 0..blocks {
            let mut block: Vec<u8> = (0..kind.block_bytes()).map(|_| random.below(256) as u8).collect();
            match kind.name() {
                "F32" => block = (random.below(1000) as f32 / 500.0).to_le_bytes().to_vec(),
                // f16 scales and values below 2
                _ => [1, 3, kind.block_bytes() - 1].iter().for_each(|&i| {
                    if let Some(b) = block.get_mut(i) {
                        *b &= 0xbf;
                    }
                }),
            }
            self.data.extend(block);
        }
        self.raw_tensor(name, dims, ty, offset as u64)
    }
    /// Float values of a row-major shape.
    pub fn f32s(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        let offset = self.data.len().next_multiple_of(32);
        self.data.resize(offset, 0);
        self.data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let dims: Vec<u64> = shape.iter().rev().map(|&d| d as u64).collect();
        self.raw_tensor(name, &dims, 0, offset as u64)
    }
    pub fn raw_tensor(&mut self, name: &str, dims: &[u64], ty: u32, offset: u64) -> &mut Self {
        self.tensors.push((name.into(), dims.to_vec(), ty, offset));
        self
    }
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.kv.len() as u64).to_le_bytes());
        for (key, (ty, bytes)) in &self.kv {
            out.extend(kv::string(key).1);
            out.extend(ty.to_le_bytes());
            out.extend(bytes);
        }
        for (name, dims, ty, offset) in &self.tensors {
            out.extend(kv::string(name).1);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}
