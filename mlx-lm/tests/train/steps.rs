//! Steps in other forms give what the plain one gives: checkpointed, compiled, packed.

use super::*;
use mlx::memory;
use mlx::nn::Grads;
use mlx_lm::decoder::Decoder;
use mlx_lm::train::{Batches, Stepper};

/// A model with adapters everywhere, of which no factor is zero.
fn adapted(name: &str, dir: &Path, dropout: f32) -> Model {
    let mut m = model(&golden(name), dir);
    let p = LoraParameters { rank: 4, scale: 2.0, dropout, keys: None };
    train::attach(&mut m.decoder, FineTune::Lora, -1, &p).unwrap();
    let fixed: Vec<(String, Array)> = m
        .decoder
        .trainable()
        .into_iter()
        .map(|(n, a)| {
            let bytes = rule::tensor(&n, a.shape(), "F32", 3, None);
            let new = Array::try_from_bytes(&bytes, a.shape(), mx::Dtype::Float32).unwrap();
            (n, new)
        })
        .collect();
    m.decoder.update(fixed, false).unwrap();
    m
}

fn batch(vocab: i32) -> Batch {
    let ids: Vec<i32> = (0..66).map(|i| (i * 7 + 3) % vocab).collect();
    Batch {
        ids: Array::from_slice(&ids, [2, 33]),
        lengths: Array::from_slice(&[0i32, 33, 5, 20], [2, 2]),
        packed: None,
        lines: vec![1, 2],
    }
}

fn gradients(m: &mut Model, b: &Batch) -> (f32, Grads) {
    let step = mx::nn::try_value_and_grad(|d: &Decoder, b: &Batch| train::cross_entropy(d, b));
    let ((loss, _), grads) = mx::try_catch(|| step(&mut m.decoder, b)).unwrap();
    mx::eval(grads.values().chain([&loss])).unwrap();
    (loss.item().unwrap(), grads)
}

fn same_gradients(name: &str, m: &mut Model, dropout: bool) {
    let b = batch(m.decoder.blueprint().vocab);
    let key = mx::random::key(9);
    mx::random::set_state(key.clone());
    let (loss, plain) = gradients(m, &b);
    let after = mx::random::state().to_vec::<u32>().unwrap();
    m.decoder.set_checkpoint(true);
    mx::random::set_state(key);
    let (again, checkpointed) = gradients(m, &b);
    m.decoder.set_checkpoint(false);
    assert_eq!(loss, again, "{name}");
    assert_eq!(after, mx::random::state().to_vec::<u32>().unwrap(), "{name}");
    assert_eq!(plain.len(), checkpointed.len());
    for (leaf, g) in &plain {
        let (a, b) = (g.to_vec::<f32>().unwrap(), checkpointed[leaf].to_vec::<f32>().unwrap());
        let norm = a.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(norm > 0.0 || dropout || leaf.contains("embed"), "{name} {leaf}");
        let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5 * norm, "{name} {leaf}: {worst} of {norm}");
    }
}

/// Families whose layers hand on nothing, keys and values, projections, several streams, recurrent states.
#[test]
fn checkpointed_layers_have_the_plain_gradients() {
    for name in ["llama", "qwen3_moe", "gemma3n", "gemma4_text.shared", "hunyuan", "mamba2", "iquestloopcoder"] {
        let dir = tempfile::tempdir().unwrap();
        same_gradients(name, &mut adapted(name, dir.path(), 0.0), false);
    }
}

/// The second pass through a layer draws the numbers of the first one.
#[test]
fn checkpointed_dropout_is_the_same_dropout() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = adapted("llama", dir.path(), 0.3);
    m.decoder.train();
    same_gradients("llama", &mut m, true);
}

/// MLX counts memory for the whole process: a process of its own measures.
#[test]
fn checkpointing_needs_less_memory_and_leaves_none_behind() {
    let me = std::env::current_exe().unwrap();
    let out = std::process::Command::new(me).args(["--ignored", "--exact", "steps::memory_of_checkpointing"]).output();
    let out = out.unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "the test above runs it"]
