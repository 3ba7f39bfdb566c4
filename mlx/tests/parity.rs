//! The table of Python names and their Rust items, `docs/parity.md`.
//!
//! `MLX_PARITY_UPDATE=1 cargo test -p mlx --test parity` writes the table anew, from the list of Python's names, the
//! exceptions in `tests/data/parity.txt` and the recorded calls. The plain test checks that it is up to date and that
//! no row lacks an item or a proof; `parity_/items.rs`, written with it, makes the compiler check the items.

mod parity_ {
    #[rustfmt::skip]
    #[allow(unused_imports)]
    pub mod items;
}

use flate2::read::GzDecoder;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn unpacked(path: PathBuf) -> Json {
    let mut text = String::new();
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Recorded calls by function.
fn records() -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let areas = [
        "ops",
        "indexing",
        "fast",
        "linalg",
        "fft",
        "random",
        "quantized",
        "dtypes",
        "nn",
        "losses",
        "optim",
        "transforms",
    ];
    for area in areas {
        let json = unpacked(root().join(format!("tests/data/conformance/{area}.json.gz")));
        for case in json["cases"].as_array().unwrap() {
            *count.entry(case["fn"].as_str().unwrap().to_string()).or_insert(0) += 1;
        }
    }
    count
}

/// One line of the exceptions.
#[derive(Clone, Default)]
struct Entry {
    items: String,
    proof: String,
    note: String,
}

fn exceptions() -> BTreeMap<String, Entry> {
    let text = std::fs::read_to_string(root().join("tests/data/parity.txt")).unwrap();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines
        .map(|l| {
            let (name, rest) = l.split_once('=').unwrap_or_else(|| panic!("no `=` in {l}"));
            let mut parts = rest.split(" | ").map(|p| p.trim().trim_start_matches("| ").to_string());
            let mut next = || parts.next().unwrap_or_default();
            let entry = Entry { items: next(), proof: next(), note: next() };
            (name.trim().to_string(), entry)
        })
        .collect()
}

/// Where the names of a Python module live in Rust, and what their records are called.
fn home(module: &str) -> (&'static str, &'static str) {
    match module {
        "mlx.core" => ("mx::", "mx."),
        "mlx.core.fast" => ("mx::fast::", "mx.fast."),
        "mlx.core.linalg" => ("mx::linalg::", "mx.linalg."),
        "mlx.core.fft" => ("mx::fft::", "mx.fft."),
        "mlx.core.random" => ("mx::random::", "mx.random."),
        "mlx.core.distributed" => ("mx::distributed::", "mx.distributed."),
        "mlx.core.metal" => ("mx::metal::", "mx.metal."),
        "mlx.core.array" => ("Array::", "array."),
        "mlx.core.ArrayAt" => ("At::", "array.at."),
        "mlx.nn" => ("mx::nn::", "nn."),
        "mlx.nn.losses" => ("mx::nn::losses::", "nn.losses."),
        "mlx.nn.init" => ("mx::nn::init::", "nn.init."),
        "mlx.optimizers" => ("mx::optim::", "optimizers."),
        "mlx.utils" => ("mx::", "utils."),
        _ => ("", ""),
    }
}

struct Row {
    python: String,
    items: String,
    proof: String,
    note: String,
}

fn rows() -> Vec<Row> {
    let (names, records, exceptions) =
        (unpacked(root().join("tests/data/python-api.json.gz")), records(), exceptions());
    let mut used = BTreeSet::new();
    let mut rows = Vec::new();
    for module in names["modules"].as_array().unwrap() {
        let path = module[0].as_str().unwrap();
        let (place, prefix) = home(path);
        for name in module[1].as_array().unwrap() {
            let (name, reason) = (name[0].as_str().unwrap(), name[2].as_str().unwrap());
            let python = format!("{path}.{name}");
            let exact = exceptions.get(&python).map(|e| (python.clone(), e.clone()));
            let any = exceptions.get(&format!("{path}.*")).map(|e| (format!("{path}.*"), e.clone()));
            let (key, mut entry) = exact.or(any).unwrap_or_default();
            used.insert(key);
            if entry.items.is_empty() && entry.proof.is_empty() && !reason.is_empty() {
                rows.push(Row {
                    python,
                    items: "—".into(),
                    proof: "—".into(),
                    note: format!("not portable: {reason}"),
                });
                continue;
            }
            if entry.items.is_empty() {
                entry.items = format!("{place}{name}");
            }
            entry.items = entry.items.replace("::*", &format!("::{name}"));
            let spellings = [format!("{prefix}{name}"), format!("mx.{name}"), format!("{prefix}{name}.init")];
            let method = path == "mlx.core.array" && !name.starts_with("__");
            let spellings = spellings.iter().enumerate().filter(|(i, _)| *i != 1 || method).map(|(_, s)| s);
            let count: usize = spellings
                .flat_map(|s| [s.clone(), format!("dtypes:{s}"), format!("grad:{s}")])
                .map(|s| records.get(&s).copied().unwrap_or(0))
                .sum();
            let proof = match (count, entry.proof.as_str()) {
                (0, proof) => proof.to_string(),
                (n, "") => format!("{n} records"),
                (n, proof) => format!("{n} records, {proof}"),
            };
            rows.push(Row { python, items: entry.items, proof, note: entry.note });
        }
    }
    for key in exceptions.keys() {
        assert!(used.contains(key), "{key} in parity.txt is no Python name");
    }
    rows
}

