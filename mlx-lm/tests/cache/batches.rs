//! Many sequences at once: each row gives what it gives alone, whenever it joins and whoever leaves.

use crate::{beside_others, model};
use mlx::{Array, Dtype};
use mlx_lm::Model;
use mlx_lm::cache::CacheOptions;
use mlx_lm::generate::{
    BatchGenerator, BatchRequest, BatchToken, ClassifyOptions, FinishReason, Processors, PromptProgress, Sampler,
    batch_generate, classify,
};
use std::collections::BTreeMap;
use std::rc::Rc;

fn prompt(n: usize, start: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + start * 11) % 190).collect()
}

/// A request of its own kind for each number: greedy, sampled, with penalties, with stops.
fn request(i: usize) -> BatchRequest<'static> {
    let mut r = BatchRequest::new(prompt([3, 17, 1, 40, 9, 26][i], i as u32));
    r.max_tokens = [9, 14, 5, 11, 20, 3][i];
    r.logprobs = i.is_multiple_of(2);
    match i {
        1 | 4 => {
            let mut sampler = Sampler::temperature(0.9);
            sampler.top_k = 40;
            r.sampler = Rc::new(sampler.seeded(i as u64));
        }
        2 | 3 => r.processors = vec![Box::new(Processors { repetition_penalty: Some(1.7), ..Default::default() })],
        _ => {}
    }
    r
}

fn alone(m: &Model, r: BatchRequest<'static>) -> Vec<u32> {
    batch_generate(&m.decoder, [r]).unwrap().0.remove(0).ids
}

#[test]
fn rows_join_and_leave_at_any_step_and_give_what_they_give_alone() {
    let _guard = beside_others();
    for name in ["qwen3", "gemma3", "falcon_h1", "qwen3_next", "deepseek_v3", "mamba2", "llama4"] {
        let m = model(name);
        let want: Vec<Vec<u32>> = (0..6).map(|i| alone(&m, request(i))).collect();
        let mut g = BatchGenerator::new(&m.decoder);
        (g.max_rows, g.max_prompts, g.prefill_step) = (4, 2, 8);
        let mut rows: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut most = 0;
        for turn in 0.. {
            // one more every other turn
            if turn % 2 == 0 && turn / 2 < 6 {
                assert_eq!(g.insert(request(turn / 2)).unwrap(), turn / 2);
            } else if g.is_empty() {
                break;
            }
            let step = g.advance().unwrap();
            most = most.max(step.tokens.len());
            for t in step.tokens {
                let row = rows.entry(t.uid).or_default();
                row.push(t.id);
                assert_eq!(t.logprob.is_some(), t.uid.is_multiple_of(2));
                assert_eq!(t.finish.is_some(), row.len() == want[t.uid].len(), "{name}");
                assert_eq!(t.finish.is_some(), t.state.is_some());
            }
        }
        assert_eq!(rows.into_values().collect::<Vec<_>>(), want, "{name}");
        assert!((2..=4).contains(&most), "{most} rows ran together");
        assert_eq!(g.stats.prompt_tokens, 3 + 17 + 1 + 40 + 9 + 26);
    }
}

#[test]
fn stop_sequences_belong_to_their_row() {
    let _guard = beside_others();
    let m = model("qwen3");
    let ids = alone(&m, request(0));
    let mut stopped = request(0);
    stopped.stop = vec![ids[2..4].to_vec(), vec![189, 189]];
    let mut other = request(0);
    other.stop = vec![vec![ids[3], ids[3], ids[3], ids[2]]];
    let (out, _) = batch_generate(&m.decoder, [stopped, other]).unwrap();
    let first = ids.windows(2).position(|w| w == &ids[2..4]).unwrap();
    assert_eq!((&out[0].ids, out[0].stopped), (&ids[..first].to_vec(), true));
    assert_eq!((&out[1].ids, out[1].stopped), (&ids, false));
}

