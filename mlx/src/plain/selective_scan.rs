//! Mamba's recurrence in chunks of tokens.

use super::prefix::states;
use crate::fast::SelectiveScan;
use crate::{self as mx, Array, Dtype};

/// Tokens whose states exist at the same time.
const CHUNK: i32 = 64;

/// [`crate::fast::selective_scan`].
#[track_caller]
pub fn selective_scan(i: &SelectiveScan<'_>, state: Option<Array>) -> (Array, Array) {
    let [u, dt, a, b, c, skip] = i.arrays().map(|x| x.astype(Dtype::Float32));
    let [rows, l, d] = u.dims();
    let mut state = state.map_or_else(|| mx::zeros([rows, d, a.dim(1)], Dtype::Float32), |s| s.astype(Dtype::Float32));
    let mut out = Vec::new();
    for at in (0..l).step_by(CHUNK as usize) {
        let [dt, u, b, c] = [&dt, &u, &b, &c].map(|x| x.slice_axis(1, at..(at + CHUNK).min(l)));
        let decay = (dt.expand_dims(-1) * &a).exp();
        let input = (dt * &u).expand_dims(-1) * b.expand_dims(2);
        let states = states(&decay, &input, &state);
        out.push((&states * c.expand_dims(2)).sum(-1) + u * &skip);
        state = mx::contiguous(&states.slice_axis(1, -1..states.dim(1)).squeeze(1));
    }
    (if out.len() == 1 { out.remove(0) } else { mx::concatenate(&out, 1) }, state)
}
