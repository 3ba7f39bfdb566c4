//! What scripts rely on: JSON on stdout and nothing else, exit codes, answers that Python recorded.

use crate::toy::{Toy, ids, list, program, run};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

#[test]
fn generate_gives_pythons_ids_without_a_tokenizer() {
    let toy = Toy::new();
    let out =
        toy.run("generate", &["--prompt-ids", &list(&toy.prompt()), "--max-tokens", "13", "--temp", "0", "--json"]);
    let report = out.json();
    assert_eq!(ids(&report["token_ids"]), toy.greedy());
    assert_eq!(ids(&report["prompt_ids"]), toy.prompt());
    assert_eq!(report["finish_reason"], "length");
    assert_eq!((&report["prompt_tokens"], &report["generation_tokens"]), (&json!(40), &json!(13)));
    // the recorded logits of the last prompt position give the first log-probability
    let golden = &toy.case["golden"];
    let last = golden["prefill"].as_array().unwrap().last().unwrap().as_array().unwrap();
    let top = last.iter().map(|v| v.as_f64().unwrap()).fold(f64::MIN, f64::max);
    let want = top - golden["logsumexp"].as_array().unwrap().last().unwrap().as_f64().unwrap();
    let logprobs = report["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 13);
    assert!((logprobs[0].as_f64().unwrap() - want).abs() < 1e-4, "{} {want}", logprobs[0]);
    for key in ["prompt_tps", "generation_tps", "time_to_first_token", "load_seconds", "peak_memory_gb"] {
        assert!(report[key].as_f64().is_some_and(|v| v > 0.0), "{key}: {}", report[key]);
    }
    assert_eq!(report["text"], "");
}

#[test]
fn an_end_of_sequence_stops_and_is_the_last_id() {
    let toy = Toy::new();
    let eos = toy.greedy()[3];
    toy.config(&[("eos_token_id", json!([eos]))]);
    let args = ["--prompt-ids", &list(&toy.prompt()), "--max-tokens", "13", "--json"];
    let report = toy.run("generate", &args).json();
    assert_eq!(ids(&report["token_ids"]), toy.greedy()[..4]);
    assert_eq!(report["finish_reason"], "stop");
    let report = toy.run("generate", &[&args[..], &["--ignore-eos"]].concat()).json();
    assert_eq!(ids(&report["token_ids"]), toy.greedy());
}

#[test]
fn a_text_prompt_goes_through_template_and_tokenizer() {
    let toy = Toy::new();
    toy.tokenizer();
    let report = toy.run("generate", &["--prompt", "w7 w8", "--system-prompt", "w9", "-m", "2", "--json"]).json();
    assert_eq!(ids(&report["prompt_ids"]), [1, 9, 2, 1, 7, 8, 2, 3]);
    let words: Vec<String> = ids(&report["token_ids"]).iter().map(|i| format!("w{i}")).collect();
    assert_eq!(report["text"], words.join(" "));
    let plain = toy.run("generate", &["--prompt", "w7 w8", "--ignore-chat-template", "-m", "2", "--json"]).json();
    assert_eq!(ids(&plain["prompt_ids"]), [7, 8]);
    // a stop string ends the answer before it
    let text = report["text"].as_str().unwrap();
    let second = text.split(' ').nth(1).unwrap();
    let args = ["--prompt", "w7 w8", "--system-prompt", "w9", "-m", "5", "--json", "--stop", second];
    let stopped = toy.run("generate", &args).json();
    assert_eq!(stopped["text"].as_str().unwrap().trim_end(), words[0]);
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn the_answer_is_shown_as_mlx_lm_shows_it() {
    let toy = Toy::new();
    toy.tokenizer();
    let out = toy.run("generate", &["--prompt", "w7", "-m", "3"]);
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!((lines[0], lines[2]), ("==========", "=========="), "{}", out.stdout);
    assert_eq!(lines[1].split(' ').count(), 3);
    assert!(lines[3].starts_with("Prompt: 4 tokens, ") && lines[3].ends_with(" tokens-per-sec"), "{}", lines[3]);
    assert!(lines[4].starts_with("Generation: 3 tokens, ") && lines[5].starts_with("Peak memory: "));
    let quiet = toy.run("generate", &["--prompt", "w7", "-m", "3", "--verbose", "False"]);
    assert_eq!(quiet.stdout, format!("{}\n", lines[1]));
}

#[test]
fn sampling_with_a_seed_repeats() {
    let toy = Toy::new();
    let prompt = list(&toy.prompt());
    let ask = |seed: &str| {
        let args = ["--prompt-ids", &prompt, "-m", "8", "--temp", "1.5", "--top-k", "50", "--seed", seed, "--json"];
        ids(&toy.run("generate", &args).json()["token_ids"])
    };
    let first = ask("1");
    assert_eq!(first, ask("1"));
    assert_ne!(first, ask("2"));
    assert_ne!(first, toy.greedy()[..8]);
}

#[test]
fn perplexity_agrees_with_the_log_probabilities_of_generation() {
    let toy = Toy::new();
    let (prompt, greedy) = (toy.prompt(), toy.greedy());
    let score = |ids: &[u32], more: &[&str]| {
        let file = toy.path().join("ids.txt");
        std::fs::write(&file, format!("[{}]", list(ids))).unwrap();
        let args = [&["--ids-file", file.to_str().unwrap(), "--json"], more].concat();
        let r = toy.run("perplexity", &args).json();
        (r["nll"].as_f64().unwrap(), r["tokens"].as_u64().unwrap())
    };
    let (all, n) = score(&[prompt.clone(), greedy.clone()].concat(), &[]);
    let (first, m) = score(&prompt, &[]);
    assert_eq!((n, m), (52, 39));
    let args = ["--prompt-ids", &list(&prompt), "-m", "13", "--json"];
    let generated: f64 =
        toy.run("generate", &args).json()["logprobs"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).sum();
    let rest = all * n as f64 - first * m as f64;
    assert!((rest + generated).abs() < 1e-3, "{rest} {generated}");
    // pieces know nothing of each other
    let (pieces, k) = score(&prompt, &["--sequence-length", "20"]);
    let (a, i) = score(&prompt[..20], &[]);
    let (b, j) = score(&prompt[20..], &[]);
    assert_eq!((k, i, j), (38, 19, 19));
    assert!((pieces - (a + b) / 2.0).abs() < 1e-5);
}

#[test]
fn benchmark_reports_medians_of_its_trials() {
    let toy = Toy::new();
    for batch in ["1", "2"] {
        let report = toy.run("benchmark", &["-p", "8", "-g", "4", "-n", "3", "-b", batch, "--json"]).json();
        let trials = report["trials"].as_array().unwrap();
        assert_eq!(trials.len(), 3);
        for key in ["prompt_tps", "generation_tps", "peak_memory_gb"] {
            let mut values: Vec<f64> = trials.iter().map(|t| t[key].as_f64().unwrap()).collect();
            values.sort_by(f64::total_cmp);
            assert_eq!(report[key].as_f64().unwrap(), values[1], "{key}");
            assert!(values[0] > 0.0);
        }
    }
}

#[test]
fn a_shape_is_timed_without_its_weights() {
    let toy = Toy::new();
    let config = toy.path().join("config.json");
    for more in [&[][..], &["--bits", "4", "--group-size", "32"], &["--dtype", "bfloat16"]] {
        let base = ["benchmark", "--config", config.to_str().unwrap(), "--random-weights", "-p", "4", "-g", "3"];
        let report = run(&[&base, more, &["-n", "1", "--json"]].concat()).json();
        assert!(report["generation_tps"].as_f64().unwrap() > 0.0);
        let profile = run(&[&base, more, &["--profile", "--json"]].concat()).json();
        assert!(profile["ops"].as_u64().unwrap() > 5 && profile["weight_bytes"].as_u64().unwrap() > 10_000);
    }
    let bad = run(&["benchmark", "--config", config.to_str().unwrap(), "--random-weights", "--bits", "7"]);
    bad.fails_with(&["--bits 7"]);
}

#[test]
fn doctor_and_inspect_are_json_too() {
    let report = run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["mlx"], report["mlx_built"]);
    let cpu = &report["devices"][0];
    assert_eq!(cpu["device"], "cpu");
    for check in cpu["checks"].as_array().unwrap() {
        assert_eq!(check["passed"], true, "{check}");
    }
    let found = Toy::new().run("inspect", &["--json"]).json();
    assert_eq!((&found["model_type"], &found["complete"]), (&json!("qwen3"), &json!(true)));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["generate", "--no-such-flag"][..],
        &["generate", "--max-tokens", "many"],
        &["generate", "--prompt-ids", "1,x"],
        &["perplexity"],
        &["benchmark", "--random-weights"],
        &["no-such-verb"],
        &[],
    ] {
        let out = run(args);
        assert_eq!((out.code, out.stdout.as_str()), (2, ""), "{args:?}");
        assert!(!out.stderr.is_empty());
    }
    assert_eq!(run(&["--help"]).code, 0);
    assert_eq!(run(&["--version"]).stdout, format!("mlx-lm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let toy = Toy::new();
    toy.tokenizer();
    let model = toy.path().to_str().unwrap();
    let mut child = program()
        .args(["generate", "--model", model, "--prompt", "w7", "-m", "3000", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success(), "{errors}");
    assert!(!errors.contains("panic"), "{errors}");
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_answer_and_prints_what_was_counted() {
    let toy = Toy::new();
    toy.tokenizer();
    let model = toy.path().to_str().unwrap();
    let mut child = program()
        .args(["generate", "--model", model, "--prompt", "w7", "-m", "1000000", "--ignore-eos"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // the rule, then some of the answer
    let mut some = [0; 64];
    out.read_exact(&mut some).unwrap();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(rest.contains("Generation: ") && rest.contains("Peak memory: "), "{rest}");
}

#[test]
fn chat_reads_turns_from_a_pipe_and_knows_its_commands() {
    use std::io::Write;
    let toy = Toy::new();
    toy.tokenizer();
    let mut child = program()
        .args(["chat", "--model", toy.path().to_str().unwrap(), "-m", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"w7\n/reset\nw7\n/nonsense\n/help\nq\nw9\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let answers: Vec<&str> = text.lines().filter(|l| l.starts_with('w')).collect();
    assert_eq!(answers.len(), 2, "{text}");
    assert_eq!(answers[0], answers[1], "a new conversation answers as the first");
    assert_eq!(text.matches("The command list").count(), 3, "at the start, for an unknown command, for /help");
}