#[test]
fn segments_are_told_and_long_prompts_hold_nobody_up() {
    let _guard = beside_others();
    let m = model("qwen3");
    let whole = prompt(40, 3);
    let want = alone(&m, BatchRequest { max_tokens: 6, ..BatchRequest::new(whole.clone()) });
    let mut g = BatchGenerator::new(&m.decoder);
    g.prefill_step = 7;
    let runner = g.insert(BatchRequest { max_tokens: 30, ..BatchRequest::new(vec![5]) }).unwrap();
    assert!(g.advance().unwrap().tokens.is_empty());
    let parts = vec![whole[..10].to_vec(), vec![], whole[10..24].to_vec(), whole[24..].to_vec()];
    let uid = g.insert(BatchRequest { max_tokens: 6, ..BatchRequest::segments(parts) }).unwrap();
    let (mut seen, mut ids, mut saved): (Vec<PromptProgress>, Vec<u32>, Vec<_>) = Default::default();
    while ids.len() < 6 {
        let step = g.advance().unwrap();
        assert!(step.tokens.iter().any(|t| t.uid == runner), "a running row has a token every turn");
        for p in step.prompts {
            seen.push(p);
            if p.end_of_segment && !p.end_of_prompt {
                let state = g.extract(uid).unwrap().unwrap();
                assert_eq!((state.tokens.len(), state.caches[0].offset() as usize), (p.done, p.done));
                saved.push(state);
            }
        }
        ids.extend(step.tokens.iter().filter(|t| t.uid == uid).map(|t| t.id));
    }
    assert_eq!(ids, want);
    let told: Vec<(usize, bool, bool)> = seen.iter().map(|p| (p.done, p.end_of_segment, p.end_of_prompt)).collect();
    let (no, yes) = (false, true);
    let expected = [
        (7, no, no),
        (10, yes, no),
        (17, no, no),
        (24, yes, no),
        (31, no, no),
        (38, no, no),
        (39, yes, no),
        (40, yes, yes),
    ];
    assert_eq!(told, expected);
    assert!(seen.iter().all(|p| p.total == 40 && p.uid == uid));
    // from every saved point the rest goes on to the same answer
    for state in saved {
        let rest = BatchRequest {
            max_tokens: 6,
            earlier: state.tokens.clone(),
            caches: Some(state.caches),
            ..BatchRequest::new(whole[state.tokens.len()..].to_vec())
        };
        assert_eq!(alone(&m, rest), want);
    }
}

fn tokens_of(tokens: &[BatchToken], uid: usize) -> Vec<u32> {
    tokens.iter().filter(|t| t.uid == uid).map(|t| t.id).collect()
}

#[test]
fn rows_taken_out_at_any_stage_go_on_elsewhere() {
    let _guard = beside_others();
    for name in ["qwen3", "qwen3_next"] {
        let m = model(name);
        let ask = |n| BatchRequest { max_tokens: 12, ..BatchRequest::new(prompt(n, 7)) };
        let want = alone(&m, ask(20));
        let mut g = BatchGenerator::new(&m.decoder);
        g.prefill_step = 8;
        let (a, b, c) = (g.insert(ask(20)).unwrap(), g.insert(ask(20)).unwrap(), g.insert(ask(31)).unwrap());
        assert!(g.remove(b).unwrap().is_none(), "not begun");
        assert_eq!((g.len(), g.cache_nbytes()), (2, 0));
        g.advance().unwrap();
        assert!(g.cache_nbytes() > 0);
        let half = g.remove(c).unwrap().unwrap();
        assert_eq!(half.tokens, prompt(31, 7)[..8]);
        let mut got = Vec::new();
        while got.len() < 5 {
            got.extend(tokens_of(&g.advance().unwrap().tokens, a));
        }
        let mut state = g.remove(a).unwrap().unwrap();
        assert!(g.is_empty() && g.remove(a).unwrap().is_none());
        assert_eq!(state.tokens, [prompt(20, 7), got.clone()].concat());
        // the last token was fed already: go on from a copy that stands before it
        let last = state.tokens.pop().unwrap();
        let mut caches = m.decoder.caches().unwrap();
        let ids = Array::from_slice(&state.tokens, [1, state.tokens.len() as i32]);
        m.decoder.hidden(&ids, &mut caches);
        let rest = BatchRequest { max_tokens: 7, caches: Some(caches), ..BatchRequest::new(vec![last]) };
        assert_eq!([got, alone(&m, rest)].concat(), want, "{name}");
        assert!(state.caches[0].nbytes() > 0);
    }
}

#[test]
fn finished_rows_hand_their_caches_on() {
    let _guard = beside_others();
    let m = model("qwen3");
    let (out, _) = batch_generate(&m.decoder, [request(0), request(3), request(5)]).unwrap();
    for (o, r) in out.into_iter().zip([request(0), request(3), request(5)]) {
        let state = o.state.unwrap();
        let all = [r.segments.concat(), o.ids].concat();
        assert_eq!(state.tokens, all[..all.len() - 1]);
        assert_eq!(state.caches[0].offset() as usize, state.tokens.len());
        let next = prompt(4, 9);
        let more = BatchRequest {
            max_tokens: 8,
            caches: Some(state.caches),
            earlier: state.tokens,
            ..BatchRequest::new([vec![all[all.len() - 1]], next.clone()].concat())
        };
        let anew = BatchRequest { max_tokens: 8, ..BatchRequest::new([all, next].concat()) };
        assert_eq!(alone(&m, more), alone(&m, anew));
    }
}

