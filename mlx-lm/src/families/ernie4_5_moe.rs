//! ERNIE 4.5 MoE: ernie4_5 with experts in a range of layers, softmax or sigmoid scores.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["ernie4_5_moe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let bias = c.flag_or("use_bias", false)?;
    let rope = Rope::plain(d.head_dim, c.rope()?.theta_or(10_000.0)).traditional(true);
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).rope(rope).bias(bias);
    let inner = match size_or(c, "moe_intermediate_size", 0)? {
        0 => d.inner,
        n => n,
    };
    let mut router = Router { f32: true, ..Router::softmax(true) };
    if c.str_or("moe_gate_act", "softmax")? == "sigmoid" {
        router.scoring = Scoring::Sigmoid;
    }
    let mut moe = Moe::swiglu(d.hidden, inner, size(c, "moe_num_experts")?, size_or(c, "moe_k", 1)?, router);
    moe.bias = bias;
    let moe = moe.shared_experts(inner * size_or(c, "moe_num_shared_experts", 0)?);
    let first = bounds(c, "moe_layer_start_index", 0)?.into_iter().min().unwrap_or(0);
    let last = bounds(c, "moe_layer_end_index", d.layers - 1)?.into_iter().max().unwrap_or(d.layers - 1);
    let every = size_or(c, "moe_layer_interval", 1)?.max(1);
    Ok(decoder(&d, rms(&d), tied_or(c, false)?, |i| match (first..=last).contains(&i) && (i + 1) % every == 0 {
        true => llama_layer(&d, mixer.clone(), moe.clone()),
        false => llama_layer(&d, mixer.clone(), swiglu(&d).bias(bias)),
    }))
}

/// One layer number or a list of them.
fn bounds(c: &Config, key: &str, default: i32) -> Result<Vec<i32>> {
    if c.get(key).is_some_and(|v| v.is_array()) {
        return Ok(c.usizes(key)?.into_iter().map(|n| n as i32).collect());
    }
    Ok(vec![size_or(c, key, default)?])
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let unused = ["mtp_block.", "mtp_linear_proj.", "mtp_hidden_norm.", "mtp_emb_norm.", "e_score_correction_bias"];
    t.drop_where(|n| unused.iter().any(|u| n.contains(u)));
    experts_checkpoint(c, t)
}