/// The items of a row that are paths of the crate: the compiler can check them.
fn paths(rows: &[Row]) -> BTreeSet<String> {
    let items = rows.iter().flat_map(|r| r.items.split(", "));
    items.filter(|i| i.starts_with("mx::") && !i.contains(' ')).map(str::to_string).collect()
}

fn table(rows: &[Row]) -> String {
    let portable = rows.iter().filter(|r| r.items != "—").count();
    let mut out = String::from("# Parity with Python's MLX 0.32.2\n\n");
    let _ = write!(
        out,
        "Every public name of `mlx.core`, `mlx.nn`, `mlx.optimizers` and `mlx.utils`: {portable} of {} have a Rust item, the others \
         say why not. `mx` is the crate `mlx`. *Records* are calls recorded in Python and replayed by `tests/conformance.rs`; \
         other proofs are modules of `mlx/tests`.\n\nWritten by `MLX_PARITY_UPDATE=1 cargo test -p mlx --test parity`.\n",
        rows.len()
    );
    let mut module = "";
    for r in rows {
        let (m, name) = r.python.rsplit_once('.').unwrap();
        if m != module {
            module = m;
            let _ = write!(out, "\n## {m}\n\n| Python | Rust | proof | notes |\n|---|---|---|---|\n");
        }
        let items: Vec<String> = r
            .items
            .split(", ")
            .map(|i| if i.contains("::") && !i.contains(' ') { format!("`{i}`") } else { i.to_string() })
            .collect();
        let cell = |s: &str| s.replace('|', "\\|");
        let _ = writeln!(out, "| `{name}` | {} | {} | {} |", cell(&items.join(", ")), cell(&r.proof), cell(&r.note));
    }
    out
}

fn items_file(rows: &[Row]) -> String {
    let mut out = String::from(
        "//! Written by the parity test: the compiler checks that these items exist.\n\nuse mlx as mx;\n\n",
    );
    for path in paths(rows) {
        let _ = writeln!(out, "pub use {path} as _;");
    }
    out
}

#[test]
fn the_table_is_complete_and_up_to_date() {
    let rows = rows();
    let blank = |r: &&Row| r.items.is_empty() || r.proof.is_empty() || r.items == "—" && r.note.len() <= 14;
    let blanks: Vec<&str> = rows.iter().filter(blank).map(|r| r.python.as_str()).collect();
    assert!(blanks.is_empty(), "rows without an item, a proof or a reason: {blanks:?}");
    let files =
        [(root().join("../docs/parity.md"), table(&rows)), (root().join("tests/parity_/items.rs"), items_file(&rows))];
    let update = std::env::var_os("MLX_PARITY_UPDATE").is_some();
    for (path, text) in files {
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is out of date: run with MLX_PARITY_UPDATE=1", path.display());
    }
}

/// All source of the crate and its macros.
fn source(dir: &Path, out: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn the_methods_named_exist_in_the_source() {
    let mut text = String::new();
    source(&root().join("src"), &mut text);
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for r in rows() {
        for item in r.items.split(", ").filter(|i| !i.starts_with("mx::") && i.contains("::") && !i.contains(' ')) {
            for part in item.split("::") {
                assert!(words.contains(part), "{}: no `{part}` of {item} in the source", r.python);
            }
        }
    }
}
