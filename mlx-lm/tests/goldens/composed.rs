//! What composed models refuse, and what they find by themselves.

use crate::case::{self, Stored};
use crate::models;
use mlx_lm::Model;
use mlx_lm::parts::Registry;
use serde_json::{Value, json};

/// Layers of gla (`attn`), full_attention (`self_attn`), mamba2 (`mixer`) and deltanet (`attn`).
fn hybrid() -> (Value, Vec<Stored>) {
    let case =
        case::all("mixers/models").into_iter().find(|c| c["name"] == "composed_hybrid").expect("a recorded hybrid");
    (case["config"].clone(), models::tensors(&case))
}

fn load(config: &Value, tensors: &[Stored]) -> Result<Model, String> {
    let dir = tempfile::tempdir().unwrap();
    case::write(dir.path(), config, tensors);
    Model::load(dir.path()).map_err(|e| e.to_string())
}

/// The error of a hybrid that `change` spoils; it must contain all of `names`.
fn refused(names: &[&str], change: impl Fn(&mut Value, &mut Vec<Stored>)) {
    let (mut config, mut tensors) = hybrid();
    change(&mut config, &mut tensors);
    let error = load(&config, &tensors).err().unwrap_or_else(|| panic!("loads; expected an error with {names:?}"));
    names.iter().for_each(|n| assert!(error.contains(n), "{error:?} does not name {n:?}"));
}

fn rename(tensors: &mut [Stored], from: &str, to: &str) {
    tensors.iter_mut().for_each(|t| t.name = t.name.replace(from, to));
}

#[test]
fn every_kind_of_go_mlx_is_registered() {
    let known: Vec<&str> = Registry::builtin().kinds().collect();
    let kinds = [
        "full_attention",
        "mamba2",
        "rwkv7",
        "gla",
        "retnet",
        "deltanet",
        "gsa",
        "nsa",
        "moba",
        "mla",
        "gated_deltanet",
        "kda",
        "lightning",
    ];
    kinds.iter().for_each(|k| assert!(known.contains(k), "{k} is not in {known:?}"));
}

#[test]
fn refusals_name_the_layer_and_its_kind() {
    refused(&["layer 2", "hyena", "deltanet, full_attention"], |c, _| c["layer_types"][2] = json!("Hyena"));
    refused(&["layer_types", "3 entries for 4 layers"], |c, _| {
        c["layer_types"].as_array_mut().unwrap().pop();
    });
    for name in ["composed", "hybrid", ""] {
        refused(&["layer_types"], |c, _| (c["layer_types"], c["model_type"]) = (json!([]), json!(name)));
    }
    refused(&["num_hidden_layers"], |c, _| c["num_hidden_layers"] = json!(0));
    refused(&["model.layers.0.attn.gk_proj.weight", "missing"], |_, t| t.retain(|t| !t.name.contains("gk_proj")));
    refused(&["model.layers.2.mixer.conv1d.weight", "missing", "layer 2 (mamba2)"], |_, t| {
        t.retain(|t| !t.name.contains("conv1d.weight"));
    });
    refused(&["model.layers.3", "attn, other", "layer 3 (deltanet)"], |_, t| {
        rename(t, "layers.3.attn.b_proj", "layers.3.other.b_proj");
    });
    refused(&["layers.0.attn.k_proj.weight", "3 parts", "layer 0 (gla)"], |c, _| c["mixer_params"][0]["H"] = json!(3));
    refused(&["N", "layer 2 (mamba2)"], |c, _| c["mixer_params"][2]["N"] = json!(5));
    // a sublayer that no part of this model runs is not taken for a mixer, nor skipped
    refused(&["layers.1.block_sparse_moe.gate.weight", "belongs to no part"], |_, t| {
        let more = t.iter().find(|t| t.name == "model.norm.weight").map(|t| t.bytes.clone()).unwrap();
        let name = "model.layers.1.block_sparse_moe.gate.weight".into();
        t.push(Stored { name, shape: vec![1, 32], dtype: "F32", bytes: more });
    });
}

#[test]
fn other_names_of_the_same_things_are_found() {
    let logits = |config: &Value, tensors: &[Stored]| {
        let m = load(config, tensors).unwrap_or_else(|e| panic!("{e}"));
        let ids = mlx::Array::from_slice(&[3, 1, 4, 1, 5, 9, 2, 6], [1, 8]);
        m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).to_vec::<f32>().unwrap()
    };
    let (config, tensors) = hybrid();
    let want = logits(&config, &tensors);
    let changed = |change: &dyn Fn(&mut Value, &mut Vec<Stored>)| {
        let (mut config, mut tensors) = hybrid();
        change(&mut config, &mut tensors);
        logits(&config, &tensors)
    };
    assert_eq!(want, changed(&|_, t| t.iter_mut().for_each(|t| t.name = format!("language_model.{}", t.name))));
    assert_eq!(want, changed(&|_, t| rename(t, ".mixer.", ".ssm.")));
    assert_eq!(want, changed(&|_, t| rename(t, "layers.0.attn.", "layers.0.")));
    assert_eq!(want, changed(&|c, _| c["model_type"] = json!("hybrid")));
    assert_eq!(want, changed(&|c, _| c["layer_types"] = json!([" GLA", "attention", "Mamba2", "delta-net"])));
    // sizes follow from the leaves
    let bare = |c: &mut Value, _: &mut Vec<Stored>| c["mixer_params"] = json!([{}, {}, {}, {}]);
    assert_eq!(want, changed(&bare));
}

#[test]
fn a_kind_names_a_uniform_model() {
    let (mut config, mut tensors) = hybrid();
    tensors.retain(|t| !["layers.1.", "layers.2.", "layers.3."].iter().any(|l| t.name.contains(l)));
    let own = ["layer_types", "mixer_params", "sublayers"];
    own.iter().for_each(|k| drop(config.as_object_mut().unwrap().remove(*k)));
    (config["model_type"], config["num_hidden_layers"]) = (json!("gla"), json!(1));
    assert!(load(&config, &tensors).is_ok());
}