fn memory_of_checkpointing() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = adapted("llama", dir.path(), 0.0);
    let vocab = m.decoder.blueprint().vocab;
    let ids: Vec<i32> = (0..4 * 257).map(|i| (i * 7 + 3) % vocab).collect();
    let b = Batch {
        ids: Array::from_slice(&ids, [4, 257]),
        lengths: Array::from_slice(&[0i32, 257, 0, 257, 0, 257, 0, 257], [4, 2]),
        packed: None,
        lines: vec![],
    };
    let mut peaks = Vec::new();
    for on in [false, true] {
        m.decoder.set_checkpoint(on);
        gradients(&mut m, &b);
        memory::clear_cache();
        let before = memory::active_memory();
        memory::reset_peak_memory();
        for _ in 0..3 {
            gradients(&mut m, &b);
        }
        peaks.push(memory::peak_memory() - before);
        let left = memory::active_memory() as i64 - before as i64;
        assert!(left.abs() < 4096, "{left} bytes are left");
    }
    assert!(peaks[1] * 10 < peaks[0] * 9, "{peaks:?}");
}

#[test]
fn a_compiled_step_equals_the_plain_one() {
    let (dir, set) = (tempfile::tempdir().unwrap(), data());
    let run = |compile: bool, pack: bool| -> (Vec<f64>, Vec<(String, Vec<f32>)>) {
        let mut m = adapted("llama", dir.path(), 0.2);
        let c = LoraConfig {
            compile,
            pack,
            grad_accumulation_steps: 2,
            max_grad_norm: 1.0,
            grad_checkpoint: pack,
            ..config(dir.path(), 6)
        };
        m.decoder.set_checkpoint(pack);
        m.decoder.train();
        mx::random::seed(4);
        let mut stepper = Stepper::new(&m.decoder, &c, Rc::new(train::cross_entropy)).unwrap();
        let c = LoraConfig { batch_size: 1, max_seq_length: 64, ..c };
        let mut batches = Batches::new(&set, &c).unwrap();
        let losses = (1..=6).map(|i| stepper.run(&mut m.decoder, &batches.next(&set), i % 2 == 0).unwrap().0).collect();
        (losses, weights(&m))
    };
    for pack in [false, true] {
        let ((a, wa), (b, wb)) = (run(false, pack), run(true, pack));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        for ((name, a), (_, b)) in wa.iter().zip(&wb) {
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{name} {worst}");
        }
    }
}

/// Plain descent shows the mean itself: from each of two batches by itself, by hand.
#[test]
fn an_update_of_two_batches_takes_the_mean_of_their_gradients() {
    let (dir, set) = (tempfile::tempdir().unwrap(), data());
    let mut m = adapted("llama", dir.path(), 0.0);
    let c = LoraConfig {
        grad_accumulation_steps: 2,
        optimizer: train::OptimizerName::Sgd,
        learning_rate: 0.5,
        ..config(dir.path(), 2)
    };
    let mut batches = Batches::new(&set, &c).unwrap();
    let two = [batches.next(&set), batches.next(&set)];
    let [first, second] = two.each_ref().map(|b| gradients(&mut m, b).1);
    let before: Grads = m.decoder.trainable().into_iter().collect();
    let mut stepper = Stepper::new(&m.decoder, &c, Rc::new(train::cross_entropy)).unwrap();
    stepper.run(&mut m.decoder, &two[0], false).unwrap();
    stepper.run(&mut m.decoder, &two[1], true).unwrap();
    for (name, after) in m.decoder.trainable() {
        let expected = &before[&name] - (&first[&name] + &second[&name]) * 0.25;
        let moved = (&first[&name] - &second[&name]).abs().max(()).item::<f32>().unwrap();
        let off = (&after - &expected).abs().max(()).item::<f32>().unwrap();
        assert!(off < 1e-6 && moved > 1e-5, "{name}: {off}, the batches differ by {moved}");
    }
}

