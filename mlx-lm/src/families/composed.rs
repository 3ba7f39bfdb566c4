//! Models whose config says what each layer is (`layer_types`), or that are of one kind throughout: pre-norm layers of a
//! bare mixer and SwiGLU.

use super::prelude::*;
use serde_json::Value;

pub const FAMILY: Family = Family {
    model_types: &["composed", "hybrid", "", "deltanet", "full_attention", "lightning"],
    blueprint,
    checkpoint,
};

/// The model type is a kind of mixer, and the config is not one of the linear-attention library (its heads are
/// `num_heads`), which has models of the same names.
pub fn is_uniform(c: &Config) -> bool {
    KINDS.contains(&kind_name(c.model_type()).as_str()) && c.has("num_attention_heads") && !c.has("num_heads")
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    if d.layers < 1 {
        return Err(c.error("num_hidden_layers", "must not be 0"));
    }
    let layers = kinds(c, d.layers as usize)?
        .into_iter()
        .enumerate()
        .map(|(i, kind)| {
            Ok(Layer::declared(Declared {
                kind,
                hidden: d.hidden,
                inner: d.inner,
                heads: d.heads,
                head_dim: c.opt_usize("head_dim")?.map(|n| n as i32),
                eps: d.eps,
                rope: c.rope()?,
                settings: settings(c, i, d.layers as usize)?,
            }))
        })
        .collect::<Result<_>>()?;
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), false, layers);
    b.head.tied = if c.tie_word_embeddings()?.unwrap_or(false) { Tied::Yes } else { Tied::IfAbsent };
    Ok(b)
}

/// The kind of each layer.
fn kinds(c: &Config, layers: usize) -> Result<Vec<String>> {
    let types = c.opt_strings("layer_types")?.unwrap_or_default();
    let uniform = kind_name(c.model_type());
    match types.len() {
        0 if ["composed", "hybrid", ""].contains(&uniform.as_str()) => {
            Err(c.error("layer_types", "missing: no other key says what the layers are"))
        }
        0 => Ok(vec![uniform; layers]),
        n if n != layers => Err(c.error("layer_types", format!("{n} entries for {layers} layers"))),
        _ => Ok(types.iter().map(|t| kind_name(t)).collect()),
    }
}

/// The config's keys, and over them those that `mixer_params` has for this layer.
fn settings(c: &Config, layer: usize, layers: usize) -> Result<Section> {
    let mut all = c.map().clone();
    match c.get("mixer_params") {
        None => {}
        Some(Value::Array(list)) if list.len() == layers => match &list[layer] {
            Value::Object(own) => all.extend(own.clone()),
            Value::Null => {}
            _ => return Err(c.error("mixer_params", format!("entry {layer} is no object"))),
        },
        _ => return Err(c.error("mixer_params", format!("expected one object for each of {layers} layers"))),
    }
    Ok(Section::new(format!("mixer_params.{layer}."), all))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    plain_checkpoint(c, t)?;
    t.conv_last("conv1d.weight")
}
