//! Both ends of a decoder: ids to hidden states, hidden states to logits.

use crate::Result;
use crate::blueprint::{self, Blueprint, Tied};
use crate::cache::Caches;
use crate::parts::Norm;
use crate::weights::Leaves;
use mlx::nn::module::{LayerMut, Param, Path};
use mlx::nn::{Embedding, Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Token ids [B, L] -> [B, L, D].
pub(super) struct Embed {
    tokens: Leaf<Embedding>,
    positions: Option<Leaf<Embedding>>,
    norm: Option<Leaf<Norm>>,
    spec: blueprint::Embed,
}

impl Embed {
    pub fn load(b: &Blueprint, leaves: &Leaves) -> Result<Embed> {
        let e = &b.embed;
        Ok(Embed {
            tokens: leaves.embedding(&e.path, b.vocab, b.hidden)?,
            positions: e.positions.as_ref().map(|(path, n)| leaves.embedding(path, *n, b.hidden)).transpose()?,
            norm: e.norm.as_ref().map(|(path, n)| Norm::load(leaves, path, n, &[b.hidden])).transpose()?,
            spec: e.clone(),
        })
    }

    pub fn forward(&self, ids: &Array, caches: &mut Caches) -> Array {
        let mut h = self.tokens.forward(ids);
        if let Some(s) = self.spec.scale {
            let factor = Array::scalar(s.value, if s.round_bf16 { Dtype::Bfloat16 } else { Dtype::Float32 });
            h = &h * factor.astype(h.dtype());
        }
        if let Some(p) = &self.positions {
            let at = caches.first_mut().and_then(|c| c.as_kv().map(|kv| kv.position().range(ids.dim(1))));
            h = h + p.forward(&at.unwrap_or_else(|| mx::arange(0, ids.dim(1), 1, None)));
        }
        self.norm.as_ref().map_or(h.clone(), |n| n.forward(&h))
    }
}

/// [.., D] -> logits [.., V].
pub(super) struct Head {
    linear: Option<Leaf<Linear>>,
    gain: Option<Leaf<Param>>,
    spec: blueprint::Head,
    forbidden: Option<Array>,
}

impl Head {
    pub fn load(b: &Blueprint, leaves: &Leaves) -> Result<Head> {
        let h = &b.head;
        let own = match h.tied {
            Tied::Yes => false,
            Tied::No => true,
            Tied::IfAbsent => leaves.at(&h.path).has("weight"),
        };
        let linear = if own { Some(leaves.linear(&h.path, b.hidden, b.vocab, h.bias)?) } else { None };
        let gain = h.gain.as_ref().map(|name| leaves.param(name, &[1])).transpose()?;
        let forbidden = (!h.forbidden.is_empty()).then(|| {
            let mut add = vec![0.0f32; b.vocab as usize];
            h.forbidden.iter().filter_map(|&i| add.get_mut(i as usize).map(|a| *a = f32::NEG_INFINITY)).count();
            Array::from(add)
        });
        Ok(Head { linear, gain, spec: h.clone(), forbidden })
    }

    /// Weights that [`fused`](Self::fused) reads first.
    pub fn first_weights<'a>(&'a self, embed: &'a Embed) -> [Option<&'a Array>; 2] {
        [Some(self.linear.as_ref().map_or_else(|| embed.tokens.weight(), |l| l.weight())), None]
    }

    /// Logits of the RMS norm of h, in one kernel with it; `None` with an adapter or for other than few rows.
    pub fn fused(&self, h: &Array, norm: (&Array, f32), embed: &Embed) -> Option<Array> {
        let matrix = self.linear.as_ref().map_or_else(|| embed.tokens.matrix(), |l| l.matrix())?;
        let few = h.size() / h.dim(-1).max(1) as usize <= 8;
        let around = mx::fast::Fused { norm: Some(norm), ..Default::default() };
        (few && !self.spec.bf16_input).then(|| self.finish(mx::fast::linear(h, &[matrix], around)))
    }

    pub fn forward(&self, h: &Array, embed: &Embed) -> Array {
        let rounded = self.spec.bf16_input.then(|| h.astype(Dtype::Bfloat16));
        let h = rounded.as_ref().unwrap_or(h);
        let logits = match &self.linear {
            Some(l) => l.forward(h),
            None => embed.tokens.as_linear(h),
        };
        self.finish(if rounded.is_some() { logits.astype(Dtype::Float32) } else { logits })
    }

    /// Scale, cap and forbidden ids.
    fn finish(&self, mut logits: Array) -> Array {
        if let Some(g) = &self.gain {
            logits = &logits * g.astype(logits.dtype());
        }
        if self.spec.scale != 1.0 {
            logits = logits * self.spec.scale;
        }
        if let Some(cap) = self.spec.softcap {
            logits = (logits / cap).tanh() * cap;
        }
        if let Some(f) = &self.forbidden {
            logits = &logits + f.astype(logits.dtype());
        }
        logits
    }
}

impl Module for Embed {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        use mlx::nn::module::visit_field as go;
        go(&self.tokens, "", path, f);
        go(&self.positions, "", path, f);
        go(&self.norm, "", path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        use mlx::nn::module::visit_field_mut as go;
        go(&mut self.tokens, "", path, f);
        go(&mut self.positions, "", path, f);
        go(&mut self.norm, "", path, f);
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        mlx::nn::module::layers_field_mut(&mut self.tokens, "", path, f);
        mlx::nn::module::layers_field_mut(&mut self.positions, "", path, f);
    }
}

impl Module for Head {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        mlx::nn::module::visit_field(&self.linear, "", path, f);
        mlx::nn::module::visit_field(&self.gain, "", path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        mlx::nn::module::visit_field_mut(&mut self.linear, "", path, f);
        mlx::nn::module::visit_field_mut(&mut self.gain, "", path, f);
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        mlx::nn::module::layers_field_mut(&mut self.linear, "", path, f);
    }
}
