use std::io::Read;
use std::path::Path;

use mlx_lm::config::{Config, QuantMode, Quantization, RopeKind};
use mlx_lm::weights::gguf::affine::{self, Form};
use mlx_lm::weights::gguf::arch::ARCHS;
use mlx_lm::weights::gguf::blocks::{dequantize, supported};
use mlx_lm::weights::gguf::model::GgufModel;
use mlx_lm::weights::gguf::{GgmlType, Gguf};
use mlx_lm::weights::{Bytes, Checkpoint, Dtype, Format, GgufOptions};
use sha2::{Digest, Sha256};

use crate::gguf_file::{GgufFile, kv};

/// Type, blocks, values of the first 4 blocks, hash of all values.
type Record = (GgmlType, Vec<u8>, Vec<f32>, Vec<u8>);

fn recorded() -> Vec<Record> {
    let packed = include_bytes!("../data/gguf_blocks.bin.gz");
    let mut all = vec![];
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut all).unwrap();
    let (mut rest, mut out) = (&all[..], vec![]);
    while !rest.is_empty() {
        let int = |i: usize| u32::from_le_bytes(rest[4 * i..4 * i + 4].try_into().unwrap());
        let (ty, blocks, elems) = (GgmlType::from_id(int(0)).unwrap(), int(1) as usize, int(2) as usize);
        let (bytes, tail) = rest[12..].split_at(blocks * ty.block_bytes());
        let (values, tail) = tail.split_at(4 * 4 * elems);
        let (hash, tail) = tail.split_at(32);
        assert_eq!((blocks, elems), (40, ty.block()));
        let values = values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        out.push((ty, bytes.to_vec(), values, hash.to_vec()));
        rest = tail;
    }
    out
}

fn values(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / ty.block_bytes() * ty.block()];
    dequantize(ty, bytes, &mut out).unwrap();
    out
}

#[test]
fn blocks_equal_the_python_package_bit_for_bit() {
    let all = recorded();
    for (ty, bytes, first, hash) in &all {
        let got = values(*ty, bytes);
        for (i, (a, b)) in got.iter().zip(first).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{ty} element {i}: {a} {b}");
        }
        let bytes: Vec<u8> = got.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(Sha256::digest(&bytes)[..], hash[..], "{ty}");
    }
    let covered: Vec<GgmlType> = all.iter().map(|r| r.0).collect();
    let readable: Vec<GgmlType> = GgmlType::all().filter(|t| supported(*t)).collect();
    assert_eq!(covered.len(), 16);
    assert!(readable.iter().all(|t| covered.contains(t)), "every readable type has an oracle");
}

/// Code `i` of a row packed as MLX packs: a stream of bits, lowest first.
fn code(packed: &[u8], i: usize, bits: usize) -> u32 {
    (0..bits).map(|b| (packed[(i * bits + b) / 8] as u32 >> ((i * bits + b) % 8) & 1) << b).sum()
}

#[test]
fn packed_forms_lose_nothing() {
    const FP4: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut packed = 0;
    for (ty, bytes, ..) in recorded() {
        let Some(Form::Packed { params, scales }) = affine::form(ty) else { continue };
        packed += 1;
        let want = values(ty, &bytes);
        let codes = affine::weight(ty, &bytes).unwrap();
        assert_eq!(codes.len(), want.len() * params.bits / 8);
        if params.mode == QuantMode::Mxfp4 {
            let e = affine::scales(ty, &bytes, Dtype::U8).unwrap();
            for (i, w) in want.iter().enumerate() {
                let c = code(&codes, i, 4) as usize;
                let value = FP4[c & 7] * 2f64.powi(e[i / 32] as i32 - 127) as f32 * if c > 7 { -1.0 } else { 1.0 };
                assert_eq!(value, *w, "{ty} {i}");
            }
            continue;
        }
        let float =
            |b: Vec<u8>| -> Vec<f32> { b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect() };
        let s = float(affine::scales(ty, &bytes, Dtype::F32).unwrap());
        let b = float(affine::biases(ty, &bytes, Dtype::F32).unwrap());
        for (i, w) in want.iter().enumerate() {
            let got = s[i / 32] * code(&codes, i, params.bits) as f32 + b[i / 32];
            assert!(got == *w, "{ty} {i}: {got} {w}");
        }
        // the declared type holds the same scales
        if scales == Dtype::F16 {
            let h = affine::scales(ty, &bytes, scales).unwrap();
            for (h, s) in h.chunks_exact(2).zip(&s) {
                assert_eq!(half::f16::from_le_bytes([h[0], h[1]]).to_f32(), *s);
            }
        }
    }
    assert_eq!(packed, 8);
}

