use crate::numbers;
use mlx::nn::{Leaf, Linear, Module, ModuleExt, Param, Path, RmsNorm};
use mlx::{self as mx, Array, Dtype, Quant, array};
use std::collections::BTreeMap;

#[derive(Module)]
struct Block {
    attn: Leaf<Linear>,
    norm: RmsNorm,
    scale: f32,
    #[module(skip)]
    #[allow(dead_code)]
    note: std::cell::Cell<u8>,
}

#[derive(Module)]
enum Head {
    Tied,
    Own(Linear),
}

#[derive(Module)]
struct Model {
    layers: Vec<Block>,
    extra: Option<Box<dyn Module>>,
    table: BTreeMap<String, Param>,
    #[module(name = "lm_head")]
    head: Head,
    pair: (Linear, RmsNorm),
    #[module(flatten)]
    inner: Linear,
}

fn linear(n: i32, k: i32) -> Linear {
    Linear::new(numbers(&[n, k], -1.0, 1.0), None)
}

fn model() -> Model {
    let block = || Block {
        attn: Leaf::new("c_attn", linear(2, 32)),
        norm: RmsNorm::init(2, 1e-5),
        scale: 0.5,
        note: Default::default(),
    };
    Model {
        layers: vec![block(), block()],
        extra: Some(Box::new(linear(2, 2))),
        table: [("b".to_string(), array!([1.0]).into()), ("a".to_string(), array!([2.0, 3.0]).into())].into(),
        head: Head::Own(linear(3, 32)),
        pair: (linear(1, 2), RmsNorm::init(1, 1e-5)),
        inner: linear(1, 1),
    }
}

fn names(m: &dyn Module) -> Vec<String> {
    m.parameters().into_iter().map(|p| p.0).collect()
}

#[test]
fn paths_follow_fields_indices_keys_and_own_names() {
    let m = model();
    assert_eq!(
        names(&m),
        [
            "layers.0.c_attn.weight",
            "layers.0.norm.weight",
            "layers.1.c_attn.weight",
            "layers.1.norm.weight",
            "extra.weight",
            "table.a",
            "table.b",
            "lm_head.weight",
            "pair.0.weight",
            "pair.1.weight",
            "weight"
        ]
    );
    assert_eq!(m.layers[0].scale, 0.5);
    assert_eq!(names(&Model { head: Head::Tied, extra: None, layers: vec![], ..model() }).len(), 5);
    assert_eq!(m.num_parameters(), 2 * (64 + 2) + 4 + 3 + 96 + 3 + 1);
}

#[test]
fn layers_are_reported_and_can_be_quantised() {
    let mut m = model();
    let mut seen = Vec::new();
    m.layers_mut(&mut Path::new(), &mut |path, layer| {
        seen.push(path.to_string());
        if let mlx::nn::LayerMut::Linear(l) = layer
            && l.in_features() == 32
        {
            l.quantize(Quant::affine(32, 4));
        }
    });
    assert_eq!(seen, ["layers.0.c_attn", "layers.1.c_attn", "extra", "lm_head", "pair.0", ""]);
    assert!(names(&m).contains(&"lm_head.scales".to_string()));
}

#[test]
fn freezing_by_path_decides_what_is_trainable() {
    let mut m = model();
    m.freeze();
    assert!(m.trainable().is_empty());
    m.unfreeze_where(|name| name.starts_with("layers.1"));
    let left: Vec<String> = m.trainable().into_iter().map(|p| p.0).collect();
    assert_eq!(left, ["layers.1.c_attn.weight", "layers.1.norm.weight"]);
    m.unfreeze();
    assert_eq!(m.trainable().len(), 11);
    m.freeze_where(|name| name.ends_with("norm.weight"));
    assert_eq!(m.trainable().len(), 9);
}

#[test]
fn update_names_what_is_missing_extra_or_of_another_shape_and_then_changes_nothing() {
    let mut m = model();
    let new = array!([[5.0]]);
    let wrong = m.update([("weight", new.clone()), ("table.a", array!([1.0]))], false).unwrap_err().to_string();
    assert!(wrong.contains("table.a") && wrong.contains("[2]") && wrong.contains("[1]"), "{wrong}");
    let extra = m.update([("weight", new.clone()), ("nowhere", new.clone())], false).unwrap_err().to_string();
    assert!(extra.contains("nowhere"), "{extra}");
    let missing = m.update([("weight", new.clone())], true).unwrap_err().to_string();
    assert!(missing.contains("layers.0.c_attn.weight"), "{missing}");
    assert_ne!(m.inner.weight().item::<f32>().unwrap(), 5.0);
    m.update([("weight", new)], false).unwrap();
    assert_eq!(m.inner.weight().item::<f32>().unwrap(), 5.0);
}

#[test]
fn weights_survive_a_safetensors_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let mut m = model();
    m.set_dtype(Dtype::Bfloat16);
    m.save_weights(&path).unwrap();
    let mut other = model();
    other.apply(|_, a| Array::scalar(0, a.dtype()) * a);
    other.load_weights(&path, true).unwrap();
    for ((name, a), (_, b)) in m.parameters().iter().zip(other.parameters()) {
        assert_eq!((a.to_bytes().unwrap(), a.dtype()), (b.to_bytes().unwrap(), b.dtype()), "{name}");
    }
    // a file with one name too many and all others missing
    let part = dir.path().join("part.safetensors");
    mx::io::save_arrays(&part, [("weight", &array!([[5.0]])), ("unknown", &array!([1.0]))]).unwrap();
    assert!(other.load_weights(&part, true).unwrap_err().to_string().contains("unknown"));
    other.load_weights(&part, false).unwrap();
    assert_eq!(other.inner.weight().item::<f32>().unwrap(), 5.0);
    mx::io::save_arrays(&part, [("weight", &array!([5.0, 6.0]))]).unwrap();
    assert!(other.load_weights(&part, false).unwrap_err().to_string().contains("[2]"));
    let e = m.load_weights(dir.path().join("none.safetensors"), true).unwrap_err().to_string();
    assert!(e.contains("none.safetensors"), "{e}");
    assert!(mx::io::load(dir.path().join("w.bin")).is_err());
}

#[test]
fn functions_are_layers_too() {
    use mlx::nn::{Function, Sequential};
    let s = Sequential::new((linear(2, 3), Function(mlx::nn::relu), Function(|x: &Array| x * 2.0)));
    let x = numbers(&[1, 3], -1.0, 1.0);
    let expected = linear(2, 3).forward(&x).maximum(0) * 2.0;
    crate::assert_close(&s.forward(&x), &expected, 1e-6);
    assert_eq!(names(&s), ["layers.0.weight"]);
}