#[test]
fn bounded_caches_and_refusals() {
    let _guard = beside_others();
    let m = model("qwen3");
    let limit = CacheOptions { max_size: Some(10), ..Default::default() };
    let run = |which: &[usize]| {
        let mut g = BatchGenerator::new(&m.decoder);
        g.caches = limit;
        for &i in which {
            g.insert(request(i)).unwrap();
        }
        let mut all: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        while !g.is_empty() {
            g.step().unwrap().iter().for_each(|t| all.entry(t.uid).or_default().push(t.id));
        }
        all.into_values().collect::<Vec<_>>()
    };
    let single = [0, 3, 4].map(|i| run(&[i]).remove(0));
    assert_eq!(run(&[0, 3, 4]), single);
    assert_ne!(single[1], alone(&m, request(3)), "ten tokens are not forty");
    let mut g = BatchGenerator::new(&m.decoder);
    assert!(g.insert(BatchRequest::new(vec![])).is_err());
    assert!(g.insert(BatchRequest::segments(vec![vec![], vec![]])).is_err());
    assert!(g.insert(BatchRequest::new(vec![199_000])).is_err());
    assert!(g.insert(BatchRequest { max_tokens: 0, ..BatchRequest::new(vec![1]) }).is_err());
    let another = |name: &str| BatchRequest {
        caches: Some(model(name).decoder.caches().unwrap()),
        ..BatchRequest::new(prompt(5, 1))
    };
    assert!(g.insert(another("falcon_h1")).is_err() && g.insert(another("mamba2")).is_err());
    // heads of another width show when they are used: that row leaves with an error, the others go on
    let good = g.insert(request(0)).unwrap();
    let mut wide = m.decoder.caches().unwrap();
    wide.iter_mut().for_each(|c| {
        drop(c.kv().update(mlx::ones([1, 3, 2, 8], Dtype::Float32), mlx::ones([1, 3, 2, 8], Dtype::Float32)))
    });
    g.insert(BatchRequest { caches: Some(wide), ..BatchRequest::new(prompt(5, 1)) }).unwrap();
    let mut ids = Vec::new();
    let mut errors = 0;
    while !g.is_empty() {
        match g.advance() {
            Ok(step) => ids.extend(tokens_of(&step.tokens, good)),
            Err(_) => errors += 1,
        }
    }
    assert_eq!((ids, errors), (alone(&m, request(0)), 1));
    let first = g.stats;
    assert_eq!(g.stats.since(&first).generation_tokens, 0);
    assert_eq!(FinishReason::Stop.name(), "stop");
}

#[test]
fn classification_of_many_prompts_is_that_of_each() {
    let _guard = beside_others();
    for name in ["qwen3", "gemma3", "mamba2", "falcon_h1", "llama4", "deepseek_v3", "qwen3_moe"] {
        let m = model(name);
        let prompts: Vec<Vec<u32>> =
            [9, 1, 30, 9, 17, 2].iter().enumerate().map(|(i, &n)| prompt(n, i as u32)).collect();
        let logits: Vec<Vec<f32>> = prompts
            .iter()
            .map(|p| {
                let ids = Array::from_slice(p, [1, p.len() as i32]);
                let mut caches = m.decoder.caches().unwrap();
                m.decoder.forward_last(&ids, &mut caches).astype(Dtype::Float32).to_vec::<f32>().unwrap()
            })
            .collect();
        let labels = vec![150, 3, 77];
        for (rows, step) in [(1, 2048), (4, 2048), (6, 7), (3, 1)] {
            let options = ClassifyOptions { rows, prefill_step: step, logits: true, labels: vec![] };
            let all = classify(&m.decoder, &prompts, &options).unwrap();
            let some = classify(&m.decoder, &prompts, &ClassifyOptions { labels: labels.clone(), ..options }).unwrap();
            for (i, x) in logits.iter().enumerate() {
                let got = all[i].logits.as_ref().unwrap().astype(Dtype::Float32).to_vec::<f32>().unwrap();
                let worst = got.iter().zip(x).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-3, "{name}, prompt {i}, {rows} rows: off by {worst}");
                let best = (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap();
                let sum = |ids: &mut dyn Iterator<Item = usize>| ids.map(|i| (x[i] as f64).exp()).sum::<f64>().ln();
                assert_eq!(all[i].id as usize, best, "{name}");
                assert!((all[i].logprob as f64 - (x[best] as f64 - sum(&mut (0..x.len())))).abs() < 1e-3);
                let total = sum(&mut labels.iter().map(|&l| l as usize));
                for (l, p) in labels.iter().zip(&some[i].labels) {
                    assert!((*p as f64 - (x[*l as usize] as f64 - total)).abs() < 1e-3, "{name}");
                }
                let likeliest = *labels.iter().max_by(|a, b| x[**a as usize].total_cmp(&x[**b as usize])).unwrap();
                assert_eq!(some[i].id, likeliest);
            }
        }
        assert!(classify(&m.decoder, &[vec![]], &ClassifyOptions::default()).is_err());
        assert!(
            classify(&m.decoder, &[vec![1]], &ClassifyOptions { labels: vec![1 << 20], ..Default::default() }).is_err()
        );
    }
}
