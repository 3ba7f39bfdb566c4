//! Layers whose experts take a shortcut around the second half (longcat_flash).

use crate::blueprint::ShortcutLayer as Spec;
use crate::cache::Cache;
use crate::parts::{Block, Ffn, Mixer, Norm, Registry, Step};
use crate::weights::Leaves;
use crate::{Error, Result};
use mlx::Array;
use mlx::nn::{Leaf, Module};

pub(super) fn register(r: &mut Registry) {
    r.block(Shortcut::load);
}

#[derive(Module)]
struct Half {
    input_norm: Leaf<Norm>,
    mixer: Leaf<Box<dyn Mixer>>,
    post_norm: Leaf<Norm>,
    ffn: Leaf<Box<dyn Ffn>>,
}

impl Half {
    fn load(s: &Spec, i: usize, leaves: &Leaves, r: &Registry) -> Result<Half> {
        let norm = |name: &str| Norm::load(leaves, &format!("{name}.{i}"), &s.norm, &[s.hidden]);
        let (mixer, ffn) = &s.halves[i];
        let (mixer_name, ffn_name) = (format!("self_attn.{i}"), format!("mlps.{i}"));
        Ok(Half {
            input_norm: norm("input_layernorm")?,
            mixer: Leaf::new(mixer_name.as_str(), r.build_mixer(mixer.as_ref(), &leaves.at(&mixer_name))?),
            post_norm: norm("post_attention_layernorm")?,
            ffn: Leaf::new(ffn_name.as_str(), r.build_ffn(ffn.as_ref(), &leaves.at(&ffn_name))?),
        })
    }

    /// x after the mixer, and what the ffn reads.
    fn mix(&self, x: Array, step: &Step, cache: &mut dyn Cache) -> (Array, Array) {
        let y = self.mixer.forward(&self.input_norm.forward(&x), step, cache);
        let x = x + y;
        let seen = self.post_norm.forward(&x);
        (x, seen)
    }
}

#[derive(Module)]
struct Shortcut {
    first: Leaf<Half>,
    second: Leaf<Half>,
    experts: Leaf<Box<dyn Ffn>>,
}

impl Shortcut {
    fn load(s: &Spec, leaves: &Leaves, r: &Registry) -> Result<Shortcut> {
        let half = |i| Ok::<_, Error>(Leaf::new("", Half::load(s, i, leaves, r)?));
        Ok(Shortcut {
            first: half(0)?,
            second: half(1)?,
            experts: Leaf::new("mlp", r.build_ffn(s.experts.as_ref(), &leaves.at("mlp"))?),
        })
    }
}

impl Block for Shortcut {
    fn forward(&self, x: Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let (x, seen) = self.first.mix(x, step, cache.part(0));
        let experts = self.experts.forward(&seen, step);
        let x = x + self.first.ffn.forward(&seen, step);
        let (x, seen) = self.second.mix(x, step, cache.part(1));
        x + self.second.ffn.forward(&seen, step) + experts
    }
}
