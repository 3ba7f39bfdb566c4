//! In which order `einsum` multiplies: the greedy rule of NumPy's `einsum_path`, which MLX follows.

use crate::Array;
use crate::error::refuse;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The order of contractions of one [`einsum`](crate::einsum) and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EinsumPath {
    /// Positions of the operands that each step takes out; its result is appended.
    pub steps: Vec<Vec<usize>>,
    /// The subscripts, output included.
    pub contraction: String,
    /// Number of different letters of the largest step, in one go and in the chosen order.
    pub naive_scaling: usize,
    pub scaling: usize,
    /// Multiplications and additions.
    pub naive_flops: usize,
    pub flops: usize,
}

impl fmt::Display for EinsumPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  Complete contraction:  {}", self.contraction)?;
        writeln!(f, "         Naive scaling:  {}", self.naive_scaling)?;
        writeln!(f, "     Optimized scaling:  {}", self.scaling)?;
        writeln!(f, "      Naive FLOP count:  {}", self.naive_flops)?;
        writeln!(f, "  Optimized FLOP count:  {}", self.flops)
    }
}

type Letters = BTreeSet<char>;

struct Cost<'a>(&'a BTreeMap<char, usize>);

impl Cost<'_> {
    fn size(&self, term: &Letters) -> usize {
        term.iter().map(|c| self.0[c]).fold(1, usize::saturating_mul)
    }
    /// One multiplication less than operands, and one addition if a letter is summed.
    fn flops(&self, term: &Letters, summed: bool, operands: usize) -> usize {
        self.size(term).saturating_mul(operands.saturating_sub(1).max(1) + summed as usize)
    }
}

/// One possible next step.
struct Step {
    pair: (usize, usize),
    removed: i128,
    flops: usize,
    result: Letters,
    letters: usize,
}

/// Plans `einsum(subscripts, operands)` without computing it (`mx.einsum_path`).
#[track_caller]
pub fn einsum_path<A: Borrow<Array>>(subscripts: &str, operands: &[A]) -> EinsumPath {
    let shapes: Vec<&[i32]> = operands.iter().map(|a| a.borrow().shape()).collect();
    plan(subscripts, &shapes).unwrap_or_else(|| {
        refuse("einsum_path", format!("subscripts {subscripts:?} do not fit operands of shapes {shapes:?}"))
    })
}

/// Terms with every ellipsis written out in letters that are not in use.
fn terms(subscripts: &str, shapes: &[&[i32]]) -> Option<(Vec<String>, String)> {
    let text: String = subscripts.chars().filter(|c| *c != ' ').collect();
    let (inputs, output) = match text.split_once("->") {
        Some((i, o)) => (i.to_string(), Some(o.to_string())),
        None => (text.clone(), None),
    };
    let spare: Vec<char> = ('A'..='Z').chain('a'..='z').filter(|c| !text.contains(*c)).collect();
    let mut widest = 0;
    let mut list = Vec::new();
    for (term, shape) in inputs.split(',').zip(shapes) {
        let letters = term.chars().filter(char::is_ascii_alphabetic).count();
        if term.replacen("...", "", 1).chars().any(|c| !c.is_ascii_alphabetic()) || letters > shape.len() {
            return None;
        }
        let hidden = if term.contains("...") { shape.len() - letters } else { 0 };
        if letters + hidden != shape.len() || hidden > spare.len() {
            return None;
        }
        widest = widest.max(hidden);
        list.push((term.to_string(), hidden));
    }
    // axes of an ellipsis line up at the right
    let dots = |n: usize| spare[..widest].iter().skip(widest - n).collect::<String>();
    let list: Vec<String> = list.into_iter().map(|(t, n)| t.replacen("...", &dots(n), 1)).collect();
    let output = output.map(|o| o.replacen("...", &dots(widest), 1)).unwrap_or_else(|| {
        let count = |c: char| list.iter().flat_map(|t| t.chars()).filter(|&d| d == c).count();
        let once: Letters = list.iter().flat_map(|t| t.chars()).filter(|&c| count(c) == 1).collect();
        let hidden = dots(widest);
        hidden.chars().chain(once.into_iter().filter(|c| !hidden.contains(*c))).collect()
    });
    (inputs.split(',').count() == shapes.len()).then_some((list, output))
}

