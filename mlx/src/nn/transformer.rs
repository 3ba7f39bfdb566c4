//! The transformer of "Attention Is All You Need", encoder and decoder (`nn.Transformer`).

use super::dropout::Dropout;
use super::{LayerNorm, Linear, Module, checkpoint, relu};
use crate::error::refuse;
use crate::fast::{Mask, Sdpa, scaled_dot_product_attention};
use crate::{Array, Dtype, finfo};

/// Attention with several heads and its four projections (`nn.MultiHeadAttention`).
#[derive(Debug, Clone, Module)]
pub struct MultiHeadAttention {
    pub query_proj: Linear,
    pub key_proj: Linear,
    pub value_proj: Linear,
    pub out_proj: Linear,
    pub num_heads: i32,
}

/// Sizes of a [`MultiHeadAttention`]; `None` is Python's default, mostly the model's width.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionDims {
    pub query_input: Option<i32>,
    pub key_input: Option<i32>,
    pub value_input: Option<i32>,
    pub value: Option<i32>,
    pub value_output: Option<i32>,
}

impl MultiHeadAttention {
    /// A new layer of width `dims`, without biases.
    #[track_caller]
    pub fn init(dims: i32, num_heads: i32) -> Self {
        MultiHeadAttention::with_dims(dims, num_heads, AttentionDims::default(), false)
    }

    #[track_caller]
    pub fn with_dims(dims: i32, num_heads: i32, sizes: AttentionDims, bias: bool) -> Self {
        if num_heads < 1 || dims % num_heads != 0 {
            refuse("MultiHeadAttention", format!("{num_heads} heads do not divide {dims}"));
        }
        let key = sizes.key_input.unwrap_or(dims);
        let value = sizes.value.unwrap_or(dims);
        MultiHeadAttention {
            query_proj: Linear::init(sizes.query_input.unwrap_or(dims), dims, bias),
            key_proj: Linear::init(key, dims, bias),
            value_proj: Linear::init(sizes.value_input.unwrap_or(key), value, bias),
            out_proj: Linear::init(value, sizes.value_output.unwrap_or(dims), bias),
            num_heads,
        }
    }

    /// queries: [B, L, D], keys and values: [B, S, D]; the mask is bool or additive over [B, H, L, S].
    #[track_caller]
    pub fn forward(&self, queries: &Array, keys: &Array, values: &Array, mask: Option<&Array>) -> Array {
        let heads = |x: Array| x.unflatten(-1, [self.num_heads, -1]).transpose([0, 2, 1, 3]);
        let q = heads(self.query_proj.forward(queries));
        let k = heads(self.key_proj.forward(keys));
        let v = heads(self.value_proj.forward(values));
        let scale = (1.0 / f64::from(q.dim(-1))).sqrt() as f32;
        let mask = mask.map(|m| Mask::Array(m.clone()));
        let o = scaled_dot_product_attention(&q, &k, &v, Sdpa { scale, mask: mask.as_ref(), ..Sdpa::default() });
        self.out_proj.forward(&o.transpose([0, 2, 1, 3]).flatten(-2, -1))
    }

    /// 0 where query i may see key j <= i, else the lowest number: [n, n].
    #[track_caller]
    pub fn create_additive_causal_mask(n: i32, dtype: Dtype) -> Array {
        let i = crate::arange(0, n, 1, None);
        let lowest = finfo(dtype).unwrap_or_else(|e| refuse("create_additive_causal_mask", e.to_string())).min;
        i.expand_dims(1).lt(i.expand_dims(0)).astype(dtype) * lowest
    }
}

/// Options of the transformer's layers.
#[derive(Debug, Clone, Copy)]
pub struct TransformerOptions {
    /// Hidden width of the MLP; `None` is four times the model's.
    pub mlp_dims: Option<i32>,
    pub dropout: f64,
    pub activation: fn(&Array) -> Array,
    /// Normalise before attention and MLP, not after.
    pub norm_first: bool,
    /// Compute each layer again in the backward pass.
    pub checkpoint: bool,
}

