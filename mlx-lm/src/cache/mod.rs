//! What layers remember between calls: one cache per layer, built from the kind that its mixer declares.
//!
//! A cache owns its memory discipline: updates go through `&mut self`, the old handle is gone before anything is
//! evaluated, and buffers grow in steps, so that a token costs one in-place write. Rows of a batch may be padded on the
//! left; positions are then one number per row.

mod chunked;
mod concatenate;
mod decode;
mod direct;
mod file;
mod kv;
mod list;
mod mask;
mod open_group;
mod padding;
mod paged;
mod partial;
mod parts;
mod quantized;
mod rotating;
mod slots;
mod snapshot;
mod token_window;

pub use chunked::ChunkedKvCache;
pub use concatenate::ConcatenateKvCache;
pub use decode::Decode;
pub use direct::Direct;
pub use file::{PromptCache, State};
pub use kv::KvCache;
pub use list::CacheList;
pub use mask::{MaskKey, causal_mask};
pub use open_group::OpenGroup;
pub use paged::{Page, PagedKvCache};
pub use quantized::QuantizedKvCache;
pub use rotating::RotatingKvCache;
pub use slots::Slots;
pub use snapshot::{Mark, Snapshot, restore, snapshot};
pub use token_window::TokenWindow;

use crate::blueprint::CacheKind;
use crate::{Error, Result};
use mlx::fast::{Mask, Offset, Sdpa};
use mlx::{self as mx, Array};
use partial::Partial;
use std::any::Any;

