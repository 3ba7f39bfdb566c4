//! What layers remember between calls: one cache per layer, built from the kind that its mixer declares.
//!
//! A cache owns its memory discipline: updates go through `&mut self`, the old handle is gone before anything is
//! evaluated, and buffers grow in steps, so that a token costs one in-place write. Rows of a batch may be padded on the
//! left; positions are then one number per row.

mod chunked;
mod direct;
mod file;
mod kv;
mod list;
mod mask;
mod padding;
mod quantized;
mod rotating;
mod slots;

pub use chunked::ChunkedKvCache;
pub use direct::Direct;
pub use file::{PromptCache, State};
pub use kv::KvCache;
pub use list::CacheList;
pub use mask::{MaskKey, causal_mask};
pub use quantized::QuantizedKvCache;
pub use rotating::RotatingKvCache;
pub use slots::Slots;

use crate::blueprint::CacheKind;
use crate::{Error, Result};
use mlx::fast::{Mask, Offset, Sdpa};
use mlx::{self as mx, Array};
use std::any::Any;

/// The memory of one layer.
pub trait Cache: Any {
    /// The Python class name, as prompt-cache files carry it.
    fn kind(&self) -> &'static str;
    /// Tokens seen so far.
    fn offset(&self) -> i32;
    /// Calls `f` with every array of the state.
    fn each(&self, f: &mut dyn FnMut(&Array));
    /// Forgets the last `n` tokens where that is possible; returns how many were forgotten.
    fn trim(&mut self, _n: i32) -> i32 {
        0
    }
    fn is_trimmable(&self) -> bool {
        false
    }
    fn boxed_clone(&self) -> Box<dyn Cache>;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        None
    }
    fn as_slots(&mut self) -> Option<&mut Slots> {
        None
    }
    fn as_list(&mut self) -> Option<&mut [Box<dyn Cache>]> {
        None
    }
    /// Rows of the batch that this cache holds.
    fn rows(&self) -> usize {
        let mut n = None;
        self.each(&mut |a| n = n.or(Some(a.dim(0) as usize)));
        n.unwrap_or(1)
    }
    /// Appends the rows of `other`, a cache of the same kind; shorter rows are padded on the left.
    ///
    /// # Errors
    /// This kind of cache holds one row only, or the two do not go together.
    fn join(&mut self, _other: Box<dyn Cache>) -> Result<()> {
        Err(cannot_batch(self.kind()))
    }
    /// Keeps these rows, in this order.
    fn keep_rows(&mut self, _rows: &[usize]) -> Result<()> {
        Err(cannot_batch(self.kind()))
    }
    /// A cache of one row, without padding.
    fn row(&self, i: usize) -> Result<Box<dyn Cache>> {
        let mut one = self.boxed_clone();
        one.keep_rows(&[i])?;
        Ok(one)
    }
    /// The state as prompt-cache files hold it.
    fn state(&self) -> State {
        State::None
    }
    /// Bytes of the state.
    fn nbytes(&self) -> usize {
        let mut n = 0;
        self.each(&mut |a| n += a.nbytes());
        n
    }
}

impl dyn Cache + '_ {
    /// The keys and values of this layer; a mixer asks only for what it declared.
    #[track_caller]
    pub fn kv(&mut self) -> &mut dyn Kv {
        let kind = self.kind();
        match self.as_kv() {
            Some(kv) => kv,
            None => panic!("a mixer asked for keys and values, its cache is {kind}"),
        }
    }
    /// The recurrent slots of this layer.
    #[track_caller]
    pub fn slots(&mut self) -> &mut Slots {
        let kind = self.kind();
        match self.as_slots() {
            Some(s) => s,
            None => panic!("a mixer asked for recurrent slots, its cache is {kind}"),
        }
    }
    /// One of several caches of this layer.
    #[track_caller]
    pub fn part(&mut self, i: usize) -> &mut dyn Cache {
        let kind = self.kind();
        match self.as_list().and_then(|l| l.get_mut(i)) {
            Some(c) => c.as_mut(),
            None => panic!("a layer asked for its cache number {i}, it has {kind}"),
        }
    }
}

fn cannot_batch(kind: &str) -> Error {
    Error::Unsupported { what: "batching of cache", name: kind.into(), message: "it holds one sequence".into() }
}

/// Rows `rows` of an array along its first axis.
fn take_rows(a: &Array, rows: &[usize]) -> Array {
    let rows: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
    mx::contiguous(&a.take(&Array::from(rows), 0))
}

/// Position of the first new token: one for all rows, or one per row (int32 `[B]`).
#[derive(Debug, Clone)]
pub enum Position {
    At(i32),
    Rows(Array),
}

impl Position {
    /// As the rope op takes it.
    pub fn offset(&self) -> Offset<'_> {
        match self {
            Position::At(n) => Offset::At(*n),
            Position::Rows(a) => Offset::Array(a),
        }
    }
    /// The positions of `n` new tokens: int32 `[n]`, or [B, n] for rows.
    pub fn range(&self, n: i32) -> Array {
        match self {
            Position::At(at) => mx::arange(*at, at + n, 1, None),
            Position::Rows(a) => a.expand_dims(-1) + mx::arange(0, n, 1, None),
        }
    }
}

/// How a query attends.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    pub scale: f32,
    pub mask: &'a Mask,
    /// One logit per head without a value.
    pub sinks: Option<&'a Array>,
    /// `cap * tanh(scores / cap)`.
    pub softcap: Option<f32>,
}

