//! From a case of `mixers` to the mixer that its arguments describe.

use crate::mixers::{Inputs, Subject, tensor};
use crate::{case, operations};
use mlx::{self as mx, Dtype};
use mlx_lm::blueprint::{self as bp, BranchPart, LayerBody, LinearHeads, Norm, Part, Rope, ShortConvs};
use mlx_lm::cache::{self, Cache};
use mlx_lm::config::Config;
use mlx_lm::mixers::rwkv7;
use mlx_lm::parts::{Registry, Step};
use mlx_lm::weights::{Leaves, Tensors};
use serde_json::{Value, json};
use std::rc::Rc;

/// Numbers of a JSON object, with defaults.
pub struct Args<'a>(pub &'a Value);

impl Args<'_> {
    pub fn int(&self, key: &str, default: i32) -> i32 {
        self.opt_int(key).unwrap_or(default)
    }
    fn opt_int(&self, key: &str) -> Option<i32> {
        self.0[key].as_i64().map(|n| n as i32)
    }
    pub fn num(&self, key: &str, default: f64) -> f64 {
        self.0[key].as_f64().unwrap_or(default)
    }
    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.0[key].as_bool().unwrap_or(default)
    }
    fn act(&self, key: &str) -> Option<bp::Activation> {
        self.0[key].as_str().map(|name| bp::Activation::from_fla(name).expect("a known activation"))
    }
}

/// What a case runs, with weights of this type.
pub fn subject(kind: &str, json: &Value, dtype: Dtype) -> Result<Subject, String> {
    let chooses = matches!(kind, "nsa" | "moba");
    if json["variant"] == "core" {
        let (run, fresh) = operations::operation(kind, json)?;
        return Ok(Subject { run, fresh, chooses });
    }
    let (name, seed) = (json["name"].as_str().unwrap_or_default(), json["seed"].as_u64().unwrap_or_default());
    let mut tensors = Tensors::default();
    let put = |tensors: &mut Tensors, prefix: &str| {
        for w in json["weights"].as_array().into_iter().flatten() {
            let full = w["name"].as_str().unwrap_or_default();
            let bare = full.strip_prefix(&format!("{name}.")).unwrap_or(full);
            let mut a = tensor(w, full, seed);
            if case::ints(&w["shape"]).is_empty() {
                a = a.reshape(());
            }
            tensors.insert(format!("{prefix}{bare}"), a.astype(dtype));
        }
    };
    let params = &json["params"];
    let error = |e: mlx_lm::Error| format!("load: {e}");
    let (part, prefix) = match (params["src"].as_str(), json["variant"].as_str()) {
        (Some("hf"), _) => {
            let (config, part, prefix) = of_config(params).map_err(error)?;
            put(&mut tensors, &format!("{prefix}."));
            let family = mlx_lm::families::find(&config).map_err(error)?;
            (family.checkpoint)(&config, &mut tensors).map_err(error)?;
            (part, prefix)
        }
        (_, Some("bare")) => {
            put(&mut tensors, "");
            (bare(kind, params)?, String::new())
        }
        _ => {
            put(&mut tensors, "");
            (published(kind, params, &mut tensors)?, String::new())
        }
    };
    tensors.conv_last("conv1d.weight").map_err(error)?;
    let leaves = Leaves::new(tensors, None);
    let mixer = Registry::builtin().build_mixer(part.as_ref(), &leaves.at(&prefix)).map_err(error)?;
    leaves.finish().map_err(error)?;
    let kind = part.cache();
    let fresh = move || cache::make(&kind).expect("a cache of this kind");
    let run = move |i: &Inputs, cache: &mut dyn Cache| {
        let x = &i["x"];
        let ids = mx::zeros([x.dim(0), x.dim(1)], Dtype::Int32);
        let step = Step::new(&ids);
        if let Some(v) = i.get("v_first") {
            step.put(rwkv7::FIRST_VALUES, v.clone());
        }
        mixer.forward(x, &step, cache)
    };
    Ok(Subject { run: Box::new(run), fresh: Box::new(fresh), chooses })
}

