//! Attention and rotary embeddings.

use super::{View, is_current, op, takes};
use crate::fast::{self, Mask, Offset, Sdpa};
use crate::{Array, Dtype, plain};
use mlx_kernels as k;
use mlx_kernels::View4Mut;

/// Softmax attention, if a kernel takes it.
pub(crate) fn sdpa(q: &Array, keys: &Array, v: &Array, o: Sdpa<'_>) -> Option<Array> {
    let same = q.dtype() == keys.dtype() && q.dtype() == v.dtype();
    if !takes(q.dtype())
        || !same
        || q.ndim() != 4
        || keys.ndim() != 4
        || v.ndim() != 4
        || o.force_fused
        || !is_current()
    {
        return None;
    }
    let ([b, h, l, d], [kb, kh, s, kd], [vb, vh, vs, dv]) = (q.dims(), keys.dims(), v.dims());
    let fits = kb == b && vb == b && kh == vh && s == vs && d == kd && kh > 0 && h % kh == 0 && s > 0 && l > 0;
    let (causal, mask) = match o.mask {
        None | Some(Mask::None) => (false, None),
        Some(Mask::Causal) => (true, None),
        Some(Mask::Array(m)) => (false, Some(m)),
    };
    let mask_fits = mask.is_none_or(|m| {
        let broadcasts = m.shape().iter().rev().zip([s, l, h, b]).all(|(&d, full)| d == 1 || d == full);
        m.ndim() <= 4 && broadcasts && (m.dtype() == Dtype::Bool || takes(m.dtype()))
    });
    let sinks_fit = o.sinks.is_none_or(|s| s.dtype() == q.dtype() && s.shape() == [h]);
    if !fits || !mask_fits || !sinks_fit || (causal && l > s) {
        return None;
    }
    let mut inputs: smallvec::SmallVec<[&Array; 5]> = [q, keys, v].into_iter().collect();
    inputs.extend(mask);
    inputs.extend(o.sinks);
    let (has_mask, has_sinks, scale) = (mask.is_some(), o.sinks.is_some(), o.scale);
    let kernel = move |i: &[View<'_>], out: &[View<'_>]| {
        let (mut s0, mut s1, mut s2) = (Vec::new(), Vec::new(), Vec::new());
        let mask = match i.get(3).filter(|_| has_mask) {
            None => k::Mask::None,
            Some(m) if m.dtype() == Dtype::Bool => k::Mask::Bool { data: m.bytes(), strides: m.broadcast4()? },
            Some(m) => k::Mask::Add { data: m.floats()?, strides: m.broadcast4()? },
        };
        let sinks = i.get(3 + has_mask as usize).filter(|_| has_sinks).map(View::floats).transpose()?;
        let call = k::Attention {
            q: i[0].view4(&mut s0)?,
            k: i[1].view4(&mut s1)?,
            v: i[2].view4(&mut s2)?,
            scale,
            causal,
            window: None,
            starts: None,
            softcap: None,
            mask,
            sinks,
        };
        let out4 = View4Mut::contiguous(out[0].floats_mut()?, out[0].dims4()?).map_err(|e| e.to_string())?;
        k::attention(&call, out4).map_err(|e| e.to_string())
    };
    let fallback = move |a: &[Array]| {
        // in float32: the BLAS knows no 16-bit products
        let dtype = a[0].dtype();
        let wide = |x: &Array| if x.dtype() == dtype { x.astype(Dtype::Float32) } else { x.clone() };
        let mask = match has_mask {
            true => Mask::Array(wide(&a[3])),
            false if causal => Mask::Causal,
            false => Mask::None,
        };
        let sinks = a.get(3 + has_mask as usize).filter(|_| has_sinks).map(wide);
        let options = Sdpa { scale, mask: Some(&mask), sinks: sinks.as_ref(), force_fused: false };
        plain::sdpa(&wide(&a[0]), &wide(&a[1]), &wide(&a[2]), options).astype(dtype)
    };
    // q, k, v are read where they lie: a cache's slice is not copied
    Some(op(c"scaled_dot_product_attention", &inputs, (&[b, h, l, dv], q.dtype()), 0b111, kernel, fallback))
}

/// Rotary embedding of x [B, H, L, D], if a kernel takes it.
pub(crate) fn rope(x: &Array, r: fast::Rope<'_>, offset: Offset<'_>) -> Option<Array> {
    if !takes(x.dtype()) || x.ndim() != 4 || x.size() == 0 || r.dims % 2 != 0 || r.dims > x.dim(-1) || r.dims <= 0 {
        return None;
    }
    let freqs_fit = r.freqs.is_none_or(|f| f.dtype() == Dtype::Float32 && f.shape() == [r.dims / 2]);
    let (at, rows) = match offset {
        Offset::At(n) => (n, None),
        Offset::Array(a) => (0, Some(a)),
    };
    let rows_fit = rows.is_none_or(|a| a.dtype() == Dtype::Int32 && (a.size() == 1 || a.shape() == [x.dim(0)]));
    if !freqs_fit || !rows_fit || !is_current() {
        return None;
    }
    let mut inputs: smallvec::SmallVec<[&Array; 3]> = std::iter::once(x).collect();
    inputs.extend(r.freqs);
    inputs.extend(rows);
    let (has_freqs, has_rows) = (r.freqs.is_some(), rows.is_some());
    let (dims, traditional, base, scale) = (r.dims, r.traditional, r.base, r.scale);
    let kernel = move |i: &[View<'_>], out: &[View<'_>]| {
        let mut store = Vec::new();
        let offsets: Vec<i32> = match has_rows {
            true => i[1 + has_freqs as usize].indices().into_iter().map(|n| n as i32).collect(),
            false => vec![at],
        };
        let freqs = if has_freqs { k::Freqs::Periods(i[1].floats()?) } else { k::Freqs::Base(base) };
        let rope = k::Rope { dims: dims as usize, traditional, freqs, scale, offsets: &offsets };
        let out4 = View4Mut::contiguous(out[0].floats_mut()?, out[0].dims4()?).map_err(|e| e.to_string())?;
        k::rope(&i[0].view4(&mut store)?, &rope, out4).map_err(|e| e.to_string())
    };
    let fallback = move |a: &[Array]| {
        let rope = fast::Rope { dims, traditional, base, scale, freqs: a.get(1).filter(|_| has_freqs) };
        match a.get(1 + has_freqs as usize).filter(|_| has_rows) {
            Some(o) => plain::rope(&a[0], rope, Offset::Array(o)),
            None => plain::rope(&a[0], rope, Offset::At(at)),
        }
    };
    Some(op(c"rope", &inputs, (x.shape(), x.dtype()), 1, kernel, fallback))
}
