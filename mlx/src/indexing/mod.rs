//! Indexing with Python's meaning: `x.i((.., 1..3))` reads, `x.set(0, v)` assigns, `x.at(0).add(v)` accumulates.
//!
//! An index is one item or a tuple of items: integers, ranges (`1..3`, `..-1`, `2..`, `..`, [`step`]`(.., -1)`),
//! [`ELLIPSIS`], [`NEW_AXIS`], integer arrays (`&Array`, `&[i32]`, `[i32; N]`) and, in assignments, one bool mask.
//! Integers and ranges count from the end when negative. A written integer out of range panics; ranges are clipped;
//! values of index arrays are clipped to the axis, because nobody can know them before evaluation.
//!
//! Two notes for those who come from Python: `..` is Python's `:` (one axis), [`ELLIPSIS`] is `...`; a bool array can
//! select in an assignment but not in a read, whose shape would depend on values.

mod plan;
mod read;
mod write;

use crate::Array;
use crate::error::refuse;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

pub use write::At;

/// One item of an index.
#[derive(Debug, Clone)]
pub enum Index<'a> {
    /// One position; the axis goes.
    At(i32),
    /// A range of positions; the axis stays.
    Slice(Slice),
    /// As many whole axes as are left (`...`).
    Ellipsis,
    /// A new axis of size 1 (`None`).
    NewAxis,
    /// Positions by value (integers), or a mask (bool, assignments only).
    Array(Cow<'a, Array>),
}

/// All axes that the other items leave (`...` in Python).
pub const ELLIPSIS: Index<'static> = Index::Ellipsis;
/// A new axis of size 1 (`None` or `mx.newaxis` in Python).
pub const NEW_AXIS: Index<'static> = Index::NewAxis;

/// `start:stop:step`; `None` stands for the end that the direction implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub start: Option<i32>,
    pub stop: Option<i32>,
    pub step: i32,
}

/// Every `n`-th position of a range, backwards if `n` is negative: `step(.., -1)` is `::-1`, `step(1..7, 2)` is `1:7:2`.
#[track_caller]
pub fn step(range: impl Into<Slice>, n: i32) -> Slice {
    if n == 0 {
        refuse("index", "a step of zero");
    }
    Slice { step: n, ..range.into() }
}

/// Items of one index.
pub type Indices<'a> = SmallVec<[Index<'a>; 4]>;

/// What can stand in brackets: an item or a tuple of items.
pub trait IntoIndices<'a> {
    fn into_indices(self) -> Indices<'a>;
}

#[track_caller]
fn narrow(n: usize) -> i32 {
    i32::try_from(n).unwrap_or_else(|_| refuse("index", format!("{n} is beyond any axis")))
}

/// The stop of a range that includes `last`; -1 is the last position, one more is "to the end", not 0.
fn after(last: i32) -> Option<i32> {
    (last != -1).then_some(last.saturating_add(1))
}

macro_rules! ranges {
    ($($t:ty, $conv:expr);*) => { $(
        impl From<Range<$t>> for Slice {
            fn from(r: Range<$t>) -> Self { Slice { start: Some($conv(r.start)), stop: Some($conv(r.end)), step: 1 } }
        }
        impl From<RangeFrom<$t>> for Slice {
            fn from(r: RangeFrom<$t>) -> Self { Slice { start: Some($conv(r.start)), stop: None, step: 1 } }
        }
        impl From<RangeTo<$t>> for Slice {
            fn from(r: RangeTo<$t>) -> Self { Slice { start: None, stop: Some($conv(r.end)), step: 1 } }
        }
        impl From<RangeInclusive<$t>> for Slice {
            fn from(r: RangeInclusive<$t>) -> Self {
                Slice { start: Some($conv(*r.start())), stop: after($conv(*r.end())), step: 1 }
            }
        }
        impl From<RangeToInclusive<$t>> for Slice {
            fn from(r: RangeToInclusive<$t>) -> Self { Slice { start: None, stop: after($conv(r.end)), step: 1 } }
        }
        items! {
            $t => |n| Index::At($conv(n));
            Range<$t> => |r: Range<$t>| Index::Slice(r.into());
            RangeFrom<$t> => |r: RangeFrom<$t>| Index::Slice(r.into());
            RangeTo<$t> => |r: RangeTo<$t>| Index::Slice(r.into());
            RangeInclusive<$t> => |r: RangeInclusive<$t>| Index::Slice(r.into());
            RangeToInclusive<$t> => |r: RangeToInclusive<$t>| Index::Slice(r.into());
        }
    )* };
}

macro_rules! items {
    ($($t:ty => $f:expr;)*) => { $(
        impl<'a> From<$t> for Index<'a> {
            #[track_caller]
            fn from(v: $t) -> Self { let f: fn($t) -> Index<'a> = $f; f(v) }
        }
        impl<'a> IntoIndices<'a> for $t {
            #[track_caller]
            fn into_indices(self) -> Indices<'a> { smallvec::smallvec![Index::from(self)] }
        }
    )* };
}
ranges!(i32, |n| n; usize, narrow);
items! {
    RangeFull => |_| Index::Slice((..).into());
    Slice => Index::Slice;
    Array => |a| Index::Array(Cow::Owned(a));
    &'a Array => |a| Index::Array(Cow::Borrowed(a));
    &[i32] => |v| Index::Array(Cow::Owned(v.into()));
    Vec<i32> => |v| Index::Array(Cow::Owned(v.into()));
    bool => |v| Index::Array(Cow::Owned(v.into()));
}

impl From<RangeFull> for Slice {
    fn from(_: RangeFull) -> Self {
        Slice { start: None, stop: None, step: 1 }
    }
}
impl<const N: usize> From<[i32; N]> for Index<'_> {
    fn from(v: [i32; N]) -> Self {
        Index::Array(Cow::Owned(v.into()))
    }
}
impl<'a, const N: usize> IntoIndices<'a> for [i32; N] {
    fn into_indices(self) -> Indices<'a> {
        smallvec::smallvec![self.into()]
    }
}
impl<'a> IntoIndices<'a> for Index<'a> {
    fn into_indices(self) -> Indices<'a> {
        smallvec::smallvec![self]
    }
}
impl<'a> IntoIndices<'a> for Indices<'a> {
    fn into_indices(self) -> Indices<'a> {
        self
    }
}
impl<'a> IntoIndices<'a> for Vec<Index<'a>> {
    fn into_indices(self) -> Indices<'a> {
        self.into()
    }
}
impl<'a> IntoIndices<'a> for () {
    fn into_indices(self) -> Indices<'a> {
        Indices::new()
    }
}

macro_rules! tuples {
    ($(($($t:ident $n:tt),*))*) => { $(
        impl<'a, $($t: Into<Index<'a>>),*> IntoIndices<'a> for ($($t,)*) {
            #[track_caller]
            fn into_indices(self) -> Indices<'a> { smallvec::smallvec![$(self.$n.into()),*] }
        }
    )* };
}
tuples! {
    (A 0) (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3) (A 0, B 1, C 2, D 3, E 4) (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6) (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
}