/// The mixer of the first layer of a transformers config, and where its leaves lie.
fn of_config(params: &Value) -> mlx_lm::Result<(Config, Part, String)> {
    let class = params["hf"][0].as_str().unwrap_or_default();
    // DeepseekV3Config is of deepseek_v3
    let mut model_type = String::new();
    for (i, c) in class.trim_end_matches("Config").char_indices() {
        if c.is_uppercase() && i > 0 {
            model_type.push('_');
        }
        model_type.extend(c.to_lowercase());
    }
    let mut config = json!({"model_type": model_type, "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 8,
        "rms_norm_eps": 1e-6, "layer_norm_epsilon": 1e-5, "use_bias": false, "use_conv_bias": true});
    if model_type == "mamba2" {
        let defaults = [("num_heads", 128), ("head_dim", 64), ("state_size", 128), ("n_groups", 8), ("conv_kernel", 4)];
        defaults.iter().for_each(|(k, n)| config[*k] = json!(n));
    }
    for (k, v) in params["args"].as_object().into_iter().flatten() {
        config[k] = v.clone();
    }
    let config = Config::from_json(config, "config.json")?;
    let blueprint = (mlx_lm::families::find(&config)?.blueprint)(&config)?;
    let LayerBody::Sequential(branches) = &blueprint.layers[0].body else { panic!("a plain layer") };
    let (part, name) = branches
        .iter()
        .find_map(|b| match &b.part {
            BranchPart::Mixer(m) => Some((m.clone(), b.name.clone())),
            BranchPart::Ffn(_) => None,
        })
        .expect("a mixer");
    let prefix = format!("{}.0.{name}", blueprint.layers_path);
    Ok((config, part, prefix))
}

