//! The start of a new family in a checkout of this repository (docs/add-a-model.md).

use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The files that [`new_family`] wrote.
#[derive(Debug, Clone)]
pub struct NewFamily {
    /// The family, as a llama until it is changed.
    pub family: PathBuf,
    /// The list of families, with one more name.
    pub list: PathBuf,
    /// Config and prompt of the golden case, still without recorded values.
    pub case: PathBuf,
}

/// Starts a family: its file, its name in the list, and a golden case.
///
/// # Errors
/// A name that is no `model_type` in lower case, one that exists, a directory that is not a checkout.
pub fn new_family(root: &Path, name: &str) -> Result<NewFamily> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if !name.bytes().all(plain) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(Error::Request(format!(
            "{name:?} is no family name: lower-case letters, digits and _, a letter first"
        )));
    }
    let crate_dir = root.join("mlx-lm");
    let list = crate_dir.join("src/families/mod.rs");
    let text = fs::read_to_string(&list).map_err(|e| Error::io(&list, e))?;
    if crate::families::ALL.iter().any(|f| f.model_types.contains(&name)) {
        return Err(Error::Request(format!("model_type {name} is served already")));
    }
    let (family, case) =
        (crate_dir.join(format!("src/families/{name}.rs")), crate_dir.join(format!("tests/data/families/{name}.json")));
    if let Some(there) = [&family, &case].into_iter().find(|p| p.exists()) {
        return Err(Error::file(there, "is there already"));
    }
    let text = listed(&text, name).ok_or_else(|| Error::file(&list, "has no list `families! { .. }`"))?;
    let write = |path: &Path, text: &str| {
        let dir = path.parent().unwrap_or(root);
        fs::create_dir_all(dir).and_then(|()| fs::write(path, text)).map_err(|e| Error::io(path, e))
    };
    write(&family, &FAMILY.replace("NAME", name))?;
    write(&case, &CASE.replace("NAME", name))?;
    write(&list, &text)?;
    Ok(NewFamily { family, list, case })
}

/// The source of the list with one more name in its place; `None` when there is no list.
fn listed(source: &str, name: &str) -> Option<String> {
    const OPEN: &str = "\nfamilies! {\n";
    let start = source.find(OPEN)? + OPEN.len();
    let end = start + source[start..].find('}')?;
    let entry = format!("    {name},\n");
    let mut lines: Vec<&str> = source[start..end].split_inclusive('\n').collect();
    let at = lines.iter().position(|l| *l >= &entry[..]).unwrap_or(lines.len());
    if lines.get(at) != Some(&&entry[..]) {
        lines.insert(at, &entry);
    }
    Some([&source[..start], &lines.concat(), &source[end..]].concat())
}

const FAMILY: &str = r#"//! NAME: a pre-norm SwiGLU decoder.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["NAME"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    Ok(llama_shape(&d, mixer, swiglu(&d), tied_or(c, false)?))
}
"#;

const CASE: &str = r#"{"case":"NAME","model_type":"NAME","kind":"native","seed":1,"vocab":199,
"config":{"model_type":"NAME","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-05,"rope_theta":10000.0,"vocab_size":199,"tie_word_embeddings":false},
"prompt":[17,140,3,88,121,5,60,198,42,9,150,77,31,8,101,64,2,190,55,13,120,6,45,99]}
"#;