impl Default for TransformerOptions {
    fn default() -> Self {
        TransformerOptions { mlp_dims: None, dropout: 0.0, activation: relu, norm_first: true, checkpoint: false }
    }
}

/// Self-attention and MLP (`nn.TransformerEncoderLayer`).
#[derive(Debug, Clone, Module)]
pub struct TransformerEncoderLayer {
    pub attention: MultiHeadAttention,
    pub ln1: LayerNorm,
    pub ln2: LayerNorm,
    pub linear1: Linear,
    pub linear2: Linear,
    pub dropout1: Dropout,
    pub dropout2: Dropout,
    #[module(skip)]
    pub activation: fn(&Array) -> Array,
    pub norm_first: bool,
}

impl TransformerEncoderLayer {
    #[track_caller]
    pub fn init(dims: i32, num_heads: i32, o: TransformerOptions) -> Self {
        let mlp = o.mlp_dims.unwrap_or(4 * dims);
        TransformerEncoderLayer {
            attention: MultiHeadAttention::init(dims, num_heads),
            ln1: LayerNorm::init(dims, 1e-5, true, true),
            ln2: LayerNorm::init(dims, 1e-5, true, true),
            linear1: Linear::init(dims, mlp, true),
            linear2: Linear::init(mlp, dims, true),
            dropout1: Dropout::new(o.dropout),
            dropout2: Dropout::new(o.dropout),
            activation: o.activation,
            norm_first: o.norm_first,
        }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array, mask: Option<&Array>) -> Array {
        let attend = |x: &Array| self.dropout1.forward(&self.attention.forward(x, x, x, mask));
        let mlp = |x: &Array| {
            let y = (self.activation)(&self.linear1.forward(x));
            self.linear2.forward(&self.dropout2.forward(&y))
        };
        if self.norm_first {
            let x = x + attend(&self.ln1.forward(x));
            &x + mlp(&self.ln2.forward(&x))
        } else {
            let x = self.ln1.forward(&(x + attend(x)));
            self.ln2.forward(&(&x + mlp(&x)))
        }
    }
}

/// Encoder layers and a final norm (`nn.TransformerEncoder`).
#[derive(Debug, Clone, Module)]
pub struct TransformerEncoder {
    pub layers: Vec<TransformerEncoderLayer>,
    pub ln: LayerNorm,
    pub checkpoint: bool,
}

impl TransformerEncoder {
    #[track_caller]
    pub fn init(num_layers: usize, dims: i32, num_heads: i32, o: TransformerOptions) -> Self {
        TransformerEncoder {
            layers: (0..num_layers).map(|_| TransformerEncoderLayer::init(dims, num_heads, o)).collect(),
            ln: LayerNorm::init(dims, 1e-5, true, true),
            checkpoint: o.checkpoint,
        }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array, mask: Option<&Array>) -> Array {
        let mut x = x.clone();
        for layer in &self.layers {
            x = if self.checkpoint {
                let f = checkpoint(layer, |l: &TransformerEncoderLayer, (x, mask): &(Array, Option<Array>)| {
                    l.forward(x, mask.as_ref())
                });
                f(&(x, mask.cloned()))
            } else {
                layer.forward(&x, mask)
            };
        }
        self.ln.forward(&x)
    }
}

/// Self-attention, attention to the encoder's output, and MLP (`nn.TransformerDecoderLayer`).
#[derive(Debug, Clone, Module)]
pub struct TransformerDecoderLayer {
    pub self_attention: MultiHeadAttention,
    pub cross_attention: MultiHeadAttention,
    pub ln1: LayerNorm,
    pub ln2: LayerNorm,
    pub ln3: LayerNorm,
    pub linear1: Linear,
    pub linear2: Linear,
    pub dropout1: Dropout,
    pub dropout2: Dropout,
    pub dropout3: Dropout,
    #[module(skip)]
    pub activation: fn(&Array) -> Array,
    pub norm_first: bool,
}