/// Each example by itself is the oracle: no neighbour, no padding.
#[test]
fn packed_examples_do_not_see_each_other() {
    let set = data();
    for name in ["llama", "llama.sliding", "gpt_oss", "deepseek_v2", "gemma2"] {
        let dir = tempfile::tempdir().unwrap();
        let mut m = adapted(name, dir.path(), 0.0);
        let c = LoraConfig { pack: true, batch_size: 2, max_seq_length: 64, ..LoraConfig::default() };
        let mut batches = Batches::new(&set, &c).unwrap();
        let b = batches.next(&set);
        assert!(b.lines.len() > 4, "{:?}", b.lines);
        let (loss, _) = mx::try_catch(|| train::cross_entropy(&m.decoder, &b)).unwrap();
        let tokens = b.packed.as_ref().unwrap().learned.sum(()).item::<f32>().unwrap();
        let (packed_loss, packed) = gradients(&mut m, &b);
        assert_eq!(loss.item::<f32>().unwrap(), packed_loss);
        let (mut sum, mut count, mut total) = (0.0, 0.0, Grads::new());
        for line in &b.lines {
            let e = &set.examples[line - 1];
            let n = e.ids.len() as i32;
            let one = Batch {
                ids: Array::from_slice(&e.ids.iter().map(|&i| i as i32).collect::<Vec<_>>(), [1, n]),
                lengths: Array::from_slice(&[e.offset as i32, n], [1, 2]),
                packed: None,
                lines: vec![],
            };
            // as many targets as have a number of the example before them
            let own = (n - (e.offset as i32).max(1)) as f32;
            let (loss, grads) = gradients(&mut m, &one);
            sum += loss * own;
            count += own;
            for (k, g) in grads {
                let g = g * own;
                let t = total.remove(&k).map_or(g.clone(), |t| t + &g);
                total.insert(k, t);
            }
        }
        assert_eq!(count, tokens, "{name}");
        assert!((sum / count - packed_loss).abs() < 1e-4, "{name}: {} {packed_loss}", sum / count);
        for (k, g) in &packed {
            let (a, b) = (g.to_vec::<f32>().unwrap(), (&total[k] / count).to_vec::<f32>().unwrap());
            let norm = b.iter().map(|x| x * x).sum::<f32>().sqrt();
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * norm.max(1e-3), "{name} {k}: {worst} of {norm}");
        }
    }
}

#[test]
fn models_whose_samples_would_mix_refuse_to_be_packed() {
    for (name, part) in
        [("mamba2", "layer 0"), ("gpt2", "learned positions"), ("llama4", "layer"), ("qwen3_next", "layer")]
    {
        let dir = tempfile::tempdir().unwrap();
        let e = model(&golden(name), dir.path()).decoder.packable().unwrap_err().to_string();
        assert!(e.contains("packing") && e.contains(part), "{name}: {e}");
    }
}

#[test]
fn packed_rows_hold_every_example_once() {
    let set = data();
    let c = LoraConfig { pack: true, batch_size: 1, max_seq_length: 40, ..LoraConfig::default() };
    let mut batches = Batches::new(&set, &c).unwrap();
    assert!(batches.len() < 8, "{}", batches.len());
    let mut lines = Vec::new();
    for _ in 0..batches.len() {
        let b = batches.next(&set);
        assert!(b.ids.dim(1) <= 40);
        lines.extend(b.lines);
    }
    lines.sort_unstable();
    assert_eq!(lines, (1..=12).collect::<Vec<_>>());
}

/// Sorted by tokens, examples of like length meet; Python's order is the file's when all records have as many keys.
#[test]
fn batches_hold_examples_of_like_length() {
    let mut set = data();
    set.examples.swap(0, 11);
    let spread = |order| {
        let c = LoraConfig { batch_order: order, batch_size: 3, ..LoraConfig::default() };
        let mut batches = Batches::new(&set, &c).unwrap();
        let worst = (0..batches.len()).map(|_| {
            let b = batches.next(&set);
            let n: Vec<usize> =
                b.lines.iter().map(|l| set.examples.iter().find(|e| e.line == *l).unwrap().ids.len()).collect();
            n.iter().max().unwrap() - n.iter().min().unwrap()
        });
        worst.max().unwrap()
    };
    assert_eq!(spread(train::BatchOrder::Length), 2);
    assert!(spread(train::BatchOrder::Python) > 8);
}
