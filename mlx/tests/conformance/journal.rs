//! Long runs on other devices: which records a process takes, and what it has already found out.
//!
//! `MLX_CONFORMANCE_PART=i/n` takes every n-th record. `MLX_CONFORMANCE_JOURNAL=FILE` writes each verdict as it comes; a
//! run with the same file goes on behind the record at which the last one died.

use super::verdict::Verdict;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

pub struct Journal {
    part: (usize, usize),
    known: HashMap<String, Verdict>,
    file: Option<File>,
    seen: usize,
}

impl Journal {
    pub fn open() -> Journal {
        let part = std::env::var("MLX_CONFORMANCE_PART").ok().map(|p| {
            let (i, n) = p.split_once('/').expect("MLX_CONFORMANCE_PART is i/n");
            (i.parse().expect("a number"), n.parse().expect("a number"))
        });
        let path = std::env::var_os("MLX_CONFORMANCE_JOURNAL");
        let mut known = HashMap::new();
        for line in path
            .iter()
            .filter_map(|p| std::fs::read_to_string(p).ok())
            .flat_map(|t| t.lines().map(String::from).collect::<Vec<_>>())
        {
            let Some((key, verdict)) = line.split_once('\t') else { continue };
            known.insert(key.to_owned(), read(verdict));
        }
        let file = path.map(|p| File::options().create(true).append(true).open(p).expect("the journal can be written"));
        Journal { part: part.unwrap_or((0, 1)), known, file, seen: 0 }
    }

    /// The verdict on the next record, from the journal or from `check`; `None` if it is another process's.
    pub fn verdict(&mut self, key: &str, check: impl FnOnce() -> Verdict) -> Option<Verdict> {
        self.seen += 1;
        if self.seen % self.part.1 != self.part.0 {
            return None;
        }
        if let Some(v) = self.known.get(key) {
            return Some(v.clone());
        }
        self.write(key, &Verdict::Differ("the process died".into()));
        let v = check();
        self.write(key, &v);
        Some(v)
    }

    fn write(&mut self, key: &str, v: &Verdict) {
        let Some(file) = &mut self.file else { return };
        let text = match v {
            Verdict::Agree => "agree".into(),
            Verdict::Skip => "skip".into(),
            Verdict::Differ(m) => format!("differ {}", m.replace(['\n', '\t'], " ")),
        };
        writeln!(file, "{key}\t{text}").expect("the journal can be written");
    }
}

fn read(text: &str) -> Verdict {
    match text {
        "agree" => Verdict::Agree,
        "skip" => Verdict::Skip,
        other => Verdict::Differ(other.trim_start_matches("differ ").into()),
    }
}
