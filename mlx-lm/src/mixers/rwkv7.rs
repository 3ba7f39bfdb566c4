//! RWKV-7 (Peng et al. 2025): S = S diag(w) - (S kk) (kk a)' + v k', y = S r, over tokens mixed with their predecessors.

use super::Mixer;
use crate::Result;
use crate::blueprint::{self, Activation, UnitNorm};
use crate::cache::{Cache, Slots};
use crate::ffn::activation;
use crate::parts::{Onto, Step};
use crate::weights::Leaves;
use mlx::fast::{self, After, Columns, LinearScan, Product, Rule, UnitLength, WkvLayer, linear_scan};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype};

/// Under which name the first layer leaves its values [B, L, values].
pub const FIRST_VALUES: &str = "rwkv7 values";

/// e^(-1/2): the strongest decay is e^-this.
const STRONGEST: f32 = 0.606_530_66;

/// Each token's predecessor, for x [B, L, D]; slot `slot` holds the token before x, zeros at first.
fn shifted(x: &Array, slots: &mut Slots, slot: usize) -> Array {
    let [b, l, d] = x.dims();
    let before = slots.take(slot).unwrap_or_else(|| mx::zeros([b, 1, d], x.dtype())).astype(x.dtype());
    slots.set(slot, mx::contiguous(&x.slice_axis(1, l - 1..l)));
    if l == 1 { before } else { mx::concatenate(&[before, x.slice_axis(1, 0..l - 1)], 1) }
}

/// x [B, L, D] on its way to its predecessors by each of these shares [D], predecessors as [`shifted`] keeps them.
fn mixed(x: &Array, slots: &mut Slots, slot: usize, by: &[&Array]) -> Vec<Array> {
    if fast::has_layer_kernels()
        && let Some((all, last)) = fast::token_mix_fused(x, slots.get(slot), by)
    {
        slots.set(slot, last);
        return all;
    }
    let change = shifted(x, slots, slot) - x;
    by.iter().map(|&share| x + &change * share).collect()
}

/// Two projections with a narrow middle.
#[derive(Module)]
struct LowRank {
    down: Leaf<Linear>,
    up: Leaf<Linear>,
}

impl LowRank {
    fn load(leaves: &Leaves, name: &str, [hidden, rank, out]: [i32; 3], bias: bool) -> Result<Leaf<LowRank>> {
        let l = leaves.at(name);
        let (down, up) = (l.linear("lora.0", hidden, rank, false)?, l.linear("lora.2", rank, out, bias)?);
        Ok(Leaf::new(name, LowRank { down, up }))
    }
    fn forward(&self, x: &Array, act: impl Fn(&Array) -> Array) -> Array {
        self.up.forward(&act(&self.down.forward(x)))
    }
}

/// Time mixing over [`blueprint::Rwkv7`].
#[derive(Module)]
pub struct Rwkv7 {
    x_r: Leaf<Param>,
    x_w: Leaf<Param>,
    x_k: Leaf<Param>,
    x_v: Leaf<Param>,
    x_a: Leaf<Param>,
    x_g: Leaf<Param>,
    k_k: Leaf<Param>,
    k_a: Leaf<Param>,
    r_k: Leaf<Param>,
    r_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    v_proj: Leaf<Linear>,
    o_proj: Leaf<Linear>,
    w_lora: Leaf<LowRank>,
    a_lora: Leaf<LowRank>,
    v_lora: Option<Leaf<LowRank>>,
    g_lora: Leaf<LowRank>,
    norm_weight: Leaf<Param>,
    norm_bias: Leaf<Param>,
    #[module(skip)]
    spec: blueprint::Rwkv7,
}

