//! Replays recorded outputs of Python mlx-lm and of published model code.
//!
//! Weights follow from tensor names by a stated rule; each case is written as a real checkpoint and goes through the
//! public loader. `MLX_LM_GOLDENS_DIR` names another directory with `families/` and `mixers/`; `GOLDENS_ONLY` keeps the
//! cases whose name contains a text, `GOLDENS_PART=i/n` every n-th of them; `GOLDENS_TRACE` prints each as it begins and
//! ends, and how far each row is from the recorded one.

#[path = "goldens/caches.rs"]
mod caches;
#[path = "goldens/case.rs"]
mod case;
#[path = "goldens/composed.rs"]
mod composed;
#[path = "goldens/delta.rs"]
mod delta;
#[path = "goldens/families.rs"]
mod families;
#[path = "goldens/layers.rs"]
mod layers;
#[path = "goldens/mixers.rs"]
mod mixers;
#[path = "goldens/models.rs"]
mod models;
#[path = "goldens/operations.rs"]
mod operations;
#[path = "goldens/recurrence.rs"]
mod recurrence;
#[path = "goldens/refusals.rs"]
mod refusals;
#[path = "goldens/rule.rs"]
mod rule;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One case: a name and what runs it.
pub struct Job {
    pub name: String,
    pub run: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

#[test]
fn goldens() {
    let only = std::env::var("GOLDENS_ONLY").unwrap_or_default();
    let all = families::jobs().into_iter().chain(caches::jobs()).chain(mixers::jobs()).chain(models::jobs());
    let (part, parts) = part();
    let jobs: Vec<Job> = all.filter(|j| j.name.contains(&only)).skip(part).step_by(parts).collect();
    let next = AtomicUsize::new(0);
    let threads = std::env::var("RUST_TEST_THREADS").ok().and_then(|n| n.parse().ok());
    let threads = threads.unwrap_or(std::thread::available_parallelism().map_or(2, usize::from).min(4));
    let trace = std::env::var_os("GOLDENS_TRACE").is_some();
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..threads {
            // MLX walks graphs recursively: a deep toy model fits a main-thread-sized stack
            let work = || {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if trace {
                        println!("begin {}", job.name);
                    }
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (job.run)()))
                        .unwrap_or_else(|p| Err(format!("panic: {}", text(&p))));
                    if trace {
                        println!("end {} {result:?}", job.name);
                    }
                    if let Err(e) = result {
                        failures.lock().unwrap().push(format!("{}: {e}", job.name));
                    }
                }
            };
            std::thread::Builder::new().stack_size(16 << 20).spawn_scoped(s, work).unwrap();
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let agree = jobs.len() - failures.len();
    // families and mixers that are not written yet count as disagreeing, but only what exists can break
    let absent = |f: &&String| f.contains("load: model_type") || f.contains("load: no mixer");
    let (missing, broken): (Vec<&String>, Vec<&String>) = failures.iter().partition(absent);
    broken.iter().for_each(|f| println!("{f}"));
    let names: Vec<&str> = missing.iter().filter_map(|f| f.split(':').next()).collect();
    println!("no family or mixer yet for {} cases: {}", names.len(), names.join(", "));
    println!("goldens: {agree} of {} cases agree", jobs.len());
    assert!(broken.is_empty(), "{} cases disagree", broken.len());
}

/// `GOLDENS_PART=i/n`: which of every n cases this process takes.
fn part() -> (usize, usize) {
    let Ok(part) = std::env::var("GOLDENS_PART") else { return (0, 1) };
    let numbers = part.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers.expect("GOLDENS_PART is i/n")
}

fn text(p: &Box<dyn std::any::Any + Send>) -> String {
    p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}