/// A layer of the linear-attention library by its constructor's arguments.
fn published(kind: &str, params: &Value, tensors: &mut Tensors) -> Result<Part, String> {
    let args = &params["args"];
    let a = Args(args);
    let (hidden, eps) = (a.int("hidden_size", 1024), a.num("norm_eps", 1e-5) as f32);
    let norm = if a.flag("elementwise_affine", true) { Norm::rms(eps) } else { Norm::rms_plain(eps) };
    let conv = |on: bool| on.then(|| ShortConvs { taps: a.int("conv_size", 4), bias: a.flag("conv_bias", false) });
    let heads = |heads: i32, expand: (f64, f64), short: bool| {
        let heads = a.int("num_heads", heads);
        let width = |by: f64| (hidden as f64 * by).round() as i32 / heads;
        LinearHeads {
            hidden,
            heads,
            kv_heads: a.int("num_kv_heads", heads),
            key_dim: width(a.num("expand_k", expand.0)),
            value_dim: width(a.num("expand_v", expand.1)),
            conv: conv(a.flag("use_short_conv", short)),
        }
    };
    let swish = |gate: bool| bp::HeadOutput::swish(norm, a.flag("use_output_gate", gate), a.flag("fuse_norm", true));
    let rope = |dims: i32| Some(Rope::plain(dims, a.num("rope_theta", 10_000.0)));
    Ok(match kind {
        "gla" => Rc::new(bp::Gla {
            heads: heads(4, (0.5, 1.0), false),
            forget: bp::Forget::Narrow(a.int("gate_low_rank_dim", 16)),
            normalizer: a.num("gate_logit_normalizer", 16.0) as f32,
            clamp_min: args["clamp_min"].as_f64().map(|v| v as f32),
            feature_map: a.act("feature_map"),
            output: swish(true),
        }),
        "simple_gla" => Rc::new(bp::Gla {
            heads: heads(4, (1.0, 1.0), true),
            forget: bp::Forget::PerHead,
            normalizer: a.num("gate_logit_normalizer", 16.0) as f32,
            clamp_min: None,
            feature_map: a.act("feature_map"),
            output: bp::HeadOutput::swish(norm, true, a.flag("fuse_norm", true)),
        }),
        "retnet" => {
            let heads = heads(8, (1.0, 2.0), false);
            let rope = Some(Rope::plain(heads.key_dim, 10_000.0));
            Rc::new(bp::Retention { heads, feature_map: a.act("feature_map"), rope, output: swish(true) })
        }
        "deltanet" => {
            let mut m = bp::DeltaNet::published(heads(4, (1.0, 1.0), true), norm);
            m.qk_activation = match args["qk_activation"].as_str() {
                Some("identity") => None,
                Some(_) => a.act("qk_activation"),
                None => m.qk_activation,
            };
            if args["qk_norm"] == "sum" {
                m.qk_norm = bp::DeltaNorm::Sum;
            }
            m.beta = a.flag("use_beta", true);
            m.negative = a.flag("allow_neg_eigval", false);
            m.output.gate = a.flag("use_gate", false).then_some(bp::HeadGate::Silu);
            Rc::new(m)
        }
        "gsa" => {
            let heads = heads(4, (1.0, 1.0), false);
            let map = match args["feature_map"].as_str() {
                Some("t2r") => bp::SlotMap::Learned,
                _ => bp::SlotMap::Act(a.act("feature_map").unwrap_or(bp::Activation::Silu)),
            };
            let norm = if a.flag("elementwise_affine", true) { Norm::rms(1e-5) } else { Norm::rms_plain(1e-5) };
            Rc::new(bp::Gsa {
                slots: a.int("num_slots", heads.key_dim),
                heads,
                normalizer: a.num("gate_logit_normalizer", 8.0) as f32,
                scale: a.num("scale", 1.0) as f32,
                feature_map: Some(map),
                output: bp::SlotOutput::Normed("g_norm".into(), norm),
            })
        }
        "nsa" => {
            let head_dim = a.int("head_dim", 64);
            Rc::new(bp::Nsa {
                hidden: a.int("hidden_size", 2048),
                heads: a.int("num_heads", 64),
                kv_heads: a
                    .int("num_kv_heads", if args.get("num_kv_heads").is_some() { a.int("num_heads", 64) } else { 4 }),
                head_dim,
                v_head_dim: head_dim,
                bias: a.flag("qkv_bias", false),
                blocks: nsa_blocks(&a, "window_size"),
                rope: rope(head_dim),
            })
        }
        "moba" => {
            let (hidden, heads) = (a.int("hidden_size", 2048), a.int("num_heads", 32));
            let gate = a.flag("use_output_gate", false).then_some(bp::HeadGate::NarrowSigmoid);
            Rc::new(bp::Moba {
                hidden,
                heads,
                kv_heads: a.int("num_kv_heads", heads),
                head_dim: hidden / heads,
                bias: a.flag("qkv_bias", false),
                qk_norm: a.flag("qk_norm", false).then_some(Norm::rms(1e-5)),
                block: a.int("moba_chunk_size", 256),
                count: a.int("moba_topk", 4),
                dense_decode: false,
                rope: rope(hidden / heads),
                output: bp::HeadOutput { norm: Some(("o_norm".into(), Norm::rms(1e-6))), gate },
            })
        }
        "mamba2" => {
            let head_dim = a.int("head_dim", 64);
            Rc::new(bp::Mamba2 {
                hidden: a.int("hidden_size", 2048),
                heads: a.int("num_heads", a.int("expand", 2) * a.int("hidden_size", 2048) / head_dim),
                head_dim,
                state: a.int("state_size", 128),
                groups: a.int("n_groups", 1),
                kernel: a.int("conv_kernel", 4),
                bias: [a.flag("use_bias", false); 2],
                conv_bias: a.flag("use_conv_bias", true),
                dt_limit: match args["dt_limit"].as_array() {
                    Some(l) => (case::float(&l[0]), case::float(&l[1])),
                    None => (0.0, f32::INFINITY),
                },
                eps: a.num("norm_eps", 1e-5) as f32,
                norm: if a.flag("rmsnorm", true) { bp::GatedNorm::PerGroup } else { bp::GatedNorm::None },
                gate_first: !a.flag("norm_before_gate", false),
                skip: if a.flag("D_has_hdim", false) { bp::Skip::PerChannel } else { bp::Skip::PerHead },
                dt_bias: true,
            })
        }
        "gated_deltanet" => {
            let gate = a.flag("use_gate", true);
            Rc::new(bp::GatedDelta {
                heads: delta_heads(&a, (6, 256), 2.0),
                layout: bp::GatedDeltaLayout::Separate,
                gate,
            })
        }
        "kda" => {
            let heads = delta_heads(&a, (16, 128), 1.0);
            let low_rank = |name: &str, bias| bp::Projection::LowRank {
                first: format!("{name}.0"),
                second: format!("{name}.1"),
                rank: heads.value_dim,
                bias,
            };
            let (decay, gate) = (low_rank("f_proj", false), low_rank("g_proj", true));
            let lower_bound = args["lower_bound"].as_f64().map(|v| v as f32);
            Rc::new(bp::Kda { heads, qkv: bp::QkvNames::separate(), lower_bound, decay, gate })
        }
        "mla" => {
            // an explicit null has no bottleneck
            let default = if args.get("q_lora_rank").is_some() { None } else { Some(1536) };
            let sizes = [a.int("qk_nope_head_dim", 128), a.int("qk_rope_head_dim", 64), a.int("v_head_dim", 128)];
            let (q_rank, hidden) = (a.opt_int("q_lora_rank").or(default), a.int("hidden_size", 2048));
            Rc::new(bp::Mla {
                eps: Some(1e-5),
                rope: rope(sizes[1]),
                layout: bp::MlaLayout::Sequential,
                window: a.opt_int("window_size"),
                ..bp::Mla::new(hidden, a.int("num_heads", 16), q_rank, a.int("kv_lora_rank", 512), sizes)
            })
        }
        "rwkv7" => {
            let width = a.opt_int("num_heads").map_or(64, |n| hidden / n);
            let width = a.int("head_dim", width);
            let heads = hidden / width;
            for name in ["k_k", "k_a", "g_norm.weight", "g_norm.bias"] {
                tensors.unflatten_rows(name, heads, name).map_err(|e| e.to_string())?;
            }
            let rank = |name: &str| tensors.shape(&format!("{name}.lora.0.weight")).map_or(0, |s| s[0]);
            let unit = if a.flag("fuse_norm", false) { bp::UnitNorm::Root(1e-6) } else { bp::UnitNorm::AtLeast(1e-12) };
            Rc::new(bp::Rwkv7 {
                hidden,
                heads,
                values: a.int("value_dim", hidden),
                first: params["layer_idx"].as_i64().unwrap_or(0) == 0,
                ranks: bp::Rwkv7Ranks { w: rank("w_lora"), a: rank("a_lora"), v: rank("v_lora"), g: rank("g_lora") },
                unit,
                eps: width as f32 * eps,
            })
        }
        other => return Err(format!("load: no mixer for the published layer {other}")),
    })
}