pub(super) fn build(s: &blueprint::Rwkv7, leaves: &Leaves) -> Result<Rwkv7> {
    let (d, v, r) = (s.hidden, s.values, s.ranks);
    let mix = |name: &str| leaves.param(name, &[1, 1, d]);
    let per_head = |name: &str, width: i32| leaves.param(name, &[s.heads, width / s.heads]);
    let low_rank = |name: &str, rank: i32, out: i32, bias: bool| LowRank::load(leaves, name, [d, rank, out], bias);
    let mut all = Rwkv7 {
        x_r: mix("x_r")?,
        x_w: mix("x_w")?,
        x_k: mix("x_k")?,
        x_v: mix("x_v")?,
        x_a: mix("x_a")?,
        x_g: mix("x_g")?,
        k_k: per_head("k_k", d)?,
        k_a: per_head("k_a", d)?,
        r_k: per_head("r_k", d)?,
        r_proj: leaves.linear("r_proj", d, d, false)?,
        k_proj: leaves.linear("k_proj", d, d, false)?,
        v_proj: leaves.linear("v_proj", d, v, false)?,
        o_proj: leaves.linear("o_proj", v, d, false)?,
        w_lora: low_rank("w_lora", r.w, d, true)?,
        a_lora: low_rank("a_lora", r.a, d, true)?,
        v_lora: if s.first { None } else { Some(low_rank("v_lora", r.v, v, true)?) },
        g_lora: low_rank("g_lora", r.g, v, false)?,
        norm_weight: per_head("g_norm.weight", v)?,
        norm_bias: per_head("g_norm.bias", v)?,
        spec: s.clone(),
    };
    leaves.in_one_buffer(&mut all)?;
    Ok(all)
}

/// A product of [`fast::products_fused`], if it has no adapter.
fn product<'a>(
    x: Columns<'a>,
    toward: Option<(&'a Array, &'a Array)>,
    linear: &'a Linear,
    after: After,
) -> Option<Product<'a>> {
    Some(Product { x, toward, weight: linear.matrix()?, after })
}

/// Heads of this width that [`fast::products_fused`] gave.
fn columns((x, at): &(Array, i32), width: i32) -> Columns<'_> {
    Columns::new(x, *at, width)
}

fn unit(x: &Array, how: UnitNorm) -> Array {
    let square = x.square().sum_keepdims(-1);
    match how {
        UnitNorm::AtLeast(eps) => x / mx::maximum(square.sqrt(), eps),
        UnitNorm::Root(eps) => x * (square + eps).rsqrt(),
    }
}

/// [B, L, H, D] to [B, H, L, D] and back.
fn swap(a: &Array) -> Array {
    a.swapaxes(1, 2)
}

impl Rwkv7 {
    /// The values [B, L, values], mixed with those of the first layer.
    fn values(&self, x: &Array, step: &Step) -> Array {
        let v = self.v_proj.forward(x);
        let Some(share) = &self.v_lora else {
            step.put(FIRST_VALUES, v.clone());
            return v;
        };
        let Some(first) = step.get(FIRST_VALUES) else { panic!("no layer of RWKV-7 before this one left its values") };
        let share = share.forward(x, Array::clone).sigmoid();
        &v + (first - &v) * share
    }

    /// The recurrence with what surrounds it in one kernel: heads [B, L, H V], normed and gated; `None` where there is none.
    /// r, k, v, rate, decay and gate, of which rate and decay are logits; the first layer's values with the logits of how
    /// far v goes to them.
    fn fused_rule(&self, parts: [Columns; 6], first: Option<(Columns, Columns)>, slots: &mut Slots) -> Option<Array> {
        let (s, [r, k, v, rate, decay, gate]) = (&self.spec, parts);
        let layer = WkvLayer {
            heads: s.heads,
            key_dim: s.hidden / s.heads,
            value_dim: s.values / s.heads,
            r,
            k,
            v,
            rate,
            decay,
            gate,
            first,
            k_k: self.k_k.value(),
            k_a: self.k_a.value(),
            r_k: self.r_k.value(),
            norm: (self.norm_weight.value(), self.norm_bias.value(), s.eps),
            unit: match s.unit {
                UnitNorm::AtLeast(eps) => UnitLength::AtLeast(eps),
                UnitNorm::Root(eps) => UnitLength::Root(eps),
            },
        };
        let (o, state) = fast::wkv_fused(&layer, slots.get(1))?;
        slots.set(1, state);
        slots.advance(r.x.dim(1));
        Some(o)
    }

