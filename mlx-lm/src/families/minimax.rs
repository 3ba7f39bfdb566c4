//! MiniMax M2: norms over all of q and k, partly rotated heads, sigmoid router with correction bias, fp8 blocks.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["minimax"], blueprint, checkpoint: mixtral_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::plain(size(c, "rotary_dim")?, c.rope()?.theta_or(10_000.0)));
    if c.flag_or("use_qk_norm", true)? {
        mixer = mixer.qk_norm(QkNormKind::FullWidth, rms(&d));
    }
    let mut router = Router::noaux(None, true, 1.0);
    router.correction = Some("e_score_correction_bias".into());
    let experts = size(c, "num_local_experts")?;
    let moe = Moe::swiglu(d.hidden, d.inner, experts, size(c, "num_experts_per_tok")?, router);
    let layer = pre_norms(
        rms(&d),
        ["input_layernorm", "self_attn", "post_attention_layernorm", "block_sparse_moe"],
        mixer,
        moe,
    );
    Ok(alike(&d, rms(&d), tied_or(c, false)?, layer))
}