impl TransformerDecoderLayer {
    #[track_caller]
    pub fn init(dims: i32, num_heads: i32, o: TransformerOptions) -> Self {
        let mlp = o.mlp_dims.unwrap_or(4 * dims);
        TransformerDecoderLayer {
            self_attention: MultiHeadAttention::init(dims, num_heads),
            cross_attention: MultiHeadAttention::init(dims, num_heads),
            ln1: LayerNorm::init(dims, 1e-5, true, true),
            ln2: LayerNorm::init(dims, 1e-5, true, true),
            ln3: LayerNorm::init(dims, 1e-5, true, true),
            linear1: Linear::init(dims, mlp, true),
            linear2: Linear::init(mlp, dims, true),
            dropout1: Dropout::new(o.dropout),
            dropout2: Dropout::new(o.dropout),
            dropout3: Dropout::new(o.dropout),
            activation: o.activation,
            norm_first: o.norm_first,
        }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array, memory: &Array, x_mask: Option<&Array>, memory_mask: Option<&Array>) -> Array {
        let attend = |x: &Array| self.dropout1.forward(&self.self_attention.forward(x, x, x, x_mask));
        let look = |x: &Array| self.dropout2.forward(&self.cross_attention.forward(x, memory, memory, memory_mask));
        let mlp = |x: &Array| {
            let y = (self.activation)(&self.linear1.forward(x));
            self.linear2.forward(&self.dropout3.forward(&y))
        };
        if self.norm_first {
            let x = x + attend(&self.ln1.forward(x));
            let x = &x + look(&self.ln2.forward(&x));
            &x + mlp(&self.ln3.forward(&x))
        } else {
            let x = self.ln1.forward(&(x + attend(x)));
            let x = self.ln2.forward(&(&x + look(&x)));
            self.ln3.forward(&(&x + mlp(&x)))
        }
    }
}

/// Decoder layers and a final norm (`nn.TransformerDecoder`).
#[derive(Debug, Clone, Module)]
pub struct TransformerDecoder {
    pub layers: Vec<TransformerDecoderLayer>,
    pub ln: LayerNorm,
    pub checkpoint: bool,
}

impl TransformerDecoder {
    #[track_caller]
    pub fn init(num_layers: usize, dims: i32, num_heads: i32, o: TransformerOptions) -> Self {
        TransformerDecoder {
            layers: (0..num_layers).map(|_| TransformerDecoderLayer::init(dims, num_heads, o)).collect(),
            ln: LayerNorm::init(dims, 1e-5, true, true),
            checkpoint: o.checkpoint,
        }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array, memory: &Array, x_mask: Option<&Array>, memory_mask: Option<&Array>) -> Array {
        type Args = (Array, Array, Option<Array>, Option<Array>);
        let mut x = x.clone();
        for layer in &self.layers {
            x = if self.checkpoint {
                let f = checkpoint(layer, |l: &TransformerDecoderLayer, (x, memory, xm, mm): &Args| {
                    l.forward(x, memory, xm.as_ref(), mm.as_ref())
                });
                f(&(x, memory.clone(), x_mask.cloned(), memory_mask.cloned()))
            } else {
                layer.forward(&x, memory, x_mask, memory_mask)
            };
        }
        self.ln.forward(&x)
    }
}

/// Encoder and decoder (`nn.Transformer`; Python's default is 512 wide, 8 heads, 6 layers each).
#[derive(Debug, Clone, Module)]
pub struct Transformer {
    pub encoder: TransformerEncoder,
    pub decoder: TransformerDecoder,
}

impl Transformer {
    #[track_caller]
    pub fn init(dims: i32, num_heads: i32, encoder: usize, decoder: usize, o: TransformerOptions) -> Self {
        Transformer {
            encoder: TransformerEncoder::init(encoder, dims, num_heads, o),
            decoder: TransformerDecoder::init(decoder, dims, num_heads, o),
        }
    }

    #[track_caller]
    pub fn forward(
        &self,
        src: &Array,
        tgt: &Array,
        src_mask: Option<&Array>,
        tgt_mask: Option<&Array>,
        memory_mask: Option<&Array>,
    ) -> Array {
        let memory = self.encoder.forward(src, src_mask);
        self.decoder.forward(tgt, &memory, tgt_mask, memory_mask)
    }
}