    /// What the heads of one token per row give [B, 1, H V], in three kernels: all that x is projected to, what the narrow
    /// ones are widened to, the recurrence. `None` where there are none; slots are then as they were.
    fn few(&self, x: &Array, step: &Step, slots: &mut Slots) -> Option<Array> {
        let s = &self.spec;
        let before = slots.get(0).filter(|_| fast::has_layer_kernels() && x.dim(1) == 1)?;
        let low = [Some(&self.a_lora), Some(&self.g_lora), Some(&self.w_lora), self.v_lora.as_ref()];
        let inward = [
            Some((&self.x_r, &self.r_proj, After::Same)),
            Some((&self.x_k, &self.k_proj, After::Same)),
            Some((&self.x_v, &self.v_proj, After::Same)),
            Some((&self.x_a, &self.a_lora.down, After::Same)),
            Some((&self.x_g, &self.g_lora.down, After::Sigmoid)),
            Some((&self.x_w, &self.w_lora.down, After::Tanh)),
            self.v_lora.as_ref().map(|v| (&self.x_v, &v.down, After::Same)),
        ];
        let whole = Columns::new(x, 0, 0);
        let inward = inward.into_iter().flatten();
        let inward = inward.map(|(by, l, after)| product(whole, Some((before, by.value())), l, after));
        let narrow = fast::products_fused(&inward.collect::<Option<Vec<_>>>()?)?;
        let ups =
            low.into_iter().flatten().zip(&narrow[3..]).map(|(l, x)| product(columns(x, 0), None, &l.up, After::Same));
        let wide = fast::products_fused(&ups.collect::<Option<Vec<_>>>()?)?;

        let (k, v) = (s.hidden / s.heads, s.values / s.heads);
        let first = match wide.get(3) {
            None => None,
            Some(share) => Some((step.get(FIRST_VALUES)?, share)),
        };
        let mix = first.as_ref().map(|(first, share)| (Columns::new(first, 0, v), columns(share, v)));
        let [r, key, value] = [(&narrow[0], k), (&narrow[1], k), (&narrow[2], v)].map(|(x, width)| columns(x, width));
        let [rate, gate, decay] = [(&wide[0], k), (&wide[1], v), (&wide[2], k)].map(|(x, width)| columns(x, width));
        let o = self.fused_rule([r, key, value, rate, decay, gate], mix, slots)?;
        if first.is_none() {
            let (v, at) = &narrow[2];
            step.put(FIRST_VALUES, mx::contiguous(&v.slice_axis(-1, *at..*at + s.values)));
        }
        slots.set(0, x.clone());
        Some(o)
    }
}

impl Mixer for Rwkv7 {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        let slots = cache.slots();
        if let Some(o) = self.few(x, step, slots) {
            return self.o_proj.forward(&o);
        }
        let by = [&self.x_r, &self.x_k, &self.x_v, &self.x_a, &self.x_g, &self.x_w].map(|p| p.value());
        let mixed = mixed(x, slots, 0, &by);
        let heads = |a: Array| a.reshape([b, l, s.heads, -1]);

        let r = heads(self.r_proj.forward(&mixed[0]));
        let k = heads(self.k_proj.forward(&mixed[1]));
        let v = heads(self.values(&mixed[2], step));
        let rate = heads(self.a_lora.forward(&mixed[3], Array::clone));
        let gate = self.g_lora.forward(&mixed[4], Array::sigmoid);
        let decay = heads(self.w_lora.forward(&mixed[5], Array::tanh));

        if fast::has_layer_kernels() {
            let flat = [&r, &k, &v, &rate, &decay].map(|a| a.flatten(-2, -1));
            let parts = [&flat[0], &flat[1], &flat[2], &flat[3], &flat[4], &gate];
            if let Some(o) = self.fused_rule(parts.map(|a| Columns::new(a, 0, a.dim(2) / s.heads)), None, slots) {
                return self.o_proj.forward(&o);
            }
        }
        let (rate, decay) = (rate.sigmoid(), decay.astype(Dtype::Float32).sigmoid());
        let removed = unit(&(&k * self.k_k.value()), s.unit);
        let k = &k + &k * (&rate - 1.0) * self.k_a.value();
        let [q, key, value, g] = [&r, &k, &v, &(decay * -STRONGEST)].map(swap);
        let (at, under) = (swap(&removed), swap(&(&removed * rate)));
        let rule = Rule::Remove { at: &at, under: &under };
        let (o, state) = linear_scan(&LinearScan { q: &q, k: &key, v: &value, g: &g, rule }, slots.take(1));
        slots.set(1, state);
        slots.advance(l);