/// Keys and values of one layer.
pub trait Kv {
    /// Where the next token stands.
    fn position(&self) -> Position;
    /// Appends k, v [B, Hkv, L, D] and returns all that the new queries may see.
    fn update(&mut self, k: Array, v: Array) -> (Array, Array);
    /// All keys and values without an update; `None` when empty.
    fn fetch(&self) -> Option<(Array, Array)>;
    /// Which keys the next `n` queries see, called before their update.
    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask;
    /// What the mask depends on: layers with equal keys share one mask per step.
    fn mask_key(&self) -> MaskKey;
    /// Appends and attends: q [B, H, L, D] -> [B, H, L, Dv].
    fn attend(&mut self, q: &Array, k: Array, v: Array, a: Attend<'_>) -> Array {
        let (k, v) = self.update(k, v);
        sdpa(q, &k, &v, a)
    }
}

/// Plain attention over given keys and values.
pub fn sdpa(q: &Array, k: &Array, v: &Array, a: Attend<'_>) -> Array {
    match a.softcap {
        None => mx::fast::scaled_dot_product_attention(
            q,
            k,
            v,
            Sdpa { scale: a.scale, mask: Some(a.mask), sinks: a.sinks, force_fused: false },
        ),
        Some(cap) => capped(q, k, v, a, cap),
    }
}

/// Attention with capped scores: no fused kernel knows it.
fn capped(q: &Array, k: &Array, v: &Array, a: Attend<'_>, cap: f32) -> Array {
    let [b, h, l, d] = q.dims();
    let groups = k.dim(1);
    let q = (q * a.scale).reshape([b, groups, h / groups, l, d]);
    let (k, v) = (k.expand_dims(2), v.expand_dims(2));
    let scores = (q.matmul(&k.swapaxes(-1, -2)) / cap).tanh() * cap;
    attention_weights(scores, a.mask).matmul(&v).reshape([b, h, l, -1])
}

/// Scores [B, Hkv, H / Hkv, L, S] to the weights of the values, by a softmax in float32.
fn attention_weights(scores: Array, mask: &Mask) -> Array {
    let (l, s) = (scores.dim(-2), scores.dim(-1));
    let mask = match mask {
        Mask::None => None,
        Mask::Causal => Some(causal_mask(l, s - l, None, None)),
        // a batch mask [B, 1, L, S] gets the axis of the groups
        Mask::Array(m) if m.ndim() == 4 => Some(m.expand_dims(2)),
        Mask::Array(m) => Some(m.clone()),
    };
    let scores = match mask {
        None => scores,
        Some(m) if m.dtype() == mx::Dtype::Bool => mx::where_(&m, &scores, lowest(&scores)),
        Some(m) => scores + m,
    };
    mx::softmax_with(&scores, -1, true)
}

/// The most negative finite number of an array's dtype, as a 0-d array.
pub fn lowest(like: &Array) -> Array {
    let value = match like.dtype() {
        mx::Dtype::Float16 => -65504.0,
        mx::Dtype::Bfloat16 => -3.3895314e38,
        _ => f32::MIN as f64,
    };
    Array::scalar(value, like.dtype())
}

/// The caches of all layers of a model.
pub type Caches = Vec<Box<dyn Cache>>;

/// Builds a cache of this kind.
pub fn make(kind: &CacheKind) -> Result<Box<dyn Cache>> {
    Ok(match kind {
        CacheKind::None => Box::new(Slots::new(0)),
        CacheKind::Kv => Box::new(KvCache::new()),
        CacheKind::Rotating { size, keep } => Box::new(RotatingKvCache::new(*size, *keep)),
        CacheKind::Chunked { size } => Box::new(ChunkedKvCache::new(*size)),
        CacheKind::Slots(n) => Box::new(Slots::new(*n)),
        CacheKind::List(kinds) => Box::new(CacheList::new(kinds.iter().map(make).collect::<Result<_>>()?)),
        other => {
            return Err(Error::Unsupported {
                what: "cache",
                name: format!("{other:?}"),
                message: "no such cache is registered".into(),
            });
        }
    })
}

/// A cache that keeps nothing: one forward pass over a whole sequence, as in training.
pub fn make_direct(kind: &CacheKind) -> Result<Box<dyn Cache>> {
    Ok(match kind {
        CacheKind::Kv | CacheKind::Rotating { .. } => Box::new(Direct::default()),
        CacheKind::Chunked { size } => Box::new(Direct { chunk: Some(*size) }),
        CacheKind::List(kinds) => Box::new(CacheList::new(kinds.iter().map(make_direct).collect::<Result<_>>()?)),
        other => return make(other),
    })
}

/// When and how keys and values are packed while generating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuant {
    pub bits: i32,
    pub group_size: i32,
    /// Only layers that hold at least this many tokens.
    pub start: i32,
}

/// Packs every plain KV cache that is long enough (`maybe_quantize_kv_cache`).
pub fn quantize(caches: &mut Caches, q: KvQuant) -> Result<()> {
    for c in caches.iter_mut().filter(|c| c.offset() >= q.start.max(1)) {
        if let Some(kv) = c.as_any_mut().downcast_mut::<KvCache>() {
            let packed = mx::try_catch(|| kv.to_quantized(q.group_size, q.bits))?;
            *c = Box::new(packed);
        }
    }
    Ok(())
}

/// Forgets the last `n` tokens in every layer; 0 when a layer cannot (`trim_prompt_cache`).
pub fn trim(caches: &mut Caches, n: i32) -> i32 {
    if caches.is_empty() || !caches.iter().all(|c| c.is_trimmable()) {
        return 0;
    }
    caches.iter_mut().map(|c| c.trim(n)).min().unwrap_or(0)
}