fn delta_heads(a: &Args, (heads, dim): (i32, i32), expand: f64) -> bp::DeltaHeads {
    let (key_heads, key_dim) = (a.int("num_heads", heads), a.int("head_dim", dim));
    bp::DeltaHeads {
        hidden: a.int("hidden_size", 2048),
        key_heads,
        value_heads: a.int("num_v_heads", key_heads),
        key_dim,
        value_dim: (key_dim as f64 * a.num("expand_v", expand)) as i32,
        conv: a.flag("use_short_conv", true).then(|| a.int("conv_size", 4)),
        conv_bias: a.flag("conv_bias", false),
        negative_eigenvalues: a.flag("allow_neg_eigval", false),
        eps: a.num("norm_eps", 1e-5) as f32,
    }
}

pub fn nsa_blocks(a: &Args, window: &str) -> bp::NsaBlocks {
    let window = a.int(window, 512);
    bp::NsaBlocks {
        size: a.int("block_size", 64),
        count: a.int("block_counts", 16),
        window: (window > 0).then_some(window),
    }
}

/// A bare mixer by its sizes.
fn bare(kind: &str, params: &Value) -> Result<Part, String> {
    let a = Args(params);
    let (hidden, h, k) = (a.int("hidden", 0), a.int("H", 1), a.int("K", 1));
    let v = a.int("V", k);
    let (heads, output) = (LinearHeads::bare(hidden, h, k, v), bp::HeadOutput::bare());
    Ok(match kind {
        "gla" => Rc::new(bp::Gla {
            heads,
            forget: bp::Forget::PerKey,
            normalizer: a.num("normalizer", 1.0) as f32,
            clamp_min: None,
            feature_map: None,
            output,
        }),
        "retnet" => Rc::new(bp::Retention { heads, feature_map: None, rope: None, output }),
        "deltanet" => Rc::new(bp::DeltaNet {
            heads,
            qk_activation: None,
            silu_values: false,
            qk_norm: if a.flag("q_l2", false) { bp::DeltaNorm::Unit } else { bp::DeltaNorm::UnitKeys },
            beta: true,
            negative: false,
            output,
        }),
        "gsa" => {
            let slots = a.int("M", k);
            Rc::new(bp::Gsa {
                heads,
                slots,
                normalizer: a.num("normalizer", slots as f64) as f32,
                scale: a.num("scale", 1.0) as f32,
                feature_map: None,
                output: bp::SlotOutput::Gated,
            })
        }
        "nsa" => Rc::new(bp::Nsa {
            hidden,
            heads: h,
            kv_heads: a.int("HK", h),
            head_dim: k,
            v_head_dim: v,
            bias: false,
            blocks: nsa_blocks(&a, "window"),
            rope: None,
        }),
        "moba" => Rc::new(bp::Moba {
            hidden,
            heads: h,
            kv_heads: a.int("HK", h),
            head_dim: k,
            bias: false,
            qk_norm: None,
            block: a.int("block_size", 64),
            count: a.int("topk", 4),
            dense_decode: false,
            rope: None,
            output,
        }),
        "mla" => {
            let (rank, q_rank) = (a.int("rank", 1), a.opt_int("q_rank"));
            Rc::new(bp::Mla::new(hidden, h, q_rank, rank, [k, 0, k]))
        }
        "rwkv7" => Rc::new(bp::Rwkv7Bare { hidden, heads: h, key_dim: k, value_dim: v }),
        other => return Err(format!("load: no mixer for the bare {other}")),
    })
}
