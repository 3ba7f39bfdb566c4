//! JANG weights (`jang_config.json`): a stream of codes per tensor becomes MLX's affine form without being unpacked.

use super::Tensors;
use super::foreign::{known_groups, sides};
use super::leaves::Packed;
use crate::config::ForeignQuant;
use crate::{Error, Result};
use mlx::{self as mx, Array, Dtype, Quant};
use std::collections::BTreeMap;

/// What a JANG config declares.
#[derive(Debug, Clone)]
pub struct Jang {
    pub group_size: usize,
    /// Bits of tensors whose role is not listed.
    pub bits: usize,
    /// `attention`, `shared_expert`, `routed_expert`, `embed_tokens`, `lm_head`.
    pub role_bits: BTreeMap<String, usize>,
}

/// The role of a module by its path; `None` for norms, dense MLPs and routers.
fn role(path: &str) -> Option<&'static str> {
    let has = |part: &str| path.contains(part);
    Some(match () {
        () if has("embed_tokens") || has("wte") => "embed_tokens",
        () if path.ends_with("lm_head") => "lm_head",
        () if has("shared_expert") => "shared_expert",
        () if has("switch_mlp.") || has(".experts.") => "routed_expert",
        () if has("attn.") || has("attention.") => "attention",
        () => return None,
    })
}

impl Jang {
    /// The declaration, where a checkpoint has one.
    pub fn of(f: &ForeignQuant) -> Option<Jang> {
        match f {
            ForeignQuant::Jang { group_size, bits, role_bits, .. } => {
                Some(Jang { group_size: *group_size, bits: *bits, role_bits: role_bits.clone() })
            }
            _ => None,
        }
    }

    /// The bits of the config against those of the bytes.
    fn check(&self, path: &str, bits: usize) -> Result<(), String> {
        let listed = role(path).and_then(|r| Some((r, *self.role_bits.get(r)?)));
        match listed {
            Some((role, said)) if said != bits => {
                Err(format!("jang_config.json says {said} bits for {role}, the packed bytes say {bits}"))
            }
            None if bits != self.bits && !self.role_bits.values().any(|b| *b == bits) => {
                Err(format!("the packed bytes say {bits} bits, which jang_config.json does not mention"))
            }
            _ => Ok(()),
        }
    }

    /// The packed form of a weight [..rows, input]: `codes` uint8 of any shape, element e in bits e * bits .. of the
    /// stream, lowest first; value = code * scale + bias, one of each per group of consecutive elements.
    ///
    /// # Errors
    /// Bytes that hold no whole number of bits per weight, groups that cross rows, bits or a group other than declared.
    pub(super) fn packed(
        &self,
        path: &str,
        [codes, scales, biases]: [Array; 3],
        rows: &[i32],
        input: i32,
    ) -> Result<Packed> {
        let fail = |m: String| Error::tensor(format!("{path}.weight"), m);
        let n = rows.iter().map(|&r| r as usize).product::<usize>() * input as usize;
        let bytes = codes.size();
        let fits = |b: &usize| (n * b).div_ceil(8) == bytes;
        let Some(bits) = [1, 2, 3, 4, 5, 6, 8].into_iter().find(fits) else {
            return Err(fail(format!("{bytes} bytes do not hold {n} codes of 1 to 6 or 8 bits")));
        };
        self.check(path, bits).map_err(fail)?;
        let groups = scales.size();
        if groups == 0 || biases.size() != groups || !n.is_multiple_of(groups) || n / groups != self.group_size {
            let (b, g) = (biases.size(), self.group_size);
            return Err(fail(format!("{groups} scales and {b} biases are not one of each per {g} of {n} weights")));
        }
        let group = self.group_size as i32;
        if input % group != 0 || !(input as usize * bits).is_multiple_of(32) {
            return Err(fail(format!("rows of {input} weights of {bits} bits do not hold whole groups of {group}")));
        }
        let known = known_groups(group).map_err(fail)?;
        let shape = |last: i32| rows.iter().copied().chain([last]).collect::<Vec<_>>();
        mx::catch(|| {
            let rows = codes.reshape(shape(input * bits as i32 / 8));
            let (rows, bits) = if bits == 1 { (two_bits(&rows), 2) } else { (rows, bits as i32) };
            let side = |a: &Array| sides(a.reshape(shape(input / group)), group, known);
            Packed {
                weight: rows.view(Dtype::Uint32),
                scales: side(&scales),
                biases: Some(side(&biases)),
                quant: Quant::affine(known, bits),
            }
        })
        .map_err(Error::from)
    }
}

/// Codes of one bit as codes of two, which MLX knows: bit i of a byte goes to bit 2 i of a 16-bit word.
fn two_bits(bytes: &Array) -> Array {
    let spread = |byte: u16| (0..8).fold(0u16, |word, i| word | (byte >> i & 1) << (2 * i));
    let table = Array::from((0..256).map(spread).collect::<Vec<u16>>());
    mx::contiguous(&table.take(&bytes.astype(Dtype::Uint32), 0)).view(Dtype::Uint8)
}

/// Gives streams and their sides plain names: `X.weight`, `X.scales`, `X.biases`.
pub(super) fn rename(t: &mut Tensors) -> Result<()> {
    for name in t.select(|n| !n.ends_with("scales") && !n.ends_with("biases")) {
        // the bytes of codes have a book instead of sides
        let codes = name.strip_suffix(".weight").is_some_and(|m| t.has(&format!("{m}.codebook")));
        if codes || !t.is_bytes(&name) {
            continue;
        }
        let weight = name.strip_suffix(".packed").unwrap_or(&name);
        let base = weight.strip_suffix(".weight").unwrap_or(weight).to_owned();
        let plain = format!("{base}.weight");
        let stems = [name.clone(), weight.to_owned(), plain.clone(), base.clone()];
        for side in ["scales", "biases"] {
            let mut found: Vec<String> = stems
                .iter()
                .flat_map(|s| [format!("{s}.{side}"), format!("{s}_{side}")])
                .filter(|n| t.has(n))
                .collect();
            found.sort();
            found.dedup();
            match &found[..] {
                [one] if *one == format!("{base}.{side}") => {}
                [one] => t.rename(one, format!("{base}.{side}"))?,
                [] => return Err(Error::tensor(&name, format!("a packed stream without {side}"))),
                all => return Err(Error::tensor(&name, format!("its {side} are ambiguous: {}", all.join(", ")))),
            }
        }
        if name != plain {
            t.rename(&name, plain)?;
        }
    }
    Ok(())
}
