//! LongCat-Flash: two latent attentions and two MLPs a layer, experts on a shortcut beside them, some of which give the
//! token back; optionally n-gram embeddings.

use super::deepseek_v3::{split_kv_b_at, yarn_scale};
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["longcat_flash", "longcat_flash_ngram"], blueprint, checkpoint };

const NGRAMS: &str = "model.ngram_embeddings";

fn sizes(c: &Config) -> Result<Dims> {
    Ok(Dims { inner: size(c, "ffn_hidden_size")?, ..read_dims(c, "num_layers")? })
}

fn has_ngrams(c: &Config) -> bool {
    c.model_type() == "longcat_flash_ngram"
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = sizes(c)?;
    let (mla, mlp) = (mla(c, &d)?, Mlp::swiglu(d.hidden, d.inner));
    let half = || (Rc::new(mla.clone()) as _, Rc::new(mlp.clone()) as _);
    let layer = Layer::custom(ShortcutLayer {
        hidden: d.hidden,
        norm: rms(&d),
        halves: [half(), half()],
        experts: Rc::new(moe(c, &d)?),
    });
    let mut b = alike(&d, rms(&d), false, layer);
    if has_ngrams(c) {
        b.embed.path = format!("{NGRAMS}.word_embeddings");
        b.prologue = Some(Rc::new(ngrams(c, &d)?));
    }
    Ok(b)
}

fn ngrams(c: &Config, d: &Dims) -> Result<NgramEmbeddings> {
    let (longest, splits) = (size_or(c, "emb_neighbor_num", 4)?, size_or(c, "emb_split_num", 4)?);
    let rows = size_or(c, "ngram_vocab_size_ratio", 78)?.checked_mul(d.vocab);
    let Some(rows) = rows.filter(|r| r.checked_add(2 * splits * longest).is_some()) else {
        return Err(c.error("ngram_vocab_size_ratio", "its tables are too large"));
    };
    if longest < 2 || splits < 1 {
        return Err(c.error("emb_neighbor_num", format!("no tables for {splits} of up to {longest} tokens")));
    }
    Ok(NgramEmbeddings { path: NGRAMS.into(), hidden: d.hidden, vocab: d.vocab, longest, splits, rows })
}

fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let rope = c.rope()?;
    let q_rank = if c.is_null("q_lora_rank") { None } else { Some(size(c, "q_lora_rank")?) };
    let kv_rank = size(c, "kv_lora_rank")?;
    let parts = [size(c, "qk_nope_head_dim")?, size(c, "qk_rope_head_dim")?, size(c, "v_head_dim")?];
    let factor = |on: bool, rank: i32| if on { (d.hidden as f32 / rank as f32).sqrt() } else { 1.0 };
    let m = Mla::new(d.hidden, d.heads, q_rank, kv_rank, parts);
    Ok(Mla {
        scale: m.scale * yarn_scale(&rope),
        bias: c.flag_or("attention_bias", false)?,
        eps: Some(1e-5),
        rope: Some(Rope::from_config(&rope, m.rope_dim, 10_000.0).traditional(true)),
        layout: MlaLayout::Absorbed,
        q_factor: factor(q_rank.is_some() && c.flag("mla_scale_q_lora")?, q_rank.unwrap_or(1)),
        kv_factor: factor(c.flag("mla_scale_kv_lora")?, kv_rank),
        ..m
    })
}

fn moe(c: &Config, d: &Dims) -> Result<Moe> {
    let kind = c.str_or("zero_expert_type", "identity")?;
    if kind != "identity" {
        return Err(c.error("zero_expert_type", format!("{kind:?} is not known, only \"identity\"")));
    }
    let router = Router {
        name: "router.classifier".into(),
        bias: c.flag_or("router_bias", false)?,
        scoring: Scoring::Softmax,
        correction: Some("router.e_score_correction_bias".into()),
        weights: match c.flag_or("norm_topk_prob", false)? {
            true => RouterWeights::Normalised { eps: 1e-20 },
            false => RouterWeights::Scores,
        },
        scale: c.f32("routed_scaling_factor")?,
        ..Router::softmax(false)
    };
    let (inner, experts) = (size(c, "expert_ffn_hidden_size")?, size(c, "n_routed_experts")?);
    let moe = Moe::swiglu(d.hidden, inner, experts, size(c, "moe_topk")?, router);
    Ok(Moe { zero_experts: size(c, "zero_expert_num")?, ..moe })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = sizes(c)?;
    t.drop_where(|n| n.starts_with("model.mtp") || n.ends_with("rotary_emb.inv_freq"));
    if has_ngrams(c) {
        t.replace_prefix("model.embed_tokens.", &format!("{NGRAMS}.word_embeddings."))?;
    }
    stack_experts(t, d.layers, size(c, "n_routed_experts")?, "mlp.experts", "mlp.switch_mlp")?;
    let mla = mla(c, &d)?;
    (0..2 * d.layers).try_for_each(|i| split_kv_b_at(&mla, t, &format!("model.layers.{}.self_attn.{}", i / 2, i % 2)))
}
