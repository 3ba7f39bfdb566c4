//! JANGTQ weights: rows in a rotated basis, as codes of a book of 2^bits numbers and a length each. The sidecar
//! `jangtq_runtime.safetensors` holds the books (`codebook.{in}.{bits}`) and the signs of the rotation (`signs.{in}.{seed}`).

use super::{Checkpoint, Tensors};
use crate::{Error, Result};
use mlx::{self as mx, Array, Dtype};
use std::path::Path;

const SIDECAR: &str = "jangtq_runtime.safetensors";

/// Modules `X.tq_packed` [.., out, words], `X.tq_norms` [.., out], `X.tq_bits` become codes that stay packed: a byte of
/// several codes stands for a vector of as many numbers. Three-bit codes, ten to a word, take a byte each.
///
/// # Errors
/// A missing sidecar, no book or signs for a width in it, shapes that do not belong together.
pub fn place_all(t: &mut Tensors) -> Result<()> {
    let packed = t.select(|n| n.ends_with(".tq_packed"));
    if packed.is_empty() {
        return Ok(());
    }
    let file = Path::new(t.origin()).join(SIDECAR);
    let mut side = Tensors::open(&Checkpoint::open(&file)?)?;
    let signs: Vec<(i32, String)> = side
        .names()
        .filter_map(|n| Some((n.strip_prefix("signs.")?.split_once('.')?.0.parse().ok()?, n.to_string())))
        .collect();
    for name in packed {
        let base = name.trim_end_matches(".tq_packed");
        let fail = |m: String| Error::tensor(&name, m);
        let bits = match t.take_number(&format!("{base}.tq_bits"))? {
            bits @ (1 | 2 | 3 | 4 | 8) => bits as i32,
            other => return Err(fail(format!("codes of {other} bits are not supported"))),
        };
        let (words, norms) = (t.take(&name)?, t.take_exact(&format!("{base}.tq_norms"))?);
        let (Some((&n, rows)), lead) = (words.shape().split_last(), norms.shape()) else {
            return Err(fail("has no dimensions".into()));
        };
        if words.dtype() != Dtype::Uint32 || rows != lead || !matches!(rows.len(), 1 | 2) {
            return Err(fail(format!("{} {:?} with lengths {lead:?}", words.dtype(), words.shape())));
        }
        // the last word may not be full, but a byte must be
        let per_word = 32 / bits;
        let fits = |input: i32| (input + per_word - 1) / per_word == n && (bits == 3 || input * bits % 8 == 0);
        let found = signs.iter().find(|(input, _)| fits(*input));
        let (input, signs) = found.ok_or_else(|| fail(format!("{SIDECAR} has no signs for rows of {n} words")))?;
        let book = format!("codebook.{input}.{bits}");
        if side.shape(&book) != Some(&[1 << bits]) || side.shape(signs) != Some(&[*input]) {
            return Err(fail(format!("{SIDECAR} has no {book} of {} numbers or no signs beside it", 1 << bits)));
        }
        let (book, signs) = (keep(&mut side, &book)?, keep(&mut side, signs)?);
        let (codes, book) = mx::catch(|| codes(&words, &book, bits, *input))?;
        t.insert(format!("{base}.weight"), codes);
        t.insert(format!("{base}.codebook"), book);
        t.insert(format!("{base}.global_scale"), norms.astype(Dtype::Float32));
        t.insert(format!("{base}.power_signs"), signs.expand_dims(0));
    }
    Ok(())
}

/// A tensor that further modules need too.
fn keep(side: &mut Tensors, name: &str) -> Result<Array> {
    let a = side.take(name)?;
    side.insert(name, a.clone());
    Ok(a)
}

/// Codes as bytes, and what each byte stands for [entries, numbers].
fn codes(words: &Array, book: &Array, bits: i32, input: i32) -> (Array, Array) {
    if bits == 3 {
        let shifts = Array::from((0..10).map(|i| 3 * i).collect::<Vec<u32>>());
        let all = ((words.expand_dims(-1) >> shifts) & Array::from(7u32)).flatten(-2, -1);
        return (mx::contiguous(&all.slice_axis(-1, 0..input).astype(Dtype::Uint8)), book.expand_dims(-1));
    }
    let per_byte = 8 / bits;
    let bytes = mx::contiguous(words).view(Dtype::Uint8).slice_axis(-1, 0..input / per_byte);
    let entry = |byte: u32| (0..per_byte).map(move |i| byte >> (bits * i) & ((1 << bits) - 1));
    let entries = Array::from((0..256).flat_map(entry).collect::<Vec<u32>>());
    (mx::contiguous(&bytes), book.take(&entries, 0).reshape([256, per_byte]))
}