#[test]
fn a_bias_that_overflows_f16_is_an_error() {
    let mut block = vec![0u8; GgmlType::Q8_0.block_bytes()];
    block[..2].copy_from_slice(&half::f16::from_f32(600.0).to_le_bytes());
    let e = affine::biases(GgmlType::Q8_0, &block, Dtype::F16).unwrap_err();
    assert_eq!(e, "-76800 in group 0 of a Q8_0 tensor does not fit f16: open it with f32 scales");
    assert_eq!(affine::biases(GgmlType::Q8_0, &block, Dtype::F32).unwrap(), (-76800f32).to_le_bytes());
    assert!(affine::weight(GgmlType::Q6_K, &[0; 210]).is_err());
    assert!(dequantize(GgmlType::Q6_K, &[0; 209], &mut [0.0; 256]).is_err());
    assert!(dequantize(GgmlType::from_id(16).unwrap(), &[0; 66], &mut [0.0; 256]).is_err());
}

#[test]
fn rows_are_unpermuted_per_head() {
    // two heads of four rows: 0 2 1 3 within each
    let rows: Vec<u8> = (0..8).flat_map(|r| [r, r + 100]).collect();
    let out = affine::unpermute(&rows, 8, 2).unwrap();
    assert_eq!(out.chunks(2).map(|r| r[0]).collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert!(affine::unpermute(&rows, 8, 3).is_err());
    assert!(affine::unpermute(&rows, 8, 0).is_err());
}

pub fn llama() -> GgufFile {
    let mut f = GgufFile::new("llama");
    f.kv("llama.block_count", kv::u32(1)).kv("llama.embedding_length", kv::u32(64));
    f.kv("llama.feed_forward_length", kv::u32(96)).kv("llama.attention.head_count", kv::u32(4));
    f.kv("llama.attention.head_count_kv", kv::u32(2)).kv("llama.attention.layer_norm_rms_epsilon", kv::f32(1e-5));
    f.kv("llama.context_length", kv::u32(128)).kv("llama.rope.freq_base", kv::f32(1e5));
    f.kv("tokenizer.ggml.eos_token_id", kv::u32(2)).kv("tokenizer.ggml.tokens", kv::strings(&["a", "é"]));
    f.tensor("token_embd.weight", &[64, 10], 8).tensor("output_norm.weight", &[64], 0);
    for (name, dims) in [("attn_q", [64, 64]), ("attn_k", [64, 32]), ("attn_v", [64, 32]), ("attn_output", [64, 64])] {
        f.tensor(&format!("blk.0.{name}.weight"), &dims, 3);
    }
    f.tensor("blk.0.ffn_gate.weight", &[64, 96], 3).tensor("blk.0.ffn_up.weight", &[64, 96], 2);
    f.tensor("blk.0.ffn_down.weight", &[96, 64], 1).tensor("blk.0.attn_norm.weight", &[64], 0);
    f.tensor("blk.0.ffn_norm.weight", &[64], 0);
    f
}

pub fn parse(bytes: &[u8]) -> mlx_lm::Result<Gguf> {
    Gguf::from_bytes(Bytes::from(bytes.to_vec()), Path::new("m.gguf"))
}

#[test]
fn a_llama_file_becomes_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, llama().bytes()).unwrap();
    for place in [&*path, dir.path()] {
        let c = Checkpoint::open(place).unwrap();
        assert_eq!(c.format(), Format::Gguf);
        let config = c.config().unwrap();
        assert_eq!((config.model_type(), config.usize("vocab_size").unwrap()), ("llama", 10));
        assert_eq!(config.f64("rms_norm_eps").unwrap(), 1e-5);
        assert_eq!(config.rope().unwrap().theta, Some(1e5));
        assert_eq!(config.tie_word_embeddings().unwrap(), Some(true));
        assert_eq!(config.eos_token_ids(), [2]);
        let Quantization::Mlx(q) = config.quantization().unwrap() else { panic!() };
        assert_eq!((q.default.bits, q.default.group_size), (4, 32));
        assert_eq!(q.listed("model.embed_tokens").unwrap().unwrap().bits, 8);
        let q_proj = c.info("model.layers.0.self_attn.q_proj.weight").unwrap();
        assert_eq!((q_proj.dtype, &q_proj.shape[..]), (Dtype::U32, &[64, 8][..]));
        assert_eq!(c.info("model.layers.0.self_attn.q_proj.scales").unwrap().shape, [64, 2]);
        assert_eq!(c.info("model.layers.0.mlp.down_proj.weight").unwrap().dtype, Dtype::F16);
        assert!(!c.contains("model.layers.0.mlp.down_proj.scales") && !c.contains("lm_head.weight"));
        for info in c.infos() {
            assert_eq!(c.bytes(&info.name).unwrap().len(), info.nbytes(), "{}", info.name);
        }
        // row 1 of the result is row 2 of the file, for each part; v is left alone
        let gguf = Gguf::open(&path).unwrap();
        let raw = |name: &str| gguf.bytes(gguf.tensor(name).unwrap()).unwrap();
        let row = GgmlType::Q4_1.row_bytes(64);
        for (part, piece) in [("scales", affine::scales as fn(_, &[u8], _) -> _), ("biases", affine::biases)] {
            let got = c.bytes(&format!("model.layers.0.self_attn.q_proj.{part}")).unwrap();
            let want = piece(GgmlType::Q4_1, &raw("blk.0.attn_q.weight")[2 * row..3 * row], Dtype::F16).unwrap();
            assert_eq!(got[4..8], want);
        }
        let got = c.bytes("model.layers.0.self_attn.q_proj.weight").unwrap();
        assert_eq!(got[32..64], affine::weight(GgmlType::Q4_1, &raw("blk.0.attn_q.weight")[2 * row..3 * row]).unwrap());
        let got = c.bytes("model.layers.0.self_attn.v_proj.weight").unwrap();
        assert_eq!(got[..], affine::weight(GgmlType::Q4_1, &raw("blk.0.attn_v.weight")).unwrap());
        let seen = mlx_lm::weights::inspect(place).unwrap();
        assert!(seen.complete, "{:?}", seen.problems);
        assert_eq!(seen.parameters, 640 + 64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3 + 3 * 64);
        let bits: Vec<usize> = seen.quantization.iter().map(|q| q.params.bits).collect();
        assert_eq!(bits, [4, 8]);
    }
}