        let o = fast::layer_norm(&swap(&o).astype(x.dtype()), None, None, s.eps);
        let o = o * self.norm_weight.value() + self.norm_bias.value();
        let bonus = (r * k * self.r_k.value()).sum_keepdims(-1) * v;
        self.o_proj.forward(&((o + bonus).reshape([b, l, -1]) * gate))
    }

    fn onto(&self, x: &Array, onto: Onto<'_>, step: &Step, cache: &mut dyn Cache) -> Option<Array> {
        let o_proj = self.o_proj.matrix()?;
        Some(fast::linear(&self.few(x, step, cache.slots())?, &[o_proj], onto.after()))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        [Some(self.r_proj.weight()), None]
    }
}

/// The recurrence between plain projections, over [`blueprint::Rwkv7Bare`].
#[derive(Module)]
pub struct Rwkv7Bare {
    receptance: Leaf<Linear>,
    decay: Leaf<Linear>,
    key: Leaf<Linear>,
    value: Leaf<Linear>,
    a_proj: Leaf<Linear>,
    b_proj: Leaf<Linear>,
    output: Leaf<Linear>,
    #[module(skip)]
    heads: i32,
}

pub(super) fn build_bare(s: &blueprint::Rwkv7Bare, leaves: &Leaves) -> Result<Rwkv7Bare> {
    let keys = |name: &str| leaves.linear_any_bias(name, s.hidden, s.heads * s.key_dim);
    let values = s.heads * s.value_dim;
    Ok(Rwkv7Bare {
        receptance: keys("receptance")?,
        decay: keys("decay")?,
        key: keys("key")?,
        value: leaves.linear_any_bias("value", s.hidden, values)?,
        a_proj: keys("a_proj")?,
        b_proj: keys("b_proj")?,
        output: leaves.linear_any_bias("output", values, s.hidden)?,
        heads: s.heads,
    })
}

impl Mixer for Rwkv7Bare {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let [b, l, _] = x.dims();
        let slots = cache.slots();
        let heads = |p: &Linear| swap(&p.forward(x).reshape([b, l, self.heads, -1]));
        let (q, k, v) = (heads(&self.receptance), heads(&self.key), heads(&self.value));
        let g = -heads(&self.decay).astype(Dtype::Float32).exp();
        let (at, under) = (-heads(&self.a_proj), heads(&self.b_proj));
        let rule = Rule::Remove { at: &at, under: &under };
        let (o, state) = linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, slots.take(0));
        slots.set(0, state);
        slots.advance(l);
        self.output.forward(&swap(&o).astype(x.dtype()).reshape([b, l, -1]))
    }
}

/// Channel mixing over [`blueprint::ChannelMix`].
#[derive(Module)]
pub struct ChannelMix {
    x_k: Leaf<Param>,
    key: Leaf<Linear>,
    value: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::ChannelMix,
}

pub(super) fn build_channel_mix(s: &blueprint::ChannelMix, leaves: &Leaves) -> Result<ChannelMix> {
    let mut all = ChannelMix {
        x_k: leaves.param("x_k", &[s.hidden])?,
        key: leaves.linear("key", s.hidden, s.inner, false)?,
        value: leaves.linear("value", s.inner, s.hidden, false)?,
        spec: s.clone(),
    };
    leaves.in_one_buffer(&mut all)?;
    Ok(all)
}

impl Mixer for ChannelMix {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let mixed = mixed(x, cache.slots(), self.spec.slot, &[self.x_k.value()]);
        self.value.forward(&activation::apply(self.spec.activation, &self.key.forward(&mixed[0])))
    }

    fn onto(&self, x: &Array, onto: Onto<'_>, _: &Step, cache: &mut dyn Cache) -> Option<Array> {
        let s = &self.spec;
        if !fast::has_layer_kernels() || s.activation != Activation::Relu2 {
            return None;
        }
        let (value, slots) = (self.value.matrix()?, cache.slots());
        let toward = Some((slots.get(s.slot)?, self.x_k.value()));
        let key = product(Columns::new(x, 0, 0), toward, &self.key, After::SquaredRelu)?;
        let inner = fast::products_fused(&[key])?;
        slots.set(s.slot, x.clone());
        Some(fast::linear(&inner[0].0, &[value], onto.after()))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        [Some(self.key.weight()), None]
    }
}
