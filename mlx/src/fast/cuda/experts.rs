//! Launches of the kernels around experts (`experts.cuh`).

use super::kernel::{Launch, Scalar};
use super::{COMMON, EXPERTS, Gpu, Spec, Table, is_half, kernel};
use crate::fast::experts::{RouteScores, RouteWeights, Routing};
use crate::{Array, Dtype};
use smallvec::SmallVec;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Route { per_lane: i32, scores: u8, weights: u8, correction: bool },
    Combine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Around {
    f16: bool,
    kind: Kind,
}

impl Spec for Around {
    fn name(&self) -> String {
        let t = if self.f16 { "f16" } else { "bf16" };
        match self.kind {
            Kind::Route { per_lane, scores, weights, correction } => {
                format!("route_{t}_{per_lane}_{scores}{weights}{}", correction as u8)
            }
            Kind::Combine => format!("combine_{t}"),
        }
    }

    fn source(&self, name: &str) -> String {
        let head = format!("#define HALF {}\n{COMMON}{EXPERTS}\nextern \"C\" __global__ void", self.f16 as u8);
        match self.kind {
            Kind::Route { per_lane, scores, weights, correction } => {
                let (parameter, argument) =
                    if correction { ("const float* correction, ", "correction") } else { ("", "nullptr") };
                format!(
                    "{head} {name}(const u16* logits, {parameter}u32* idx, float* weights, int E, int top, float eps, \
                     float scale) {{\nroute<{per_lane}, {scores}, {weights}>(logits, {argument}, idx, weights, E, top, \
                     eps, scale);\n}}\n"
                )
            }
            Kind::Combine => format!(
                "{head} {name}(const u16* x, const u16* y, const float* weights, u16* out, int slots, int K) {{\n\
                 combine(x, y, weights, out, slots, K);\n}}\n"
            ),
        }
    }
}

thread_local! { static KERNELS: Table<Around> = Table::default(); }

/// Chosen experts (uint32) and their weights (float32), both [..., top].
pub(crate) fn route(gpu: &Gpu, logits: &Array, r: &Routing) -> Option<(Array, Array)> {
    let (experts, f16) = (logits.dim(-1), logits.dtype() == Dtype::Float16);
    let rows = (logits.size() / experts.max(1) as usize) as i32;
    let fits = (1..=512).contains(&experts) && (1..=32.min(experts)).contains(&r.top) && rows > 0;
    let correction = r.correction.is_none_or(|c| c.shape() == [experts] && c.dtype() == Dtype::Float32);
    if !fits || !correction || !is_half(logits.dtype()) {
        return None;
    }
    let (weights, eps) = match r.weights {
        RouteWeights::Scores => (0, 0.0),
        RouteWeights::Normalised(eps) => (1, eps),
        RouteWeights::Softmax => (2, 0.0),
    };
    let scores = match r.scores {
        RouteScores::Logits => 0,
        RouteScores::Softmax => 1,
        RouteScores::Sigmoid => 2,
    };
    let kind = Kind::Route { per_lane: (experts + 31) / 32, scores, weights, correction: r.correction.is_some() };
    let kernel = kernel(&KERNELS, Around { f16, kind }, gpu)?;
    let mut inputs: SmallVec<[&Array; 2]> = SmallVec::new();
    inputs.push(logits);
    inputs.extend(r.correction);
    let mut shape: SmallVec<[i32; 4]> = logits.shape().into();
    *shape.last_mut()? = r.top;
    let scalars = [Scalar::Int(experts), Scalar::Int(r.top), Scalar::Float(eps), Scalar::Float(r.scale)];
    let launch = Launch { grid: [rows, 1, 1], threads: 32, shared: 0 };
    let outputs = [(&shape[..], Dtype::Uint32), (&shape[..], Dtype::Float32)];
    // SAFETY: one warp a row of `experts` logits, `top` results each
    let mut out = unsafe { kernel.call(&inputs, &outputs, &scalars, launch) }.into_iter();
    Some((out.next()?, out.next()?))
}

/// x [.., K] + the weighted sum of y [.., S, K] over S; shapes were checked by the caller.
pub(crate) fn combine(gpu: &Gpu, x: &Array, y: &Array, weights: &Array) -> Option<Array> {
    let (k, slots) = (x.dim(-1), y.dim(-2));
    let rows = (x.size() / k.max(1) as usize) as i32;
    if !is_half(x.dtype()) || k % 8 != 0 || rows == 0 || rows > 65535 {
        return None;
    }
    let kernel = kernel(&KERNELS, Around { f16: x.dtype() == Dtype::Float16, kind: Kind::Combine }, gpu)?;
    let launch = Launch { grid: [(k / 8 + 127) / 128, rows, 1], threads: 128, shared: 0 };
    let scalars = [Scalar::Int(slots), Scalar::Int(k)];
    // SAFETY: threads past K leave; rows and slots are those of the arrays
    unsafe { kernel.call(&[x, y, weights], &[(x.shape(), x.dtype())], &scalars, launch) }.into_iter().next()
}