#[test]
fn f32_scales_and_dense_types_can_be_chosen() {
    let options = GgufOptions { scales: Some(Dtype::F32), dense: Dtype::BF16, half: false };
    let mut file = llama();
    file.tensor("output.weight", &[256, 2], 14);
    let model = GgufModel::new(vec![parse(&file.bytes()).unwrap()], options).unwrap();
    let dtype = |n: &str| model.infos().find(|i| i.name == n).unwrap().dtype;
    assert_eq!(dtype("model.embed_tokens.scales"), Dtype::F32);
    assert_eq!(dtype("lm_head.weight"), Dtype::BF16);
    assert_eq!(model.bytes("lm_head.weight").unwrap().len(), 1024);
    assert_eq!(model.config()["tie_word_embeddings"], false);
    // f32 hidden states need wide scales of the embedding alone
    let model = GgufModel::new(vec![parse(&file.bytes()).unwrap()], DENSE).unwrap();
    let dtype = |n: &str| model.infos().find(|i| i.name == n).unwrap().dtype;
    assert_eq!([dtype("model.embed_tokens.scales"), dtype("model.embed_tokens.biases")], [Dtype::F32; 2]);
    assert_eq!(dtype("model.layers.0.self_attn.q_proj.scales"), Dtype::F16);
}

