//! Trees whose structure is known at run time only: what dotted names of a checkpoint spell out (`mlx.utils`).
//!
//! Where the structure is a Rust type, [`Tree`](crate::Tree) does the same with less.

use crate::error::{Error, Result};

/// A leaf, a list, or a map in the order of its insertion.
#[derive(Debug, Clone, PartialEq)]
pub enum Nested<T> {
    Leaf(T),
    List(Vec<Nested<T>>),
    Map(Vec<(String, Nested<T>)>),
}

impl<T> Nested<T> {
    /// All leaves by dotted name (`tree_flatten`); `prefix` comes before each name.
    pub fn flatten(&self, prefix: &str) -> Vec<(String, &T)> {
        let join = |name: &str| if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        match self {
            Nested::Leaf(leaf) => vec![(prefix.to_string(), leaf)],
            Nested::List(items) => {
                items.iter().enumerate().flat_map(|(i, t)| t.flatten(&join(&i.to_string()))).collect()
            }
            Nested::Map(items) => items.iter().flat_map(|(name, t)| t.flatten(&join(name))).collect(),
        }
    }

    /// The tree that the names spell out (`tree_unflatten`): whole numbers make lists, with empty maps in the gaps.
    ///
    /// # Errors
    /// If one name is a leaf and holds others, or an index is absurd.
    pub fn unflatten(leaves: Vec<(String, T)>) -> Result<Nested<T>> {
        const LONGEST: usize = 1 << 20;
        if let [(name, _)] = &leaves[..]
            && name.is_empty()
        {
            return leaves.into_iter().next().map(|(_, leaf)| Nested::Leaf(leaf)).ok_or_else(|| no_tree(""));
        }
        let mut children: Vec<(String, Vec<(String, T)>)> = Vec::new();
        for (name, leaf) in leaves {
            let (first, rest) = name.split_once('.').unwrap_or((&name, ""));
            match children.iter_mut().find(|(n, _)| n == first) {
                Some((_, list)) => list.push((rest.to_string(), leaf)),
                None => children.push((first.to_string(), vec![(rest.to_string(), leaf)])),
            }
        }
        if let Some((name, _)) = children.iter().find(|(_, l)| l.len() > 1 && l.iter().any(|(n, _)| n.is_empty())) {
            return Err(no_tree(name));
        }
        let indices: Option<Vec<usize>> = children.iter().map(|(name, _)| name.parse().ok()).collect();
        let is_list = indices.as_ref().is_some_and(|all| {
            let mut unique = all.clone();
            unique.sort_unstable();
            unique.dedup();
            // "01" and "1" are two names of one index
            unique.len() == all.len() && !all.is_empty()
        });
        let mut built = Vec::with_capacity(children.len());
        for (name, list) in children {
            built.push((name, Nested::unflatten(list)?));
        }
        let (true, Some(indices)) = (is_list, indices) else { return Ok(Nested::Map(built)) };
        let longest = indices.iter().max().map_or(0, |n| n + 1);
        if longest > LONGEST {
            return Err(Error::Data(format!("index {} in a name", longest - 1)));
        }
        let mut items: Vec<Nested<T>> = (0..longest).map(|_| Nested::Map(Vec::new())).collect();
        for (i, (_, t)) in indices.into_iter().zip(built) {
            items[i] = t;
        }
        Ok(Nested::List(items))
    }

    /// Each leaf replaced by `f(name, leaf)` (`tree_map_with_path`).
    pub fn map<U>(&self, f: &mut impl FnMut(&str, &T) -> U) -> Nested<U> {
        self.map_at("", f)
    }

    fn map_at<U>(&self, path: &str, f: &mut impl FnMut(&str, &T) -> U) -> Nested<U> {
        let join = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        match self {
            Nested::Leaf(leaf) => Nested::Leaf(f(path, leaf)),
            Nested::List(items) => {
                Nested::List(items.iter().enumerate().map(|(i, t)| t.map_at(&join(&i.to_string()), f)).collect())
            }
            Nested::Map(items) => {
                Nested::Map(items.iter().map(|(name, t)| (name.clone(), t.map_at(&join(name), f))).collect())
            }
        }
    }

    /// All leaves joined from the left (`tree_reduce`).
    pub fn fold<A>(&self, start: A, f: &mut impl FnMut(A, &T) -> A) -> A {
        match self {
            Nested::Leaf(leaf) => f(start, leaf),
            Nested::List(items) => items.iter().fold(start, |a, t| t.fold(a, f)),
            Nested::Map(items) => items.iter().fold(start, |a, (_, t)| t.fold(a, f)),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Nested::Leaf(_) => false,
            Nested::List(items) => items.is_empty(),
            Nested::Map(items) => items.is_empty(),
        }
    }

    /// A tree with the leaves of both; where both have one, `f` decides (`tree_merge`).
    ///
    /// # Errors
    /// If the two differ in structure, or `f` fails.
    pub fn merge(self, other: Nested<T>, f: &mut impl FnMut(T, T) -> Result<T>) -> Result<Nested<T>> {
        if self.is_empty() != other.is_empty() {
            return Ok(if self.is_empty() { other } else { self });
        }
        match (self, other) {
            (Nested::List(a), Nested::List(b)) => {
                let (mut a, mut b, mut out) = (a.into_iter(), b.into_iter(), Vec::new());
                loop {
                    match (a.next(), b.next()) {
                        (Some(a), Some(b)) => out.push(a.merge(b, f)?),
                        (Some(t), None) | (None, Some(t)) => out.push(t),
                        (None, None) => return Ok(Nested::List(out)),
                    }
                }
            }
            (Nested::Map(mut a), Nested::Map(b)) => {
                for (name, t) in b {
                    match a.iter().position(|(n, _)| *n == name) {
                        None => a.push((name, t)),
                        Some(i) => {
                            let old = std::mem::replace(&mut a[i].1, Nested::List(Vec::new()));
                            a[i].1 = old.merge(t, f)?;
                        }
                    }
                }
                Ok(Nested::Map(a))
            }
            (Nested::Leaf(a), Nested::Leaf(b)) => Ok(Nested::Leaf(f(a, b)?)),
            _ => Err(Error::Data("trees of different structure cannot be merged".into())),
        }
    }
}

fn no_tree(name: &str) -> Error {
    Error::Data(format!("{name} is both a leaf and a branch"))
}
