//! Codebook weights: codes that stand for vectors of a book, kept as they are stored.

use super::Tensors;
use crate::config::CodedTensor;
use crate::{Error, Result};
use mlx::{self as mx, Array, Dtype};
use std::collections::BTreeMap;

/// Puts all coded tensors in their places; several may share a book.
pub(super) fn place_all(tensors: &[CodedTensor], t: &mut Tensors) -> Result<()> {
    let mut books: BTreeMap<&str, Array> = BTreeMap::new();
    for d in tensors {
        if !books.contains_key(&d.codebook[..]) {
            books.insert(&d.codebook, t.take(&d.codebook)?);
        }
        place(d, &books[&d.codebook[..]], t)?;
    }
    Ok(())
}

/// Puts one tensor's codes [out, in / D] (of experts [E, out, in / D]) and book [entries, D] where its module looks for them: `X.weight`,
/// `X.codebook`.
///
/// # Errors
/// A shape that codes and vectors do not make up, a code without a vector, a weight that another format claims too.
fn place(d: &CodedTensor, book: &Array, t: &mut Tensors) -> Result<()> {
    let fail = |m: String| Error::tensor(&d.tensor, m);
    let Some(base) = d.tensor.strip_suffix(".weight") else {
        return Err(fail("only weights of modules can be coded".into()));
    };
    let taken = [d.tensor.clone(), format!("{base}.scales")];
    if let Some(other) = taken.iter().find(|n| **n != d.codes && t.has(n)) {
        return Err(fail(format!("is coded and there as {other} too")));
    }
    let codes = t.take(&d.codes)?;
    if !matches!(codes.dtype(), Dtype::Uint8 | Dtype::Uint16 | Dtype::Uint32) {
        return Err(fail(format!("codes are {}, not u8, u16 or u32", codes.dtype())));
    }
    let &[entries, width] = book.shape() else {
        return Err(fail(format!("a codebook {:?} is not [entries, D]", book.shape())));
    };
    let Some((&input, lead)) = d.shape.split_last() else { return Err(fail("has no shape".into())) };
    let out = lead.iter().product::<usize>();
    if width < 1 || !input.is_multiple_of(width as usize) {
        return Err(fail(format!("rows of {input} do not divide into vectors of {width}")));
    }
    let per_row = input / width as usize;
    if codes.size() != out * per_row {
        return Err(fail(format!(
            "{} codes, {:?} in vectors of {width} needs {}",
            codes.size(),
            d.shape,
            out * per_row
        )));
    }
    let shape: Vec<i32> = lead.iter().chain([&per_row]).map(|&d| d as i32).collect();
    let codes = mx::catch(|| codes.reshape(&shape[..]))?;
    if !t.is_outline() {
        let largest: u32 = mx::catch(|| codes.max(()).astype(Dtype::Uint32))?.item()?;
        if largest >= entries as u32 {
            return Err(fail(format!("code {largest} is not in a book of {entries}")));
        }
    }
    t.insert(format!("{base}.weight"), codes);
    t.insert(format!("{base}.codebook"), book.clone());
    Ok(())
}