/// What every cache that can be cloned is, whatever its kind.
pub trait ErasedCache: Any {
    fn boxed_clone(&self) -> Box<dyn Cache>;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<C: Cache + Clone> ErasedCache for C {
    fn boxed_clone(&self) -> Box<dyn Cache> {
        Box::new(self.clone())
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Clone for Box<dyn Cache> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// The memory of one layer; a kind of its own derives [`Clone`].
pub trait Cache: ErasedCache {
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
    /// A layer that remembers nothing.
    fn is_stateless(&self) -> bool {
        false
    }
    /// How to come back to this point later; caches that can always be trimmed to it note no more than their length.
    fn mark(&self) -> Mark {
        Mark::State(self.boxed_clone())
    }
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        None
    }
    fn as_decode(&mut self) -> Option<&mut dyn Decode> {
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
    /// Bytes of the state once `n` tokens were seen, of a cache that has seen at least one; nothing is computed.
    fn nbytes_at(&self, _n: i32) -> usize {
        self.nbytes()
    }
}

/// Bytes of buffers [.., T, _] if they held `tokens` tokens.
fn nbytes_of<'a>(buffers: impl IntoIterator<Item = &'a Array>, tokens: i32) -> usize {
    buffers.into_iter().map(|a| a.nbytes() / (a.dim(2).max(1) as usize) * tokens.max(0) as usize).sum()
}

/// Tokens in whole steps of a buffer's growth.
fn in_steps(n: i32) -> i32 {
    whole(n, kv::STEP)
}

/// The least multiple of `step` that holds `n`.
fn whole(n: i32, step: i32) -> i32 {
    n.div_euclid(step) * step + if n % step > 0 { step } else { 0 }
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
    /// The cache of this layer as its own type.
    #[track_caller]
    pub fn of<T: Cache>(&mut self) -> &mut T {
        let kind = self.kind();
        match self.as_any_mut().downcast_mut::<T>() {
            Some(c) => c,
            None => panic!("a mixer asked for {}, its cache is {kind}", std::any::type_name::<T>()),
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
        // no fused kernel knows capped scores
        Some(_) => {
            let mut all = Partial::new(q, k.dim(1), a);
            all.add(k, v, 0, k.dim(2) - q.dim(2));
            all.finish()
        }
    }
}

/// Scores [B, Hkv, H / Hkv, 1, S] of the last token to the weights of the values, by a softmax in float32.
fn attention_weights(scores: Array, mask: &Mask) -> Array {
    let mask = match mask {
        Mask::None | Mask::Causal => None,
        Mask::Array(m) => Some(grouped_mask(m, scores.dim(1), scores.dim(2))),
    };
    let scores = match mask {
        None => scores,
        Some(m) if m.dtype() == mx::Dtype::Bool => mx::where_(&m, &scores, lowest(&scores)),
        Some(m) => scores + m,
    };
    mx::softmax_with(&scores, -1, true)
}

/// A mask that broadcasts to [B, H, L, S], as one that broadcasts to [B, Hkv, H / Hkv, L, S].
fn grouped_mask(m: &Array, kv_heads: i32, groups: i32) -> Array {
    match m.ndim() {
        0..=2 => m.clone(),
        n if m.dim(n as i32 - 3) == 1 => m.expand_dims(-3),
        n => m.unflatten(n as i32 - 3, [kv_heads, groups]),
    }
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

/// What a prompt cache is made of (`make_prompt_cache`).
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheOptions {
    /// Keep at most this many tokens per layer, the first four of them for ever (`max_kv_size`). Layers whose cache is
    /// bounded by itself keep their own.
    pub max_size: Option<i32>,
    pub layout: KvLayout,
}

/// How layers that remember all keys and values hold them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvLayout {
    /// One buffer that grows by steps; the fastest.
    #[default]
    Buffer,
    /// Pages that clones share; for layers that attend page by page.
    Paged { page: i32 },
    /// Joined anew with each call.
    Concatenated,
}

impl CacheOptions {
    /// The kind that a layer gets which asks for `kind`.
    ///
    /// # Errors
    /// A size below 1.
    pub fn choose(&self, kind: &CacheKind) -> Result<CacheKind> {
        if let Some(n) = self.max_size.filter(|&n| n < 1) {
            return Err(Error::Request(format!("max_kv_size {n} must be at least 1")));
        }
        Ok(match (kind, self.max_size, self.layout) {
            (CacheKind::Kv | CacheKind::Whole, Some(size), _) => CacheKind::Rotating { size, keep: 4.min(size - 1) },
            (CacheKind::Kv, _, KvLayout::Paged { page }) if page < 1 => {
                return Err(Error::Request(format!("a page of {page} tokens holds nothing")));
            }
            (CacheKind::Kv, _, KvLayout::Paged { page }) => CacheKind::Paged { page },
            (CacheKind::Kv | CacheKind::Whole, _, KvLayout::Concatenated) => CacheKind::Concatenate,
            (CacheKind::List(kinds), ..) => {
                CacheKind::List(kinds.iter().map(|k| self.choose(k)).collect::<Result<_>>()?)
            }
            _ => kind.clone(),
        })
    }
}

/// Builds a cache of this kind.
pub fn make(kind: &CacheKind) -> Result<Box<dyn Cache>> {
    Ok(match kind {
        CacheKind::None => Box::new(Slots::new(0)),
        CacheKind::Kv | CacheKind::Whole | CacheKind::Kept => Box::new(KvCache::new()),
        CacheKind::Paged { page } => Box::new(PagedKvCache::new(*page)),
        CacheKind::Concatenate => Box::new(ConcatenateKvCache::new()),
        CacheKind::Rotating { size, keep } => Box::new(RotatingKvCache::new(*size, *keep)),
        CacheKind::Chunked { size } => Box::new(ChunkedKvCache::new(*size)),
        CacheKind::Slots(n) => Box::new(Slots::new(*n)),
        CacheKind::TokenWindow { size } => Box::new(TokenWindow::new(*size)),
        CacheKind::OpenGroup => Box::new(OpenGroup::default()),
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

/// Brings caches that were read from a file to layers of these kinds: files hold none for layers that remember nothing.
///
/// # Errors
/// Another number of caches, or one that a layer cannot use.
pub fn adopt(kinds: &[CacheKind], stored: Caches) -> Result<Caches> {
    let count = stored.len();
    let wanted = kinds.iter().filter(|k| **k != CacheKind::None).count();
    if count != wanted {
        return Err(Error::Request(format!("the prompt cache has {count} layers, this model needs {wanted}")));
    }
    let mut stored = stored.into_iter();
    let mut all = kinds
        .iter()
        .filter_map(|kind| if *kind == CacheKind::None { Some(make(kind)) } else { stored.next().map(Ok) })
        .collect::<Result<Caches>>()?;
    check(kinds, &mut all)?;
    Ok(all)
}

/// Refuses caches that layers of these kinds cannot use.
///
/// # Errors
/// Another number of caches, one of another kind: the layer is named.
pub fn check(kinds: &[CacheKind], caches: &mut Caches) -> Result<()> {
    if kinds.len() != caches.len() {
        return Err(Error::Request(format!("{} caches for a model of {} layers", caches.len(), kinds.len())));
    }
    for (i, (kind, cache)) in kinds.iter().zip(caches).enumerate() {
        if !fits(kind, cache.as_mut()) {
            let is = cache.kind();
            return Err(Error::Request(format!("layer {i} needs a cache of kind {kind:?}, it was given a {is}")));
        }
    }
    Ok(())
}

/// Whether a layer that declares this kind can use a cache.
fn fits(kind: &CacheKind, cache: &mut dyn Cache) -> bool {
    match kind {
        CacheKind::None | CacheKind::Slots(_) => cache.as_slots().is_some(),
        CacheKind::List(kinds) => cache
            .as_list()
            .is_some_and(|l| l.len() == kinds.len() && kinds.iter().zip(l).all(|(k, c)| fits(k, c.as_mut()))),
        CacheKind::Named(_) => true,
        CacheKind::TokenWindow { .. } => cache.as_any_mut().is::<TokenWindow>(),
        CacheKind::OpenGroup => cache.as_any_mut().is::<OpenGroup>(),
        _ => cache.as_kv().is_some(),
    }
}

/// A cache that keeps nothing: one forward pass over a whole sequence, as in training.
pub fn make_direct(kind: &CacheKind) -> Result<Box<dyn Cache>> {
    Ok(match kind {
        CacheKind::Kv | CacheKind::Whole | CacheKind::Kept | CacheKind::Rotating { .. } => Box::new(Direct::default()),
        CacheKind::Chunked { size } => Box::new(Direct { chunk: Some(*size), segments: None }),
        CacheKind::List(kinds) => Box::new(CacheList::new(kinds.iter().map(make_direct).collect::<Result<_>>()?)),
        other => return make(other),
    })
}

/// As [`make_direct`], for rows of several samples: `segments` numbers them, [B, L].
pub fn make_segmented(kind: &CacheKind, segments: &Array) -> Result<Box<dyn Cache>> {
    match kind {
        CacheKind::Kv | CacheKind::Whole | CacheKind::Rotating { .. } => {
            Ok(Box::new(Direct { chunk: None, segments: Some(segments.clone()) }))
        }
        CacheKind::None => make(kind),
        other => Err(Error::Unsupported {
            what: "packing with cache",
            name: format!("{other:?}"),
            message: "its layer remembers more than keys and values: samples would see each other".into(),
        }),
    }
}

/// When and how keys and values are packed while generating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuant {
    /// Bits of the keys, and of the values unless they have their own.
    pub bits: i32,
    pub value_bits: Option<i32>,
    pub group_size: i32,
    /// Only layers that hold at least this many tokens.
    pub start: i32,
}

impl KvQuant {
    /// Keys and values in `bits` bits from the first token on.
    pub fn new(bits: i32, group_size: i32) -> Self {
        KvQuant { bits, value_bits: None, group_size, start: 0 }
    }
}

/// Packs every plain or rotating KV cache that is long enough (`maybe_quantize_kv_cache`). As in Python, the caches of
/// layers that have several stay as they are.
///
/// # Errors
/// Bits or a group size that MLX does not pack, heads that do not divide into groups.
pub fn quantize(caches: &mut [Box<dyn Cache>], q: KvQuant) -> Result<()> {
    let (group, bits, value_bits) = (q.group_size, q.bits, q.value_bits.unwrap_or(q.bits));
    for c in caches.iter_mut() {
        if c.offset() < q.start.max(1) {
            continue;
        }
        let any = c.as_any_mut();
        if let Some(kv) = any.downcast_mut::<KvCache>() {
            *c = Box::new(mx::try_catch(|| kv.to_quantized(group, bits, value_bits))?);
        } else if let Some(kv) = any.downcast_mut::<RotatingKvCache>().filter(|r| !r.is_quantized()) {
            *c = Box::new(mx::try_catch(|| kv.to_quantized(group, bits, value_bits))?);
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