fn plan(subscripts: &str, shapes: &[&[i32]]) -> Option<EinsumPath> {
    let (terms, output) = terms(subscripts, shapes)?;
    let mut sizes: BTreeMap<char, usize> = BTreeMap::new();
    for (term, shape) in terms.iter().zip(shapes) {
        for (c, &d) in term.chars().zip(*shape) {
            let size = sizes.entry(c).or_insert(1);
            if *size != 1 && d != 1 && *size != d as usize {
                return None;
            }
            *size = (*size).max(d as usize);
        }
    }
    if output.chars().any(|c| !sizes.contains_key(&c)) {
        return None;
    }
    let cost = Cost(&sizes);
    let keep: Letters = output.chars().collect();
    let mut left: Vec<Letters> = terms.iter().map(|t| t.chars().collect()).collect();
    let at_once = |terms: &[Letters]| {
        let all: Letters = terms.iter().flatten().copied().collect();
        (cost.flops(&all, all.iter().any(|c| !keep.contains(c)), terms.len()), all.len())
    };
    let (naive_flops, naive_scaling) = at_once(&left);
    let mut path = EinsumPath {
        steps: Vec::new(),
        contraction: format!("{}->{output}", terms.join(",")),
        naive_scaling,
        scaling: 0,
        naive_flops,
        flops: 0,
    };
    // no intermediate result may be larger than the largest array at hand
    let limit = left.iter().chain([&keep]).map(|t| cost.size(t)).max()?;
    let mut possible: Vec<Step> = Vec::new();
    let mut fresh: Vec<(usize, usize)> =
        (0..left.len()).flat_map(|i| (i + 1..left.len()).map(move |j| (i, j))).collect();
    while left.len() > 2 {
        let step = |(i, j): (usize, usize)| -> Option<Step> {
            let both: Letters = left[i].union(&left[j]).copied().collect();
            let others = left.iter().enumerate().filter(|(k, _)| *k != i && *k != j).map(|(_, t)| t);
            let needed: Letters = others.chain([&keep]).flatten().copied().collect();
            let result: Letters = both.intersection(&needed).copied().collect();
            let flops = cost.flops(&both, both.len() > result.len(), 2);
            let removed = cost.size(&left[i]) as i128 + cost.size(&left[j]) as i128 - cost.size(&result) as i128;
            let affordable = cost.size(&result) <= limit && path.flops.saturating_add(flops) <= naive_flops;
            affordable.then_some(Step { pair: (i, j), removed, flops, result, letters: both.len() })
        };
        possible.extend(fresh.iter().filter(|(i, j)| !left[*i].is_disjoint(&left[*j])).filter_map(|&p| step(p)));
        if possible.is_empty() {
            possible.extend(fresh.iter().filter_map(|&p| step(p)));
        }
        let Some(best) = possible.iter().enumerate().min_by_key(|(_, s)| (-s.removed, s.flops)).map(|(k, _)| k) else {
            break;
        };
        let Step { pair: (i, j), flops, result, letters, .. } = possible.swap_remove(best);
        path.steps.push(vec![i, j]);
        path.flops += flops;
        path.scaling = path.scaling.max(letters);
        left.remove(j);
        left.remove(i);
        left.push(result);
        possible.retain(|s| ![s.pair.0, s.pair.1].iter().any(|k| *k == i || *k == j));
        let shift = |k: usize| k - (k > i) as usize - (k > j) as usize;
        possible.iter_mut().for_each(|s| s.pair = (shift(s.pair.0), shift(s.pair.1)));
        possible.sort_by_key(|s| s.pair);
        fresh = (0..left.len() - 1).map(|k| (k, left.len() - 1)).collect();
    }
    let (flops, letters) = at_once(&left);
    path.steps.push((0..left.len()).collect());
    path.flops += flops;
    path.scaling = path.scaling.max(letters);
    Some(path)
}
