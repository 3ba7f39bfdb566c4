//! Embeddings of hashed n-grams (longcat_flash_ngram).

use crate::Result;
use crate::blueprint::NgramEmbeddings as Spec;
use crate::cache::Cache;
use crate::parts::{Prologue, Step};
use crate::weights::Leaves;
use mlx::nn::{Embedding, Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

#[derive(Module)]
pub(super) struct NgramEmbeddings {
    embedders: Vec<Leaf<Embedding>>,
    post_projs: Vec<Leaf<Linear>>,
    #[module(skip)]
    spec: Spec,
}

impl NgramEmbeddings {
    pub fn load(s: &Spec, leaves: &Leaves) -> Result<NgramEmbeddings> {
        let tables = s.splits * (s.longest - 1);
        let width = s.hidden / tables.max(1);
        let under = |name: &str, i: i32| format!("{}.{name}.{i}", s.path);
        let embedders = (0..tables)
            .map(|i| leaves.embedding(&under("embedders", i), s.rows + 2 * i + 1, width))
            .collect::<Result<_>>()?;
        let post_projs = (0..tables)
            .map(|i| leaves.linear(&under("post_projs", i), width, s.hidden, false))
            .collect::<Result<_>>()?;
        Ok(NgramEmbeddings { embedders, post_projs, spec: s.clone() })
    }
}

impl Prologue for NgramEmbeddings {
    fn before(&self, mut h: Array, step: &Step, cache: Option<&mut dyn Cache>) -> Array {
        let s = &self.spec;
        let ids = step.ids().astype(Dtype::Int64);
        let [b, l] = ids.dims();
        let back = s.longest - 1;
        // nothing before the first token counts as id 0
        let mut all = vec![mx::zeros([b, back], Dtype::Int64)];
        let slots = cache.map(|c| c.slots());
        all.extend(slots.as_ref().and_then(|c| c.get(0).cloned()));
        all.push(ids.clone());
        let all = mx::concatenate(&all, 1);
        let end = all.dim(1);
        if let Some(slots) = slots {
            slots.set(0, mx::contiguous(&all.slice_axis(1, end - back..end)));
            slots.advance(l);
        }
        let tables = self.embedders.iter().zip(&self.post_projs).enumerate();
        for (i, (embedder, project)) in tables {
            let rows = i64::from(s.rows) + 2 * i as i64 + 1;
            let earlier = 1 + i as i32 / s.splits;
            let (mut hash, mut power) = (ids.clone(), 1);
            for n in 1..=earlier {
                power = power * i64::from(s.vocab) % rows;
                hash = hash + all.slice_axis(1, end - l - n..end - n) * power;
            }
            h = h + project.forward(&embedder.forward(&mx::remainder(hash, rows)));
        }
        h / (1 + self.embedders.len()) as f32
    }
}