#[test]
fn half_gives_hidden_states_one_dtype_of_16_bits() {
    let dtypes = |mut file: GgufFile, extra: u32| {
        file.tensor("output.weight", &[256, 2], extra);
        let model = GgufModel::new(vec![parse(&file.bytes()).unwrap()], GgufOptions::half()).unwrap();
        let dtype = |end: &str| model.infos().find(|i| i.name.ends_with(end)).map(|i| i.dtype);
        [dtype("norm.weight"), dtype("embed_tokens.scales"), dtype("lm_head.weight")]
    };
    // Q6_K has no packed form; F32 norms become what the scales are
    assert_eq!(dtypes(llama(), 14), [Some(Dtype::F16); 3]);
    assert_eq!(dtypes(llama(), 30), [Some(Dtype::BF16); 3]);
    // gemma's hidden states leave the range of f16
    let mut gemma = GgufFile::new("gemma");
    gemma.kv("gemma.block_count", kv::u32(1)).kv("gemma.embedding_length", kv::u32(64));
    gemma.kv("gemma.attention.head_count", kv::u32(4)).tensor("token_embd.weight", &[64, 10], 3);
    gemma.tensor("output_norm.weight", &[64], 0);
    assert_eq!(dtypes(gemma, 14)[0], Some(Dtype::F32));
}

#[test]
fn gemma_norms_lose_their_one_and_defaults_are_filled_in() {
    let mut f = GgufFile::new("gemma3");
    f.kv("gemma3.block_count", kv::u32(1)).kv("gemma3.embedding_length", kv::u32(64));
    f.kv("gemma3.attention.head_count", kv::u32(4)).kv("gemma3.attention.key_length", kv::u32(32));
    f.kv("gemma3.attention.sliding_window", kv::u32(8)).kv("gemma3.rope.scaling.type", kv::string("linear"));
    f.kv("gemma3.rope.scaling.factor", kv::f32(8.0)).tensor("token_embd.weight", &[64, 10], 0);
    f.tensor("blk.0.ffn_norm.weight", &[64], 0).tensor("blk.0.attn_q_norm.weight", &[32], 0);
    f.tensor("blk.0.attn_q.weight", &[64, 128], 0);
    let gguf = parse(&f.bytes()).unwrap();
    let raw = gguf.bytes(gguf.tensor("blk.0.ffn_norm.weight").unwrap()).unwrap();
    let model = GgufModel::new(vec![gguf], GgufOptions::default()).unwrap();
    let got = model.bytes("model.layers.0.pre_feedforward_layernorm.weight").unwrap();
    let float = |b: &[u8]| f32::from_le_bytes(b[..4].try_into().unwrap());
    assert_eq!(float(&got), float(&raw) - 1.0);
    assert!(model.infos().any(|i| i.name == "model.layers.0.self_attn.q_norm.weight"));
    let c = Config::from_json(model.config().clone(), "m.gguf").unwrap();
    assert_eq!(c.model_type(), "gemma3_text");
    assert_eq!((c.usize("query_pre_attn_scalar").unwrap(), c.usize("sliding_window_pattern").unwrap()), (32, 6));
    assert_eq!(c.rope_for("sliding_attention").unwrap().theta, Some(1e4));
    assert_eq!(c.rope_for("full_attention").unwrap().kind, RopeKind::Linear { factor: 8.0 });
    assert_eq!(c.quantization().unwrap(), Quantization::None);
}

