//! Shapes and axes as arguments: arrays, slices, vectors, single numbers and `()`.

use smallvec::SmallVec;

/// A shape argument. `-1` stands for "what is left" where the op allows it (`reshape`, `unflatten`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape(pub(crate) SmallVec<[i32; 6]>);

impl std::ops::Deref for Shape {
    type Target = [i32];
    fn deref(&self) -> &[i32] {
        &self.0
    }
}

/// Which axes an op works on (`axis=None`, `axis=-1`, `axis=(0, 2)` in Python).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Axes {
    All,
    Some(SmallVec<[i32; 6]>),
}

impl Axes {
    /// The axes, each wrapped into `0..ndim`; `Err` names the first one out of range.
    pub(crate) fn resolve(&self, ndim: usize) -> Result<SmallVec<[i32; 6]>, i32> {
        let n = ndim as i32;
        match self {
            Axes::All => Ok((0..n).collect()),
            Axes::Some(axes) => axes
                .iter()
                .map(|&a| if a < -n || a >= n { Err(a) } else { Ok(if a < 0 { a + n } else { a }) })
                .collect(),
        }
    }
}

// a size that does not fit becomes -2: refused by every op, with the shape in the message
fn narrow(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(-2)
}

macro_rules! from_sizes {
    ($($t:ty, $conv:expr);*) => { $(
        impl From<$t> for Shape { fn from(n: $t) -> Self { Shape(smallvec::smallvec![$conv(n)]) } }
        impl<const N: usize> From<[$t; N]> for Shape { fn from(v: [$t; N]) -> Self { Shape(v.into_iter().map($conv).collect()) } }
        impl<const N: usize> From<&[$t; N]> for Shape { fn from(v: &[$t; N]) -> Self { Shape(v.iter().copied().map($conv).collect()) } }
        impl From<&[$t]> for Shape { fn from(v: &[$t]) -> Self { Shape(v.iter().copied().map($conv).collect()) } }
        impl From<Vec<$t>> for Shape { fn from(v: Vec<$t>) -> Self { Shape(v.into_iter().map($conv).collect()) } }
        impl From<&Vec<$t>> for Shape { fn from(v: &Vec<$t>) -> Self { Shape(v.iter().copied().map($conv).collect()) } }
    )* };
}
from_sizes!(i32, |n| n; usize, narrow);

impl From<()> for Shape {
    fn from(_: ()) -> Self {
        Shape::default()
    }
}
impl From<&Shape> for Shape {
    fn from(s: &Shape) -> Self {
        s.clone()
    }
}

impl From<()> for Axes {
    fn from(_: ()) -> Self {
        Axes::All
    }
}
impl From<i32> for Axes {
    fn from(a: i32) -> Self {
        Axes::Some(smallvec::smallvec![a])
    }
}
impl<const N: usize> From<[i32; N]> for Axes {
    fn from(a: [i32; N]) -> Self {
        Axes::Some(a.into_iter().collect())
    }
}
impl From<&[i32]> for Axes {
    fn from(a: &[i32]) -> Self {
        Axes::Some(a.iter().copied().collect())
    }
}
impl From<Vec<i32>> for Axes {
    fn from(a: Vec<i32>) -> Self {
        Axes::Some(a.into_iter().collect())
    }
}
impl From<&Axes> for Axes {
    fn from(a: &Axes) -> Self {
        a.clone()
    }
}
impl<A: Into<Axes>> From<Option<A>> for Axes {
    fn from(a: Option<A>) -> Self {
        a.map_or(Axes::All, Into::into)
    }
}
