//! Latents to keys and values of all heads, and the same matrices the other way round: absorbed attention.

use crate::Result;
use crate::blueprint::{Mla, MlaLayout};
use crate::weights::Leaves;
use mlx::nn::{LayerMut, Leaf, Linear, Module, Param, Path, SwitchLinear};
use mlx::{self as mx, Array, Quant};

/// The key and value matrices of each head, apart or as rows of one matrix.
#[derive(Module)]
pub(super) struct Expand {
    /// [H, rank, nope]: queries into the latent space, or latents to keys.
    embed_q: Option<Leaf<Heads>>,
    /// [H, v, rank]: latents to values.
    unembed_out: Option<Leaf<Heads>>,
    /// [H (nope + v), rank].
    kv_b_proj: Option<Leaf<Linear>>,
    #[module(skip)]
    dims: [i32; 3],
}

/// One matrix per head, [H, out, in]: packed like a layer, but no place for an adapter.
struct Heads(SwitchLinear);

impl Module for Heads {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        self.0.visit(path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.0.visit_mut(path, f);
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        f(path.as_str(), LayerMut::MultiLinear(&mut self.0));
    }
}

/// Matrices [H, out, in], dense or packed.
pub(super) struct PerHead {
    weight: Array,
    packed: Option<(Array, Option<Array>, Quant)>,
}

impl PerHead {
    pub fn of(w: &SwitchLinear) -> Self {
        let packed = w.quant().zip(w.scales()).map(|(q, s)| (s.clone(), w.biases().cloned(), q));
        PerHead { weight: w.weight().clone(), packed }
    }

    /// x [B, H or 1, L, in] -> [B, H, L, out].
    pub fn forward(&self, x: &Array) -> Array {
        self.product(x, true)
    }

    /// x [B, H or 1, L, out] -> [B, H, L, in], by the same matrices.
    pub fn back(&self, x: &Array) -> Array {
        self.product(x, false)
    }

    fn product(&self, x: &Array, transpose: bool) -> Array {
        match &self.packed {
            Some((scales, biases, q)) => mx::quantized_matmul(x, &self.weight, scales, biases.as_ref(), transpose, *q),
            None if transpose => x.matmul(&self.weight.swapaxes(-1, -2)),
            None => x.matmul(&self.weight),
        }
    }
}

/// Ready to attend: in the latent space, where no key or value is ever expanded, or over expanded ones.
pub(super) struct Maps {
    keys: PerHead,
    /// Keys are `keys.back(latent)`: the matrices are stored for queries.
    keys_back: bool,
    values: PerHead,
}

impl Maps {
    /// Latents [B, 1, T, rank] to keys [B, H, T, nope] and values [B, H, T, v].
    pub fn expand(&self, latent: &Array) -> (Array, Array) {
        let keys = if self.keys_back { self.keys.back(latent) } else { self.keys.forward(latent) };
        (keys, self.values.forward(latent))
    }

    /// Queries [B, H, L, nope] to [B, H, L, rank], whose dot products with latents are those with their keys.
    pub fn queries(&self, q: &Array) -> Array {
        if self.keys_back { self.keys.forward(q) } else { self.keys.back(q) }
    }

    /// Mixed latents [B, H, L, rank] to mixed values [B, H, L, v].
    pub fn values(&self, o: &Array) -> Array {
        self.values.forward(o)
    }
}

impl Expand {
    pub fn load(s: &Mla, joined: &str, leaves: &Leaves) -> Result<Expand> {
        let [h, nope, v] = [s.heads, s.nope_dim, s.v_dim];
        let apart = s.layout == MlaLayout::Absorbed;
        let switch = |name: &str, input: i32, output: i32| {
            let load = || leaves.switch_linear(name, h, input, output, false);
            let heads = apart.then(load).transpose()?.map(|l| {
                let mut l = l.into_inner();
                // small: forms that no product of all heads takes become dense
                if l.matrix().is_none() {
                    l.dequantize();
                }
                Leaf::new(name, Heads(l))
            });
            Ok::<_, crate::Error>(heads)
        };
        Ok(Expand {
            embed_q: switch("embed_q", nope, s.kv_rank)?,
            unembed_out: switch("unembed_out", s.kv_rank, v)?,
            kv_b_proj: (!apart).then(|| leaves.linear(joined, s.kv_rank, h * (nope + v), false)).transpose()?,
            dims: [h, nope, v],
        })
    }

    /// The matrices of each head; `None` with an adapter on the joined ones, which has no such form.
    pub fn maps(&self) -> Option<Maps> {
        if let (Some(k), Some(v)) = (&self.embed_q, &self.unembed_out) {
            return Some(Maps { keys: PerHead::of(&k.0), keys_back: true, values: PerHead::of(&v.0) });
        }
        let [h, nope, v] = self.dims;
        let m = self.kv_b_proj.as_ref()?.matrix()?;
        let rows = |from: i32, to: i32| {
            let cut = |a: &Array| a.unflatten(0, [h, nope + v]).slice_axis(1, from..to);
            let packed = m.quant.zip(m.scales).map(|(q, s)| (cut(s), m.biases.map(cut), q));
            PerHead { weight: cut(m.weight), packed }
        };
        Some(Maps { keys: rows(0, nope), keys_back: false, values: rows(nope, nope + v) })
    }

    /// Keys and values of all latents [B, 1, T, rank], whatever form the matrices have.
    pub fn expand(&self, latent: &Array) -> (Array, Array) {
        match (self.maps(), &self.kv_b_proj) {
            (Some(maps), _) => maps.expand(latent),
            (None, Some(joined)) => {
                let [h, nope, v] = self.dims;
                let kv = joined.forward(&latent.squeeze(1)).unflatten(-1, [h, nope + v]).transpose([0, 2, 1, 3]);
                (kv.slice_axis(-1, 0..nope), kv.slice_axis(-1, nope..nope + v))
            }
            (None, None) => unreachable!("built with one of both forms"),
        }
    }
}
