//! Phi-3 small: layer norms, muP multipliers, interleaved GEGLU rows, block-sparse attention on alternating layers.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["phi3small"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, heads) = (size(c, "hidden_size")?, size(c, "num_attention_heads")?);
    let kv_heads = size_or(c, "num_key_value_heads", heads)?;
    if heads == 0 || kv_heads == 0 || hidden % heads != 0 || heads % kv_heads != 0 {
        return Err(c.error("num_attention_heads", format!("{heads} heads and {kv_heads} kv heads of {hidden}")));
    }
    let head_dim = hidden / heads;
    let norm = Norm::layer(c.f32_or("layer_norm_epsilon", 1e-5f32)?, true);
    let mut rope = Rope::plain(head_dim, c.f64_or("rope_embedding_base", 1_000_000f64)?);
    let stretch = c.f64_or("rope_position_scale", 1f64)?;
    if stretch != 1.0 {
        rope.scaling = RopeScaling::Linear(1.0 / stretch);
    }
    let mut mixer = Attention::new(hidden, heads, kv_heads, head_dim)
        .rope(rope)
        .fused("query_key_value", FusedQkv::PerKvGroup)
        .output("dense")
        .bias(true);
    if c.flag_or("mup_use_scaling", true)? {
        mixer.scale = c.f32_or("mup_attn_multiplier", 1f32)? / head_dim as f32;
    }
    let blocks = BlockSparse {
        size: size_or(c, "blocksparse_block_size", 64)?,
        local: size_or(c, "blocksparse_num_local_blocks", 16)?,
        stride: size_or(c, "blocksparse_vert_stride", 8)?,
    };
    if blocks.size == 0 || blocks.stride == 0 {
        return Err(c.error("blocksparse_block_size", "block size and stride must not be 0"));
    }
    let every = size(c, "dense_attention_every_n_layers")?.max(1);
    let mlp = GegeluMlp { hidden, inner: size(c, "ff_intermediate_size")?, limit: c.f32_or("gegelu_limit", 20f32)? };
    let layers = (0..size(c, "num_hidden_layers")?)
        .map(|i| {
            let mut mixer = mixer.clone();
            mixer.blocks = (i % every == 0).then(|| blocks.clone());
            pre_norms(norm, ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, mlp.clone())
        })
        .collect();
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, norm, true, layers);
    let mut b = b.paths("model.embed_tokens", "model.layers", "model.final_layernorm");
    let factor = c.f32_or("mup_embedding_multiplier", 10f32)?;
    b.embed.scale = (factor != 0.0).then_some(EmbedScale { value: factor, round_bf16: false });
    let width = c.f32_or("mup_width_multiplier", 8f32)?;
    b.head.scale = if width == 0.0 { 1.0 } else { 1.0 / width };
    // ids that the tokenizer never uses
    b.head.forbidden =
        [100_256, 100_258, 100_259, 100_260, 100_264, 100_265].into_iter().chain(100_267..100_352).collect();
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.starts_with("lm_head."));
    plain_checkpoint(c, t)
}
