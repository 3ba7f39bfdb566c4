//! One token's latent attention (MLA, absorbed) with its cache, for each row of a batch, in one or two CUDA kernels
//! (`cuda/latent.cuh`). The discipline of the buffers is that of [`KvBuffers`].

use super::cuda::{self, latent};
use super::layers::Columns;
use super::{KvBuffers, Place, Rotation};
use crate::{Array, Dtype};

/// What a step of latent attention computes besides its projections. The buffers are latents [B, 1, T, rank] and rotated
/// key rows [B, 1, T, rope].
#[derive(Debug, Clone, Copy)]
pub struct LatentAttention<'a> {
    pub heads: i32,
    /// Width of a latent.
    pub rank: i32,
    /// Width of the rotated part of a key.
    pub rope: i32,
    pub scale: f32,
    /// Of the rotated parts, all of their width.
    pub rotation: Option<Rotation<'a>>,
    /// RMS norm of the latents: weight `[rank]`, epsilon.
    pub norm: Option<(&'a Array, f32)>,
    /// How many keys back a query sees.
    pub window: Option<i32>,
}

impl KvBuffers {
    /// Whether kernels do the step here for projections of this dtype.
    pub fn is_latent_supported(&self, dtype: Dtype, a: &LatentAttention<'_>) -> bool {
        let [keys, values] = &self.arrays[..] else { return false };
        let same = [Some(keys), Some(values), a.norm.map(|n| n.0)];
        let [b, h, t, d] = keys.dims();
        cuda::current_gpu().is_some()
            && cuda::is_half(dtype)
            && same.iter().flatten().all(|x| x.dtype() == dtype && !super::backend::is_traced(x))
            && (h, d) == (1, a.rank)
            && values.shape() == [b, 1, t, a.rope]
            && a.heads > 0
            && a.norm.is_none_or(|(w, _)| w.shape() == [d])
            && a.rotation.is_none_or(|r| r.radians.shape() == [a.rope / 2] && r.radians.dtype() == Dtype::Float32)
            && latent::is_supported(a)
    }

    /// Mixed latents [B, H, rank] for one new token per row, whose latent and key row are appended at `place`: `q` has the
    /// numbers of each head that are rotated, `q_latent` [B, H, .., rank] the queries in the latent space, `kv` the latent
    /// before its norm and the key row behind it. `None`, and nothing appended, where there is no kernel.
    pub fn attend_latent(
        &mut self,
        q: Columns<'_>,
        q_latent: &Array,
        kv: Columns<'_>,
        place: Place<'_>,
        a: &LatentAttention<'_>,
    ) -> Option<Array> {
        let (b, t) = (self.rows(), self.capacity());
        let dtype = q.x.dtype();
        let row = |c: &Columns, heads: i32, width: i32| {
            let room = i64::from(c.at) + i64::from(heads - 1) * i64::from(c.stride) + i64::from(width);
            c.x.shape().len() == 3
                && c.x.shape()[..2] == [b, 1]
                && c.at >= 0
                && c.stride >= 0
                && room <= i64::from(c.x.dim(2))
        };
        let there = match place {
            Place::At(slot) => (0..t).contains(&slot),
            Place::Padded(slot, starts) => {
                (0..t).contains(&slot) && starts.ndim() == 1 && starts.dim(0) >= b && starts.dtype() == Dtype::Int32
            }
            Place::Ring { .. } | Place::PaddedRing { .. } => false,
        };
        let fits = self.is_latent_supported(dtype, a)
            && row(&q, a.heads, a.rope)
            && row(&kv, 1, a.rank + a.rope)
            && q_latent.ndim() >= 2
            && q_latent.shape()[..2] == [b, a.heads]
            && q_latent.dim(-1) == a.rank
            && q_latent.size() as i64 == i64::from(b) * i64::from(a.heads) * i64::from(a.rank)
            && [q_latent, kv.x].iter().all(|x| x.dtype() == dtype)
            && there;
        if !fits || [q.x, q_latent, kv.x].into_iter().any(super::backend::is_traced) {
            return None;
        }
        let gpu = cuda::current_gpu()?;
        self.own();
        let out = latent::attend(gpu, q, q_latent, kv, (&self.arrays[0], &self.arrays[1]), place, a)?;
        self.began(&out);
        Some(out)
    }
}
