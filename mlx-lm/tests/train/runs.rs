//! What a run promises: it can be stopped, resumed and killed.

use super::*;
use mlx_lm::train::Log;

#[test]
fn a_run_that_was_interrupted_resumes_bit_for_bit() {
    let (dir, a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let straight = config(a.path(), 8);
    let mut m = fresh(dir.path(), &straight);
    let losses = fit(&mut m, &straight, 0);
    assert!(losses.last().unwrap() < losses.first().unwrap(), "{losses:?}");
    // stopped after 5 of 8, then on from what that saved
    let first = config(b.path(), 8);
    let mut half = fresh(dir.path(), &first);
    fit(&mut half, &first, 5);
    let again = LoraConfig { resume_adapter_file: Some(b.path().join("adapters.safetensors")), ..config(b.path(), 8) };
    let mut resumed = fresh(dir.path(), &again);
    fit(&mut resumed, &again, 0);
    assert_eq!(weights(&resumed), weights(&m));
}

#[test]
fn a_loss_that_is_not_finite_names_the_iteration_and_the_lines() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = LoraConfig { learning_rate: 1e30, ..config(out.path(), 8) };
    let mut m = fresh(dir.path(), &c);
    let (set, none) = (data(), Dataset::default());
    let mut t = trainer(&mut m, &c, &set, &none);
    let e = t.run(&mut |_| {}, &mut |_| true).unwrap_err().to_string();
    assert!(e.contains("iteration") && e.contains("lines"), "{e}");
}

#[test]
fn the_shuffle_is_numpys() {
    // numpy.random.seed(0); permutation(10), then permutation(5)
    let mut s = train::Shuffle::new(0);
    assert_eq!(s.permutation(10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
    assert_eq!(s.permutation(5), [1, 0, 2, 3, 4]);
}

/// Stopped in the middle of an accumulation, with dropout, packing and checkpointing on.
#[test]
fn gradients_that_wait_are_part_of_a_checkpoint() {
    let (dir, a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let with = |to: &Path| LoraConfig {
        grad_accumulation_steps: 3,
        batch_size: 1,
        pack: true,
        max_seq_length: 64,
        grad_checkpoint: true,
        optimizer: train::OptimizerName::Muon,
        ..config(to, 7)
    };
    let straight = with(a.path());
    let mut m = fresh(dir.path(), &straight);
    fit(&mut m, &straight, 0);
    let first = with(b.path());
    fit(&mut fresh(dir.path(), &first), &first, 4);
    let again = LoraConfig { resume_adapter_file: Some(b.path().join("adapters.safetensors")), ..with(b.path()) };
    let mut resumed = fresh(dir.path(), &again);
    fit(&mut resumed, &again, 0);
    assert_eq!(weights(&resumed), weights(&m));
}

#[test]
fn a_checkpoint_of_other_data_or_of_two_saves_is_refused() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = config(out.path(), 8);
    fit(&mut fresh(dir.path(), &c), &c, 0);
    let (set, none) = (data(), Dataset::default());
    let file = |name: &str| out.path().join(name);
    let refused = |c: &LoraConfig, set: &Dataset| {
        let mut m = fresh(dir.path(), c);
        trainer(&mut m, c, set, &none).run(&mut |_| {}, &mut |_| true).unwrap_err().to_string()
    };
    let again = LoraConfig { resume_adapter_file: Some(file("0000004_adapters.safetensors")), iters: 9, ..c.clone() };
    let mut other = data();
    other.examples[3].ids[2] += 1;
    assert!(refused(&again, &other).contains("other data"));
    assert!(refused(&LoraConfig { batch_size: 2, ..again.clone() }, &set).contains("other data"));
    // what a kill between state and adapter leaves
    std::fs::copy(file("0000004_adapters.state.safetensors"), file("adapters.state.safetensors")).unwrap();
    let torn = LoraConfig { resume_adapter_file: Some(file("adapters.safetensors")), ..again.clone() };
    let e = refused(&torn, &set);
    assert!(e.contains("interrupted") && e.contains('8') && e.contains('4'), "{e}");
    // without a state it is an adapter from elsewhere: a new run from its weights
    std::fs::remove_file(file("adapters.state.safetensors")).unwrap();
    let fresh_start = LoraConfig { iters: 1, ..torn };
    let mut m = fresh(dir.path(), &fresh_start);
    assert_eq!(fit(&mut m, &fresh_start, 0).len(), 1);
}

/// A full disk: the write fails, and what was there stays as it was.
#[test]
fn a_save_that_fails_leaves_the_last_one_whole() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = config(out.path(), 4);
    fit(&mut fresh(dir.path(), &c), &c, 0);
    let before = std::fs::read(out.path().join("adapters.safetensors")).unwrap();
    // the temporary file of the next save cannot be made
    let pid = std::process::id();
    std::fs::create_dir(out.path().join(format!(".adapters.state.safetensors.{pid}.tmp"))).unwrap();
    let mut m = fresh(dir.path(), &c);
    let (set, none) = (data(), Dataset::default());
    let e = trainer(&mut m, &c, &set, &none).run(&mut |_| {}, &mut |_| true).unwrap_err().to_string();
    assert!(e.contains("adapters.state.safetensors"), "{e}");
    assert_eq!(std::fs::read(out.path().join("adapters.safetensors")).unwrap(), before);
}

#[test]
fn a_run_leaves_a_log_and_plots() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = LoraConfig { steps_per_eval: 4, val_batches: 1, ..config(out.path(), 8) };
    let (set, page) = (data(), out.path().join("loss.html"));
    let mut m = fresh(dir.path(), &c);
    let mut log = Log::open(out.path(), Some(&page), false).unwrap();
    trainer(&mut m, &c, &set, &set).run(&mut |r| log.add(r).unwrap(), &mut |_| true).unwrap();
    log.finish().unwrap();
    let lines: Vec<Value> = std::fs::read_to_string(out.path().join("log.jsonl"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let at = |key: &str| {
        lines.iter().filter(|l| l[key].is_number()).map(|l| l["iteration"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(at("train_loss"), [2, 4, 6, 8]);
    assert_eq!(at("val_loss"), [1, 4, 8]);
    let svg = std::fs::read_to_string(out.path().join("loss.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 7);
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains(svg.trim()) && html.matches("<tr><td>").count() == 7);
}

/// Weights in bfloat16 keep float32 moments.
#[test]
fn optimizer_state_is_float32() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = LoraConfig { fine_tune_type: FineTune::Full, iters: 2, learning_rate: 1e-4, ..config(out.path(), 2) };
    let mut m = model(&golden("llama.bf16"), dir.path());
    train::attach(&mut m.decoder, FineTune::Full, -1, &c.lora_parameters).unwrap();
    fit(&mut m, &c, 0);
    let saved = mlx::io::load_safetensors(out.path().join("adapters.state.safetensors")).unwrap().0;
    let moments: Vec<_> = saved.iter().filter(|(n, _)| n.ends_with(".m") || n.ends_with(".v")).collect();
    assert!(moments.len() > 20);
    assert!(moments.iter().all(|(_, a)| a.dtype() == mx::Dtype::Float32));
    assert!(m.decoder.trainable().iter().all(|(_, a)| a.dtype() == mx::Dtype::Bfloat16));
}
