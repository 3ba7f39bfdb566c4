//! Launches of the decode attention kernel (`attention.cuh`).

use super::kernel::{Launch, Scalar};
use super::{ATTENTION, COMMON, Gpu, Spec, Table, kernel};
use crate::fast::decode::{DecodeAttention, Place};
use crate::{Array, Dtype, Quant};
use smallvec::SmallVec;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Attention {
    f16: bool,
    head_dim: i32,
    /// Query heads a key head.
    group: i32,
    warps: i32,
    rotation: bool,
    traditional: bool,
    norm: bool,
    sinks: bool,
    starts: bool,
    next: bool,
    /// Bits and group of keys and of values; 0 bits are not packed.
    packed: [[u8; 2]; 2],
    /// How many pages an argument list has room for, of how many keys; none for one buffer.
    pages: Option<(u8, i32)>,
    /// A ring whose rows start apart.
    ring: bool,
}

impl Spec for Attention {
    fn name(&self) -> String {
        format!(
            "attention_{}_d{}g{}w{}_r{}{}n{}s{}p{}x{}_{:?}{:?}{}",
            if self.f16 { "f16" } else { "bf16" },
            self.head_dim,
            self.group,
            self.warps,
            self.rotation as u8,
            self.traditional as u8,
            self.norm as u8,
            self.sinks as u8,
            self.starts as u8,
            self.next as u8,
            self.packed,
            self.pages,
            self.ring as u8,
        )
    }

    fn source(&self, name: &str) -> String {
        let optional = [
            (self.rotation, "const float*", "freq"),
            (self.norm, "const u16*", "q_norm"),
            (self.norm, "const u16*", "k_norm"),
            (self.sinks, "const u16*", "sinks"),
            (self.starts, "const int*", "starts"),
            (true, "int*", "count"),
            (self.next, "const u8*", "next"),
        ];
        let parameters: String = optional.iter().filter(|o| o.0).map(|o| format!("{} {}, ", o.1, o.2)).collect();
        let arguments: String =
            optional.iter().map(|o| if o.0 { format!("{}, ", o.2) } else { "nullptr, ".into() }).collect();
        let threads = self.warps * 32;
        let side = |i: usize, name: &str| match self.packed[i] {
            [0, _] => (
                format!("u8* {name}, "),
                format!("Side{{{name}, nullptr, nullptr}}"),
                format!("DenseRows<{}>", self.head_dim),
            ),
            [bits, group] => (
                format!("u8* {name}, u16* {name}_s, u16* {name}_b, "),
                format!("Side{{{name}, {name}_s, {name}_b}}"),
                format!("PackedRows<{}, {bits}, {group}>", self.head_dim),
            ),
        };
        let paged = |(count, size): (u8, i32), name: &str| {
            let parameters: String = (0..count).map(|i| format!("u8* {name}{i}, ")).collect();
            (
                parameters,
                format!("Side{{(u8*){name}, nullptr, nullptr}}"),
                format!("PagedRows<{}, {size}>", self.head_dim),
            )
        };
        let [keys, values] = match self.pages {
            None => [side(0, "kc"), side(1, "vc")],
            Some(p) => [paged(p, "kc"), paged(p, "vc")],
        };
        // the addresses of pages in a table
        let tables: String = self.pages.map_or(String::new(), |(count, _)| {
            let fill = |name: &str| (0..count).map(|i| format!("{name}[{i}] = {name}{i}; ")).collect::<String>();
            format!(
                "__shared__ u8 *kc[{count}], *vc[{count}];\nif (threadIdx.x == 0) {{ {} {} }}\n__syncthreads();\n",
                fill("kc"),
                fill("vc")
            )
        });
        format!(
            "#define HALF {}\n{COMMON}{ATTENTION}\nextern \"C\" __global__ void __launch_bounds__({threads}) {name}(\
             const u16* qkv, {}{}{parameters}u16* out, float* part, int slot, int last, int place, int cap, int ring, int \
             window, int rot, float eps, float scale, float cap_logit, float feature, int next_bytes) {{\n\
             {tables}attention<{}, {}, {}, {}, {}, {}>(qkv, {}, {}, {arguments}out, part, slot, last, place, cap, {}, window, rot, \
             eps, scale, cap_logit, feature, next_bytes);\n}}\n",
            self.f16 as u8,
            keys.0,
            values.0,
            keys.2,
            values.2,
            self.head_dim,
            self.group,
            self.warps,
            self.traditional,
            keys.1,
            values.1,
            if self.ring { "ring" } else { "0" },
        )
    }
}

