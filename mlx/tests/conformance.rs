//! Replays what Python's MLX 0.32.2 answered, call by call: `cargo test -p mlx --test conformance -- --nocapture`.
//!
//! The records are those of `MLX_CONFORMANCE_DIR`, else the committed copy. Each name is mapped to a Rust call that is
//! general in its arguments; where the library knowingly answers otherwise, [`DIFFERENCES`] says so.
//!
//! An area is a line in [`AREAS`] and a `check` that turns one record into a verdict. `MLX_CONFORMANCE_ONLY` picks
//! records by a part of their function's name, `MLX_CONFORMANCE_AREAS` names areas; `journal` is for runs in parts on
//! another device.

mod conformance {
    pub mod args;
    pub mod calls;
    pub mod compare;
    pub mod data;
    pub mod dtypes;
    pub mod factors;
    pub mod journal;
    pub mod layers;
    pub mod losses;
    pub mod mutate;
    pub mod nn;
    pub mod optim;
    pub mod transforms;
    pub mod verdict;
}

use conformance::data::{self, Case};
use conformance::journal::Journal;
use conformance::verdict::Verdict;
use conformance::{calls, dtypes, losses, nn, optim, transforms};

/// The areas and who checks them.
const AREAS: &[(&str, fn(&Case) -> Verdict)] = &[
    ("ops", calls::check),
    ("indexing", calls::check),
    ("fast", calls::check),
    ("linalg", calls::check),
    ("fft", calls::check),
    ("random", calls::check),
    ("quantized", calls::check),
    ("dtypes", dtypes::check),
    ("transforms", transforms::check),
    ("nn", nn::check),
    ("losses", losses::check),
    ("optim", optim::check),
];

/// Areas of single calls, whose arguments can be spoilt.
const SINGLE: &[&str] = &["ops", "indexing", "fast", "linalg", "fft", "random", "quantized"];

/// Documented differences: a function, what the difference message contains, and why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("array.view", "not array(", "bytes of a bool other than 0 and 1 are normalised: a Rust bool has no others"),
    ("array.__setitem__", "int32, not", "an assignment keeps the dtype of the array; Python's x[...] = 2.5 changes it"),
    ("array.at.add", "int32, not", "as above: Python's x.at[...].add(2.5) gives another dtype"),
    (
        "mx.fast.scaled_dot_product_attention",
        " is 0, not",
        "a query that sees no key gives zeros, not a mean over hidden keys",
    ),
    ("mx.linalg.eigh", "Rust signature", "the triangle is an enum: a wrong name is a compile error"),
];

/// The reason if the difference is a documented one.
fn documented(case: &Case, message: &str) -> Option<&'static str> {
    DIFFERENCES.iter().find(|(f, text, _)| case.name == *f && message.contains(text)).map(|d| d.2)
}

/// Panics that are not op errors are differences, too.
fn run(check: fn(&Case) -> Verdict, case: &Case) -> Verdict {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case))).unwrap_or_else(|p| {
        let text = p.downcast_ref::<String>().cloned().or(p.downcast_ref::<&str>().map(|s| s.to_string()));
        Verdict::Differ(format!("panicked: {}", text.unwrap_or_default()))
    })
}

#[test]
fn every_record_agrees() {
    let only = std::env::var("MLX_CONFORMANCE_ONLY").unwrap_or_default();
    let (mut agree, mut total, mut wrong, mut excused) = (0, 0, Vec::new(), 0);
    let mut journal = Journal::open();
    let areas = std::env::var("MLX_CONFORMANCE_AREAS").ok();
    let wanted = |name: &str| areas.as_ref().is_none_or(|a| a.split(',').any(|a| a == name));
    for (name, check) in AREAS.iter().filter(|a| wanted(a.0)) {
        let Some(area) = data::load(name) else { continue };
        let before = (agree, total);
        for case in area.cases.iter().filter(|c| c.name.contains(&only) || c.id == only) {
            let key = format!("{name} {} {}", case.name, case.id);
            let Some(verdict) = journal.verdict(&key, || run(*check, case)) else { continue };
            match verdict {
                Verdict::Skip => {}
                Verdict::Agree => (agree, total) = (agree + 1, total + 1),
                Verdict::Differ(message) => {
                    total += 1;
                    match documented(case, &message) {
                        Some(_) => excused += 1,
                        None => wrong.push(format!("{} {}: {message}", case.name, case.id)),
                    }
                }
            }
        }
        println!("{}: {} of {}", area.name, agree - before.0, total - before.1);
    }
    for w in wrong.iter().take(400) {
        println!("{w}");
    }
    if excused > 0 {
        println!("{excused} documented differences");
    }
    println!("conformance: {agree} of {total} records agree");
    assert!(total > 0, "no records in {}", data::dir().display());
    assert!(wrong.is_empty(), "{} records disagree", wrong.len());
}

/// All records of single calls with spoilt arguments; `MLX_MUTATE_FROM` and `MLX_MUTATE_ROUNDS` choose more of them,
/// `MLX_MUTATE_AFTER` goes on behind a function.
#[test]
#[ignore = "takes minutes; run by hand after changes of the bounds checks"]
fn spoilt_records_never_crash() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (from, rounds) = (number("MLX_MUTATE_FROM", 0), number("MLX_MUTATE_ROUNDS", 1));
    let only = std::env::var("MLX_CONFORMANCE_ONLY").unwrap_or_default();
    let after = std::env::var("MLX_MUTATE_AFTER").unwrap_or_default();
    let mut skipping = !after.is_empty();
    std::panic::set_hook(Box::new(|_| {}));
    for (name, _) in AREAS.iter().filter(|a| SINGLE.contains(&a.0)) {
        let Some(area) = data::load(name) else { continue };
        for (i, case) in area.cases.iter().enumerate().filter(|(_, c)| c.name.contains(&only)) {
            skipping = skipping && case.name != after;
            if skipping || case.name == after {
                continue;
            }
            for round in from..from + rounds {
                if std::env::var_os("MLX_MUTATE_LOG").is_some() {
                    eprintln!("{} {} {round}", case.name, case.id);
                }
                let mut dice = conformance::mutate::Dice::new(round * 1_000_003 + i as u64);
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    conformance::mutate::run(case, &mut dice);
                }));
            }
        }
    }
}
