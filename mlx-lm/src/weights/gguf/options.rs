//! What a GGUF's tensors become: dtypes of scales, dense weights and norms.

use super::arch::Arch;
use super::parse::Gguf;
use super::types::GgmlType;
use crate::weights::dtype::Dtype;

/// Types for what a GGUF converts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufOptions {
    /// Scales and biases of packed tensors; `None`: the smallest type that holds them exactly (f16 for the legacy
    /// types, f32 for Q4_K and Q5_K), but for the token embedding F32 if `dense` is: hidden states get their dtype there.
    pub scales: Option<Dtype>,
    /// What types without packed form are dequantised to: F16 (Python's choice), BF16 or F32.
    pub dense: Dtype,
    /// One 16-bit dtype for scales, norms, biases and routers, so that hidden states have it too: files keep these as
    /// F32. Chosen by [`half`](Self::half).
    pub half: bool,
}

impl Default for GgufOptions {
    fn default() -> Self {
        GgufOptions { scales: None, dense: Dtype::F16, half: false }
    }
}

impl GgufOptions {
    /// For devices whose kernels compute with 16-bit hidden states: BF16 for a file that holds BF16, else F16. Files of
    /// F32, and gemma's, whose hidden states leave the range of F16, keep what they hold.
    pub fn half() -> Self {
        GgufOptions { half: true, ..GgufOptions::default() }
    }

    /// The dtype of a tensor's scales, which `exact` holds.
    pub(super) fn scales_of(&self, tensor: &str, exact: Dtype) -> Dtype {
        let wide = tensor == "token_embd.weight" && self.dense == Dtype::F32;
        self.scales.unwrap_or(if wide { Dtype::F32 } else { exact })
    }

    /// These options with the dtypes that `half` means for this model.
    pub(super) fn settled(mut self, parts: &[Gguf], arch: &Arch) -> Self {
        let bytes = |of: fn(GgmlType) -> bool| -> usize {
            let tensors = parts.iter().flat_map(|p| &p.tensors);
            tensors.filter(|t| of(t.ty)).map(|t| t.range.end - t.range.start).sum()
        };
        let bf16 = bytes(|t| t == GgmlType::BF16) > 0;
        self.half &= 2 * bytes(|t| t == GgmlType::F32) < bytes(|_| true) && (bf16 || !arch.norm_plus_one);
        if self.half {
            self.dense = if bf16 { Dtype::BF16 } else { Dtype::F16 };
            self.scales = Some(self.dense);
        }
        self
    }
}

/// Whether a tensor that files keep as F32 goes with hidden states of 16 bits: norms, biases and routers, not a router's
/// correction or what a recurrence keeps in float32.
pub(super) fn follows_hidden(name: &str) -> bool {
    name.ends_with("norm.weight")
        || name.ends_with("ffn_gate_inp.weight")
        || (name.ends_with(".bias") && !name.contains("exp_probs_b") && !name.contains("ssm_"))
}

/// The dtype of a type that is not quantised.
pub(super) fn plain(ty: GgmlType) -> Option<Dtype> {
    match ty {
        GgmlType::F32 => Some(Dtype::F32),
        GgmlType::F16 => Some(Dtype::F16),
        GgmlType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}
