//! Launches of latent attention (`latent.cuh`).

use super::kernel::{Launch, Scalar};
use super::{COMMON, Gpu, LATENT, SHARED, Spec, Table, kernel};
use crate::fast::latent::LatentAttention;
use crate::fast::{Columns, Place};
use crate::{Array, Dtype};
use smallvec::SmallVec;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Latent {
    f16: bool,
    rank: i32,
    rope: i32,
    /// Joins what the splits give.
    merge: bool,
    rotation: bool,
    traditional: bool,
    norm: bool,
    starts: bool,
}

impl Spec for Latent {
    fn name(&self) -> String {
        format!("latent_{self:?}")
    }

    fn source(&self, name: &str) -> String {
        let head = format!(
            "#define HALF {}\n{COMMON}{SHARED}{LATENT}\nextern \"C\" __global__ void __launch_bounds__({}) {name}(",
            self.f16 as u8,
            if self.merge { self.rank / 4 } else { 128 }
        );
        if self.merge {
            return format!(
                "{head}const float* part, u16* out, int splits) {{\nmerge<{}>(part, out, splits);\n}}\n",
                self.rank
            );
        }
        let optional = [
            (self.rotation, "const float* ", "freq"),
            (self.norm, "const u16* ", "norm"),
            (self.starts, "const int* ", "starts"),
        ];
        let parameters: String = optional.iter().filter(|o| o.0).map(|o| format!("{}{}, ", o.1, o.2)).collect();
        let arguments: String =
            optional.iter().map(|o| if o.0 { format!("{}, ", o.2) } else { "nullptr, ".into() }).collect();
        format!(
            "{head}const u16* q, const u16* q_lat, const u16* kv, u16* lc, u16* pc, {parameters}u16* out, float* part, int slot, \
             int place, int cap, int window, int H, int q_row, int q_head, int q_at, int kv_row, int kv_at, float eps, float \
             scale, float feature) {{\nlatent<{}, {}, {}>(q, q_lat, kv + kv_at, lc, pc, {arguments}out, part, slot, slot, place, \
             cap, window, H, q_row, q_head, q_at, kv_row, eps, scale, feature);\n}}\n",
            self.rank, self.rope, self.traditional,
        )
    }
}

thread_local! { static KERNELS: Table<Latent> = Table::default(); }

/// Keys that a block takes at once.
const KEYS: i32 = 32;

/// Bytes of shared memory: queries, two steps of keys, weights, the new token.
fn shared(a: &LatentAttention) -> i32 {
    let d = a.rank + a.rope;
    ((16 + 2 * KEYS) * (d + 8) + 16 * (KEYS + 8) + d) * 2
}

/// Whether the kernel covers these sizes.
pub(crate) fn is_supported(a: &LatentAttention) -> bool {
    a.rank % 64 == 0 && (64..=512).contains(&a.rank) && a.rope % 16 == 0 && (16..=128).contains(&a.rope)
}

/// The step; writes both buffers in place. `None` if the card's compiler refuses the kernel.
///
/// The caller owns the buffers, has checked all shapes and dtypes, and keeps the result until readers may follow.
pub(crate) fn attend(
    gpu: &Gpu,
    q: Columns,
    q_latent: &Array,
    kv: Columns,
    (latents, keys): (&Array, &Array),
    place: Place,
    a: &LatentAttention,
) -> Option<Array> {
    let [b, _, cap, _] = latents.dims();
    let [slot, last, position] = place.numbers();
    let groups = (a.heads + 15) / 16;
    let starts = place.starts();
    // two steps a block at least, as many blocks as the card has processors at most
    let seen = a.window.map_or(last + 1, |w| w.min(last + 1)).max(1);
    let tiles = (seen + KEYS - 1) / KEYS + 1;
    let splits = (tiles / 2).clamp(1, (gpu.multiprocessors / (b * groups)).clamp(1, 64));
    let spec = Latent {
        f16: q.x.dtype() == Dtype::Float16,
        rank: a.rank,
        rope: a.rope,
        merge: false,
        rotation: a.rotation.is_some(),
        traditional: a.rotation.is_some_and(|r| r.traditional),
        norm: a.norm.is_some(),
        starts: starts.is_some(),
    };
    let step = kernel(&KERNELS, spec, gpu)?;
    let joined = Latent { merge: true, rotation: false, traditional: false, norm: false, starts: false, ..spec };
    let merge = if splits > 1 { Some(kernel(&KERNELS, joined, gpu)?) } else { None };
    let mut inputs: SmallVec<[&Array; 8]> = SmallVec::new();
    inputs.extend([q.x, q_latent, kv.x, latents, keys]);
    inputs.extend([a.rotation.map(|r| r.radians), a.norm.map(|n| n.0), starts].into_iter().flatten());
    let scalars = [
        Scalar::Int(slot),
        Scalar::Int(position),
        Scalar::Int(cap),
        Scalar::Int(a.window.unwrap_or(0)),
        Scalar::Int(a.heads),
        Scalar::Int(q.x.dim(2)),
        Scalar::Int(q.stride),
        Scalar::Int(q.at),
        Scalar::Int(kv.x.dim(2)),
        Scalar::Int(kv.at),
        Scalar::Float(a.norm.map_or(0.0, |n| n.1)),
        Scalar::Float(a.scale),
        Scalar::Float(a.rotation.map_or(1.0, |r| r.feature_scale)),
    ];
    let out = [b, a.heads, a.rank];
    let part = [b * groups * splits * 16 * (a.rank + 2)];
    let outputs: [(&[i32], Dtype); 2] = [(&out, q.x.dtype()), (&part, Dtype::Float32)];
    let launch = Launch { grid: [splits, groups, b], threads: 128, shared: shared(a) };
    // SAFETY: shapes were checked by the caller; the slot lies within the buffers
    let mut results = unsafe { step.call(&inputs, &outputs, &scalars, launch) }.into_iter();
    let (direct, part) = (results.next()?, results.next()?);
    let Some(merge) = merge else { return Some(direct) };
    let launch = Launch { grid: [a.heads, b, 1], threads: a.rank / 4, shared: 0 };
    // SAFETY: one block a head, which reads the parts of its splits
    unsafe { merge.call(&[&part], &[(&out, q.x.dtype())], &[Scalar::Int(splits)], launch) }.into_iter().next()
}