thread_local! { static KERNELS: Table<Attention> = Table::default(); }

/// Whether the kernel covers these sizes.
pub(crate) fn is_supported(a: &DecodeAttention, quant: Option<[Quant; 2]>) -> bool {
    let (group, d) = (a.heads / a.kv_heads.max(1), a.head_dim);
    let most = if d <= 128 { 16 } else { 8 };
    // the accumulators of all warps lie in 48 KiB of shared memory, those of a warp in registers
    d % 32 == 0
        && (32..=256).contains(&d)
        && (1..=most).contains(&group)
        && quant.is_none_or(|q| q.iter().all(|q| matches!(q.bits, 4 | 8) && d % q.group_size == 0))
}

const WARPS: i32 = 4;

/// Bytes of the next weight to bring into the cache meanwhile.
const PREFETCH: usize = 12 << 20;

/// The step; writes `counters` and the buffers in place: those of one cache, or the pages of keys and as many of values of
/// so many tokens, the last of which is written. `None` if the card's compiler refuses the kernel.
///
/// The caller owns the buffers, has checked all shapes and dtypes, and keeps the result until readers may follow.
pub(crate) fn attend(
    gpu: &Gpu,
    qkv: &Array,
    (buffers, quant, pages): (&[&Array], Option<[Quant; 2]>, Option<i32>),
    counters: &Array,
    place: Place,
    a: &DecodeAttention,
) -> Option<Array> {
    let ([b, hk, cap, _], d) = (buffers.first()?.dims(), a.head_dim);
    let group = a.heads / hk;
    let spec = Attention {
        f16: qkv.dtype() == Dtype::Float16,
        head_dim: d,
        group,
        warps: WARPS,
        rotation: a.rotation.is_some(),
        traditional: a.rotation.is_some_and(|r| r.traditional),
        norm: a.qk_norm.is_some(),
        sinks: a.sinks.is_some(),
        starts: place.starts().is_some(),
        next: a.next.is_some(),
        packed: quant.map_or([[0; 2]; 2], |q| q.map(|q| [q.bits as u8, q.group_size as u8])),
        pages: pages.map(|size| ((buffers.len() / 2) as u8, size)),
        ring: place.ring() != 0,
    };
    let kernel = kernel(&KERNELS, spec, gpu)?;
    let [slot, last, position] = place.numbers();
    // tiles of 16 keys: at least one a warp, at most as many blocks as fill the card three times
    let seen = a.window.map_or(last + 1, |w| w.min(last + 1)).max(1);
    let tiles = (seen + 15) / 16 + 1;
    let room = (gpu.multiprocessors * 3 / (b * hk)).clamp(1, 64);
    let splits = ((tiles + WARPS - 1) / WARPS).clamp(1, room);
    let mut inputs: SmallVec<[&Array; 14]> = SmallVec::new();
    inputs.push(qkv);
    inputs.extend(buffers.iter().copied());
    let norms = [a.qk_norm.map(|n| n.0), a.qk_norm.map(|n| n.1)];
    inputs.extend([a.rotation.map(|r| r.radians), norms[0], norms[1], a.sinks, place.starts()].into_iter().flatten());
    inputs.push(counters);
    inputs.extend(a.next);
    let scalars = [
        Scalar::Int(slot),
        Scalar::Int(last),
        Scalar::Int(position),
        Scalar::Int(cap),
        Scalar::Int(place.ring()),
        Scalar::Int(a.window.unwrap_or(0)),
        Scalar::Int(a.rotation.map_or(0, |r| 2 * r.radians.dim(0))),
        Scalar::Float(a.qk_norm.map_or(0.0, |n| n.2)),
        Scalar::Float(a.scale),
        Scalar::Float(a.softcap.unwrap_or(0.0)),
        Scalar::Float(a.rotation.map_or(1.0, |r| r.feature_scale)),
        Scalar::Int(a.next.map_or(0, |n| n.nbytes().min(PREFETCH)) as i32),
    ];
    let mut out: SmallVec<[i32; 4]> = qkv.shape().into();
    *out.last_mut()? = a.heads * d;
    let part = [b * hk * splits * group * (d + 2)];
    let launch = Launch { grid: [splits, hk, b], threads: WARPS * 32, shared: 0 };
    // SAFETY: shapes were checked by the caller; slots lie within the buffers; `counters` has a word per group
    let results = unsafe { kernel.call(&inputs, &[(&out, qkv.dtype()), (&part, Dtype::Float32)], &scalars, launch) };
    results.into_iter().next()
}