#[test]
fn architectures_map_their_own_names() {
    let name = |arch: &str, from: &str| ARCHS.iter().find(|a| a.name == arch).unwrap().rename(from);
    for (arch, from, to) in [
        ("llama", "blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"),
        ("qwen2", "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias"),
        ("qwen3", "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("qwen3moe", "blk.1.ffn_down_exps.weight", "model.layers.1.mlp.switch_mlp.down_proj.weight"),
        ("qwen2moe", "blk.1.ffn_gate_inp_shexp.weight", "model.layers.1.mlp.shared_expert_gate.weight"),
        ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("gemma", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
        ("phi2", "output_norm.bias", "model.final_layernorm.bias"),
        ("deepseek2", "blk.3.exp_probs_b.bias", "model.layers.3.mlp.gate.e_score_correction_bias"),
        ("deepseek2", "blk.3.ffn_up_shexp.weight", "model.layers.3.mlp.shared_experts.up_proj.weight"),
        ("lfm2", "blk.0.shortconv.conv.weight", "model.layers.0.conv.conv.weight"),
        ("lfm2", "token_embd_norm.weight", "model.embedding_norm.weight"),
        ("olmo2", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"),
        ("granitemoe", "blk.0.ffn_gate_inp.weight", "model.layers.0.block_sparse_moe.router.layer.weight"),
        ("gpt-oss", "blk.0.attn_sinks.weight", "model.layers.0.self_attn.sinks"),
    ] {
        assert_eq!(name(arch, from).as_deref(), Some(to), "{arch} {from}");
    }
    assert_eq!(name("llama", "blk.x.attn_q.weight"), None);
    assert_eq!(name("llama", "v.patch_embd.weight"), None);
    let bad = |f: &GgufFile| {
        GgufModel::new(vec![parse(&f.bytes()).unwrap()], GgufOptions::default()).unwrap_err().to_string()
    };
    let mut f = llama();
    f.tensor("blk.0.surprise.weight", &[4], 0);
    assert_eq!(bad(&f), "tensor blk.0.surprise.weight: is not known of architecture llama (m.gguf)");
    assert!(bad(&GgufFile::new("clip")).starts_with("GGUF architecture \"clip\" is not supported"));
    let mut f = llama();
    f.tensor("output.weight", &[256, 4], 16);
    assert_eq!(bad(&f), "GGUF tensor type \"IQ2_XXS\" is not supported: tensor output.weight");
}

#[test]
fn llama3_factors_and_deepseek_geometry_reach_the_config() {
    let mut f = llama();
    f.tensor("rope_freqs.weight", &[8], 0);
    let model = GgufModel::new(vec![parse(&f.bytes()).unwrap()], GgufOptions::default()).unwrap();
    let rope = Config::from_json(model.config().clone(), "m").unwrap().rope().unwrap();
    assert!(matches!(rope.kind, RopeKind::LongRope { ref long, original_max: 128, .. } if long.len() == 8));
    let mut f = GgufFile::new("deepseek2");
    for (key, n) in [
        ("block_count", 1),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 576),
        ("attention.key_length_mla", 192),
        ("attention.value_length_mla", 128),
        ("rope.dimension_count", 64),
        ("expert_count", 8),
        ("expert_gating_func", 2),
    ] {
        f.kv(&format!("deepseek2.{key}"), kv::u32(n));
    }
    f.tensor("token_embd.weight", &[64, 10], 0);
    let model = GgufModel::new(vec![parse(&f.bytes()).unwrap()], GgufOptions::default()).unwrap();
    let c = Config::from_json(model.config().clone(), "m").unwrap();
    let n = |k: &str| c.usize(k).unwrap();
    assert_eq!(c.model_type(), "deepseek_v3");
    assert_eq!(
        (n("qk_nope_head_dim"), n("qk_rope_head_dim"), n("v_head_dim"), n("num_key_value_heads")),
        (128, 64, 128, 4)
    );
}

fn floats(b: &[u8]) -> Vec<f32> {
    b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

const DENSE: GgufOptions = GgufOptions { scales: None, dense: Dtype::F32, half: false };

#[test]
fn deepseek_v2_gets_its_kv_b_back_whole() {
    let mut f = GgufFile::new("deepseek2");
    for (key, n) in
        [("block_count", 1), ("attention.head_count", 2), ("attention.key_length", 5), ("rope.dimension_count", 2)]
    {
        f.kv(&format!("deepseek2.{key}"), kv::u32(n));
    }
    // two heads, rank 4, nope 3, v 2
    f.tensor("token_embd.weight", &[4, 3], 0).tensor("blk.0.attn_k_b.weight", &[3, 4, 2], 0).tensor(
        "blk.0.attn_v_b.weight",
        &[4, 2, 2],
        0,
    );
    let gguf = parse(&f.bytes()).unwrap();
    let raw = |n: &str| floats(&gguf.bytes(gguf.tensor(n).unwrap()).unwrap());
    let (k, v) = (raw("blk.0.attn_k_b.weight"), raw("blk.0.attn_v_b.weight"));
    let model = GgufModel::new(vec![gguf.clone()], DENSE).unwrap();
    assert_eq!(model.config()["model_type"], "deepseek_v2");
    let name = "model.layers.0.self_attn.kv_b_proj.weight";
    assert_eq!(model.infos().find(|i| i.name == name).unwrap().shape, [10, 4]);
    let got = floats(&model.bytes(name).unwrap());
    for h in 0..2 {
        for r in 0..4 {
            for i in 0..3 {
                assert_eq!(got[(h * 5 + i) * 4 + r], k[(h * 4 + r) * 3 + i]);
            }
            for i in 0..2 {
                assert_eq!(got[(h * 5 + 3 + i) * 4 + r], v[(h * 2 + i) * 4 + r]);
            }
        }
    }
}

#[test]
fn olmo_joins_its_projections_and_a_mixture_becomes_dense() {
    let file = |v: u32| {
        let mut f = GgufFile::new("olmo");
        f.kv("olmo.block_count", kv::u32(1)).kv("olmo.embedding_length", kv::u32(32));
        f.kv("olmo.attention.head_count", kv::u32(2)).kv("olmo.feed_forward_length", kv::u32(64));
        f.tensor("token_embd.weight", &[32, 3], 0).tensor("blk.0.attn_v.weight", &[32, 32], v);
        f.tensor("blk.0.attn_q.weight", &[32, 32], 2).tensor("blk.0.attn_k.weight", &[32, 32], 2);
        f.tensor("blk.0.ffn_gate.weight", &[32, 64], 8).tensor("blk.0.ffn_up.weight", &[32, 64], 8);
        f
    };
    let gguf = parse(&file(2).bytes()).unwrap();
    let raw = |n: &str| gguf.bytes(gguf.tensor(n).unwrap()).unwrap();
    let model = GgufModel::new(vec![gguf.clone()], DENSE).unwrap();
    let shape = |m: &GgufModel, n: &str| m.infos().find(|i| i.name == n).map(|i| (i.dtype, i.shape.clone()));
    let att = "model.transformer.blocks.0.att_proj";
    assert_eq!(shape(&model, &format!("{att}.weight")), Some((Dtype::U32, vec![96, 4])));
    assert_eq!(shape(&model, &format!("{att}.scales")), Some((Dtype::F16, vec![96, 1])));
    let v = affine::weight(GgmlType::Q4_0, &raw("blk.0.attn_v.weight")).unwrap();
    let q = affine::weight(GgmlType::Q4_0, &raw("blk.0.attn_q.weight")).unwrap();
    let got = model.bytes(&format!("{att}.weight")).unwrap();
    assert_eq!((&got[64 * 16..], &got[..16], &got[16..32]), (&v[..], &q[..16], &q[32..48]));
    let ff = model.bytes("model.transformer.blocks.0.ff_proj.weight").unwrap();
    assert_eq!(ff[..64 * 32], affine::weight(GgmlType::Q8_0, &raw("blk.0.ffn_up.weight")).unwrap());
    assert_eq!((model.config()["mlp_hidden_size"].clone(), model.config()["n_heads"].clone()), (128.into(), 2.into()));
    let mixed = GgufModel::new(vec![parse(&file(3).bytes()).unwrap()], DENSE).unwrap();
    assert_eq!(shape(&mixed, &format!("{att}.weight")), Some((Dtype::F32, vec![96, 32])));
    assert_eq!(mixed.bytes(&format!("{att}.weight")).unwrap().len(), 96 * 32 * 4);
}

#[test]
fn lfm2_layers_are_known_by_their_kv_heads() {
    let mut f = GgufFile::new("lfm2");
    f.kv("lfm2.block_count", kv::u32(2))
        .kv("lfm2.attention.head_count_kv", kv::array(5, 2, [0i32.to_le_bytes(), 2i32.to_le_bytes()].concat()));
    f.kv("lfm2.attention.head_count", kv::u32(4)).kv("lfm2.feed_forward_length", kv::u32(96));
    f.tensor("token_embd.weight", &[32, 3], 0).tensor("token_embd_norm.weight", &[32], 0);
    f.tensor("blk.0.shortconv.conv.weight", &[3, 32], 0).tensor("blk.1.attn_k.weight", &[32, 16], 8);
    let model = GgufModel::new(vec![parse(&f.bytes()).unwrap()], GgufOptions::default()).unwrap();
    let c = Config::from_json(model.config().clone(), "m").unwrap();
    assert_eq!(c.strings("layer_types").unwrap(), ["conv", "full_attention"]);
    assert_eq!(
        (c.usize("num_key_value_heads").unwrap(), c.usize("block_ff_dim").unwrap(), c.flag("conv_bias").unwrap()),
        (2, 96, false)
    );
    let conv = model.infos().find(|i| i.name == "model.layers.0.conv.conv.weight").unwrap();
    assert_eq!(conv.shape, [32, 3, 1]);
}

#[test]
fn a_model_in_parts_is_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = llama();
    first.kv("split.count", kv::u32(2));
    let mut second = GgufFile::new("llama");
    second.tensor("output.weight", &[64, 10], 8);
    let path = |i| dir.path().join(format!("m-0000{i}-of-00002.gguf"));
    std::fs::write(path(1), first.bytes()).unwrap();
    assert!(Checkpoint::open(path(1)).unwrap_err().to_string().contains("m-00002-of-00002.gguf"));
    std::fs::write(path(2), second.bytes()).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.files().len(), 2);
    assert_eq!(c.bytes("lm_head.weight").unwrap().len(), 640);
    assert_eq!(c.config().unwrap().tie_word_embeddings().unwrap(), Some(false));
    let mut middle = llama();
    middle.kv("split.count", kv::u32(3));
    std::fs::write(path(2), middle.bytes()).unwrap();
    assert!(Checkpoint::open(path(2)).unwrap_err().to_string().contains("is one of 3 parts: open the first"));
}

/// The packaged model, when the cache holds it: a real file through every layer.
#[test]
fn the_packaged_model_reads_as_published() {
    let Ok(path) = mlx_lm::hub::packaged_path() else { return };
    if !path.is_file() {
        return;
    }
    let c = Checkpoint::open(&path).unwrap();
    let config = c.config().unwrap();
    let n = |k: &str| config.usize(k).unwrap();
    assert_eq!(
        (n("num_hidden_layers"), n("hidden_size"), n("num_attention_heads"), n("num_key_value_heads")),
        (30, 576, 9, 3)
    );
    assert_eq!((config.rope().unwrap().theta, config.eos_token_ids()), (Some(1e5), &[2][..]));
    let seen = mlx_lm::weights::inspect(&path).unwrap();
    assert_eq!((seen.parameters, seen.complete), (134_515_008, true));
    let gguf = &c.gguf_model().unwrap().parts()[0];
    let tokenizer = mlx_lm::tokenizer::Tokenizer::from_gguf(gguf).unwrap();
    assert_eq!(tokenizer.encode("Hello", false).unwrap(), [19556]);
    // one row against the formula: the embedding of token 0, 8 bits
    let raw = gguf.bytes(gguf.tensor("token_embd.weight").unwrap()).unwrap();
    let want = values(GgmlType::Q8_0, &raw[..GgmlType::Q8_0.row_bytes(576)]);
    let (w, s, b) = ["weight", "scales", "biases"].map(|p| c.bytes(&format!("model.embed_tokens.{p}")).unwrap()).into();
    let half = |x: &Bytes, i: usize| half::f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32();
    for (i, want) in want.iter().enumerate() {
        assert_eq!(half(&s, i / 32) * w[i] as f32 + half(&b, i / 32), *want);
    }
}
