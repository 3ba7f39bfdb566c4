//! Two mixers side by side, on the same input, each with a cache of its own.

use super::Mixer;
use crate::Result;
use crate::blueprint;
use crate::cache::Cache;
use crate::parts::{Registry, Step};
use crate::weights::Leaves;
use mlx::Array;
use mlx::nn::{Leaf, Module};

/// first(x) + second(x)
#[derive(Module)]
pub struct Beside {
    first: Leaf<Box<dyn Mixer>>,
    second: Leaf<Box<dyn Mixer>>,
}

pub(super) fn build(s: &blueprint::Beside, leaves: &Leaves, r: &Registry) -> Result<Beside> {
    let [first, second] = &s.0;
    let part = |(name, part): &(String, blueprint::Part)| {
        Ok::<_, crate::Error>(Leaf::new(name.as_str(), r.build_mixer(part.as_ref(), &leaves.at(name))?))
    };
    Ok(Beside { first: part(first)?, second: part(second)? })
}

impl Mixer for Beside {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        self.first.forward(x, step, cache.part(0)) + self.second.forward(x, step, cache.part(1))
    }
}
