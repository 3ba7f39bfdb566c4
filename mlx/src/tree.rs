//! Trees of arrays (`mlx.utils`): what transforms take and give, with a dotted name for every leaf.

use crate::Array;
use crate::nn::Path;
use std::collections::{BTreeMap, HashMap};

pub use mlx_macros::Tree;

/// A value whose leaves are arrays: an array, tuples, vectors, options and maps of them, and structs by
/// `#[derive(Tree)]`.
///
/// ```
/// use mlx::{Tree, array};
/// #[derive(Tree)]
/// struct Batch { x: mlx::Array, y: mlx::Array }
/// let batch = Batch { x: array!([1.0, 2.0]), y: array!([3.0]) };
/// let names: Vec<_> = batch.flatten().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["x", "y"]);
/// let twice = batch.map(|_, a| a * 2.0);
/// assert_eq!(twice.y.item::<f32>()?, 6.0);
/// # Ok::<(), mlx::Error>(())
/// ```
pub trait Tree: Sized {
    /// Calls `f` with the dotted name of every leaf, in a fixed order.
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array));

    /// A tree of the same structure whose leaves are what `f` gives for each leaf, in the order of
    /// [`visit_arrays`](Self::visit_arrays).
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self;

    /// All leaves by name (`tree_flatten`).
    fn flatten(&self) -> Vec<(String, Array)> {
        let mut out = Vec::new();
        self.visit_arrays(&mut Path::new(), &mut |name, a| out.push((name.to_string(), a.clone())));
        out
    }

    /// All leaves.
    fn leaves(&self) -> Vec<Array> {
        let mut out = Vec::new();
        self.visit_arrays(&mut Path::new(), &mut |_, a| out.push(a.clone()));
        out
    }

    /// A tree of this structure with other leaves (`tree_unflatten`).
    ///
    /// # Errors
    /// If there are not as many leaves as this tree has.
    fn with_leaves(&self, leaves: impl IntoIterator<Item = Array>) -> crate::Result<Self> {
        let mut leaves = leaves.into_iter();
        let (mut needed, mut given) = (0, 0);
        let tree = self.map_arrays(&mut Path::new(), &mut |_, old| {
            needed += 1;
            leaves.next().map_or_else(
                || old.clone(),
                |a| {
                    given += 1;
                    a
                },
            )
        });
        let more = leaves.count();
        if given != needed || more > 0 {
            return Err(crate::Error::Data(format!("the tree has {needed} leaves, {} were given", given + more)));
        }
        Ok(tree)
    }

    /// Each leaf replaced by `f(name, leaf)` (`tree_map`, `tree_map_with_path`).
    fn map(&self, mut f: impl FnMut(&str, &Array) -> Array) -> Self {
        self.map_arrays(&mut Path::new(), &mut f)
    }
}

/// Marks trees that hold nothing but arrays and values that may cross threads, so that
/// [`Frozen`](crate::Frozen) may carry them.
///
/// # Safety
/// [`Tree::visit_arrays`] reaches every [`Array`] inside, and everything else inside is `Send + Sync`.
/// `#[derive(Tree)]` implements it for structs without skipped fields.
///
/// ```compile_fail
/// #[derive(mlx::Tree)]
/// struct Bound {
///     a: mlx::Array,
///     #[tree(skip)]
///     r: std::rc::Rc<()>,
/// }
/// fn freeze<T: mlx::Freeze>() {}
/// freeze::<Bound>();
/// ```
pub unsafe trait Freeze: Tree {}

// SAFETY: the only content is the array itself
unsafe impl Freeze for Array {}

impl Tree for Array {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        f(path.as_str(), self);
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        f(path.as_str(), self)
    }
}

impl<T: Tree> Tree for Option<T> {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        if let Some(t) = self {
            t.visit_arrays(path, f);
        }
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        self.as_ref().map(|t| t.map_arrays(path, f))
    }
}
// SAFETY: by its content
unsafe impl<T: Freeze> Freeze for Option<T> {}

impl<T: Tree> Tree for Box<T> {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        (**self).visit_arrays(path, f);
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        Box::new((**self).map_arrays(path, f))
    }
}
// SAFETY: by its content
unsafe impl<T: Freeze> Freeze for Box<T> {}

impl<T: Tree> Tree for Vec<T> {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        for (i, t) in self.iter().enumerate() {
            path.enter(&i.to_string(), |p| t.visit_arrays(p, f));
        }
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        self.iter().enumerate().map(|(i, t)| path.enter(&i.to_string(), |p| t.map_arrays(p, f))).collect()
    }
}
// SAFETY: by its content
unsafe impl<T: Freeze> Freeze for Vec<T> {}

impl<T: Tree, const N: usize> Tree for [T; N] {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        for (i, t) in self.iter().enumerate() {
            path.enter(&i.to_string(), |p| t.visit_arrays(p, f));
        }
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        std::array::from_fn(|i| path.enter(&i.to_string(), |p| self[i].map_arrays(p, f)))
    }
}
// SAFETY: by its content
unsafe impl<T: Freeze, const N: usize> Freeze for [T; N] {}

impl<T: Tree> Tree for BTreeMap<String, T> {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        for (name, t) in self {
            path.enter(name, |p| t.visit_arrays(p, f));
        }
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        self.iter().map(|(name, t)| (name.clone(), path.enter(name, |p| t.map_arrays(p, f)))).collect()
    }
}
// SAFETY: by its content
unsafe impl<T: Freeze> Freeze for BTreeMap<String, T> {}

// in the order of the keys: two walks of equal maps must agree
impl<T: Tree> Tree for HashMap<String, T> {
    fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
        for (name, t) in in_order(self) {
            path.enter(name, |p| t.visit_arrays(p, f));
        }
    }
    fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
        in_order(self).into_iter().map(|(name, t)| (name.clone(), path.enter(name, |p| t.map_arrays(p, f)))).collect()
    }
}
// SAFETY: by its content
unsafe impl<T: Freeze> Freeze for HashMap<String, T> {}

fn in_order<T>(map: &HashMap<String, T>) -> Vec<(&String, &T)> {
    let mut items: Vec<_> = map.iter().collect();
    items.sort_by_key(|(name, _)| *name);
    items
}

impl Tree for () {
    fn visit_arrays(&self, _: &mut Path, _: &mut dyn FnMut(&str, &Array)) {}
    fn map_arrays(&self, _: &mut Path, _: &mut dyn FnMut(&str, &Array) -> Array) -> Self {}
}
// SAFETY: no content
unsafe impl Freeze for () {}

macro_rules! tuple {
    ($($($t:ident $i:tt),+;)*) => { $(
        impl<$($t: Tree),+> Tree for ($($t,)+) {
            fn visit_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array)) {
                $( path.enter(stringify!($i), |p| self.$i.visit_arrays(p, f)); )+
            }
            fn map_arrays(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Array) -> Array) -> Self {
                ($( path.enter(stringify!($i), |p| self.$i.map_arrays(p, f)), )+)
            }
        }
        // SAFETY: by its content
        unsafe impl<$($t: Freeze),+> Freeze for ($($t,)+) {}
    )* };
}
tuple! { A 0; A 0, B 1; A 0, B 1, C 2; A 0, B 1, C 2, D 3; A 0, B 1, C 2, D 3, E 4; A 0, B 1, C 2, D 3, E 4, F 5; }
