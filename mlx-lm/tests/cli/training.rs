//! `lora`, `fuse`, `convert`, `evaluate`, `perplexity` from outside.

use crate::toy::{Toy, program};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Questions and answers in the toy's words.
fn data(dir: &Path, lines: usize) {
    for name in ["train", "valid", "test"] {
        let text: String = (0..lines)
            .map(|i| {
                format!("{}\n", json!({"prompt": format!("w{} w20", 30 + i), "completion": format!("w{}", 40 + i)}))
            })
            .collect();
        fs::write(dir.join(format!("{name}.jsonl")), text).unwrap();
    }
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

#[test]
fn a_run_is_trained_tested_fused_and_written_for_peft() {
    let (toy, out) = (Toy::new(), tempfile::tempdir().unwrap());
    toy.tokenizer();
    data(out.path(), 8);
    let at = |name: &str| out.path().join(name);
    let (adapters, page, peft) = (at("adapters"), at("loss.html"), at("peft"));
    let args = [
        "--train",
        "--test",
        "--data",
        path(out.path()),
        "--iters",
        "6",
        "--batch-size",
        "2",
        "--num-layers",
        "2",
        "--learning-rate",
        "1e-3",
        "--steps-per-report",
        "2",
        "--steps-per-eval",
        "3",
        "--save-every",
        "4",
        "--mask-prompt",
        "--grad-checkpoint",
        "--pack",
        "--max-seq-length",
        "16",
        "--json",
        "--adapter-path",
        path(&adapters),
        "--report-to",
        path(&page),
        "--peft",
        path(&peft),
    ];
    let ran = toy.run("lora", &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for key in ["iteration", "train_loss", "val_loss", "learning_rate", "tokens_per_second", "peak_memory_gb"] {
        assert!(lines[1].get(key).is_some(), "{key}");
    }
    assert!(lines.last().unwrap()["test_loss"].as_f64().unwrap() > 0.0);
    assert!(fs::read_to_string(at("loss.html")).unwrap().contains("<svg"));
    assert!(at("peft").join("adapter_model.safetensors").exists());
    for name in ["adapters.safetensors", "0000004_adapters.safetensors", "log.jsonl", "loss.svg"] {
        assert!(at("adapters").join(name).exists(), "{name}");
    }
    // the same test loss from the files, ours and PEFT's
    let want = lines.last().unwrap()["test_loss"].as_f64().unwrap();
    for dir in ["adapters", "peft"] {
        let args =
            ["--test", "--data", path(out.path()), "--batch-size", "2", "--mask-prompt", "--json", "--adapter-path"];
        let got = toy.run("lora", &[&args[..], &[path(&at(dir))]].concat()).json();
        assert!((got["test_loss"].as_f64().unwrap() - want).abs() < 1e-4, "{dir}: {got} {want}");
    }
    let fused =
        toy.run("fuse", &["--adapter-path", path(&at("adapters")), "--save-path", path(&at("fused")), "--json"]);
    assert_eq!(fused.json()["fused"].as_array().unwrap().len(), 14);
    assert!(at("fused").join("tokenizer.json").exists());
    toy.run("fuse", &["--adapter-path", path(&at("adapters")), "--save-path", path(&at("fused"))])
        .fails_with(&["not empty"]);
    toy.run("fuse", &["--save-path", path(&at("other"))]).fails_with(&["--adapter-path"]);
}

/// The first Ctrl-C saves and ends with exit code 0.
#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_ends_well() {
    use std::io::{BufRead, BufReader};
    let (toy, out) = (Toy::new(), tempfile::tempdir().unwrap());
    toy.tokenizer();
    data(out.path(), 8);
    let adapters = out.path().join("adapters");
    let mut child = program()
        .args(["lora", "--model", path(toy.path()), "--train", "--data", path(out.path()), "--iters", "1000000"])
        .args(["--num-layers", "2"])
        .args(["--batch-size", "2", "--steps-per-report", "1", "--json", "--adapter-path", path(&adapters)])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let second = lines.nth(1).unwrap().unwrap();
    assert!(second.contains("train_loss"), "{second}");
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // the rest of the pipe has to be read
    let last = lines.map_while(Result::ok).last().unwrap_or(second);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let last: Value = serde_json::from_str(&last).unwrap();
    let state = adapters.join("adapters.state.safetensors");
    assert!(state.exists() && last["iteration"].as_u64().unwrap() < 1_000_000);
    // and it goes on from there
    let at = last["iteration"].as_u64().unwrap() + 2;
    let ran = toy.run(
        "lora",
        &[
            "--train",
            "--data",
            path(out.path()),
            "--iters",
            &at.to_string(),
            "--num-layers",
            "2",
            "--batch-size",
            "2",
            "--steps-per-report",
            "1",
            "--json",
            "--adapter-path",
            path(&adapters),
            "--resume-adapter-file",
            path(&adapters.join("adapters.safetensors")),
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.lines().count() <= 3, "{}", ran.stdout);
}

#[test]
fn settings_come_from_yaml_and_bad_ones_are_named() {
    let (toy, out) = (Toy::new(), tempfile::tempdir().unwrap());
    toy.tokenizer();
    data(out.path(), 8);
    let yaml = out.path().join("run.yaml");
    let write = |more: &str| {
        fs::write(&yaml, format!(
            "train: true\ndata: {}\niters: 2\nbatch_size: 2\nnum_layers: 1\nadapter_path: {}\nlearning_rate: 1e-4\n{more}",
            out.path().display(), out.path().join("a").display()
        )).unwrap();
    };
    write(
        "optimizer: muon\noptimizer_config:\n  muon:\n    momentum: 0.9\nlora_parameters:\n  rank: 4\n  alpha: 8\nlr_schedule:\n  name: cosine_decay\n  warmup: 1\n  arguments: [1e-3, 10]\n",
    );
    let ran = toy.run("lora", &["-c", path(&yaml), "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let config: Value = serde_json::from_slice(&fs::read(out.path().join("a/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["lora_parameters"], json!({"rank": 4, "dropout": 0.0, "scale": 2.0}));
    assert_eq!(config["optimizer"], "muon");
    for (bad, part) in [
        ("leaning_rate: 1\n", "leaning_rate"),
        ("report_to: wandb\n", "wandb"),
        ("num_layers: 99\n", "only 4 layers"),
        ("optimizer_config: {adam: {momentum: 1}}\n", "momentum"),
    ] {
        write(bad);
        let ran = toy.run("lora", &["-c", path(&yaml), "--json"]);
        assert_eq!(ran.code, 1, "{bad}");
        assert!(ran.stderr.contains(part), "{bad}: {}", ran.stderr);
    }
}

/// What the logits of single passes say is the oracle.
#[test]
fn tasks_are_scored_by_likelihood_and_by_match() {
    let (toy, out) = (Toy::new(), tempfile::tempdir().unwrap());
    toy.tokenizer();
    let scored = |text: &str| -> f64 {
        // mean negative log-likelihood of all but the first id
        let ids: Vec<&str> = text.split(' ').map(|w| &w[1..]).collect();
        let file = out.path().join("ids.txt");
        fs::write(&file, ids.join(" ")).unwrap();
        let r = toy.run("perplexity", &["--ids-file", path(&file), "--json"]).json();
        -r["nll"].as_f64().unwrap() * r["tokens"].as_f64().unwrap()
    };
    let (query, choices) = ("w7 w8 w9", ["w40", "w41 w42", "w43"]);
    let context = scored(query);
    let want: Vec<f64> = choices.iter().map(|c| scored(&format!("{query} {c}")) - context).collect();
    let best = (0..3).max_by(|&a, &b| want[a].total_cmp(&want[b])).unwrap();
    let task = out.path().join("choice.jsonl");
    let lines = [
        json!({"query": query, "choices": choices, "answer": best}),
        json!({"question": query, "choices": choices, "answer": choices[(best + 1) % 3]}),
    ];
    fs::write(&task, lines.map(|l| l.to_string()).join("\n")).unwrap();
    let report = toy.run("evaluate", &["--tasks", path(&task), "--log-samples", "--json"]).json();
    let result = &report["results"][0];
    assert_eq!((&result["samples"], &result["accuracy"]), (&json!(2), &json!(0.5)));
    for (i, w) in want.iter().enumerate() {
        let got = result["log"][0]["scores"][i]["logprob"].as_f64().unwrap();
        assert!((got - w).abs() < 1e-3, "{got} {w}");
    }
    assert_eq!(result["log"][0]["scores"][1]["tokens"], 2);
    // greedy answers; the second prompt starts like the first
    let answer = |prompt: &str| -> String {
        let args = ["--prompt", prompt, "--ignore-chat-template", "-m", "5", "--temp", "0", "--json"];
        toy.run("generate", &args).json()["text"].as_str().unwrap().to_string()
    };
    let (first, second) = (answer("w7 w8 w9"), answer("w7 w8 w10 w11"));
    let task = out.path().join("match.jsonl");
    let lines = [
        json!({"prompt": "w7 w8 w9", "answer": first}),
        json!({"prompt": "w7 w8 w10 w11", "answer": ["w0", second]}),
        json!({"prompt": "w7 w8 w10 w11", "answer": "w0 w0"}),
    ];
    fs::write(&task, lines.map(|l| l.to_string()).join("\n")).unwrap();
    let output = out.path().join("report.json");
    let args = ["--tasks", path(&task), "--max-tokens", "5", "--log-samples", "--json", "--output", path(&output)];
    let report = toy.run("evaluate", &args).json();
    let result = &report["results"][0];
    assert_eq!(result["log"][0]["text"], first.as_str(), "{report}");
    assert_eq!(result["log"][1]["text"], second.as_str());
    assert!((result["accuracy"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-9);
    assert!((result["accuracy_stderr"].as_f64().unwrap() - (2.0f64 / 9.0 / 2.0).sqrt()).abs() < 1e-9);
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&output).unwrap()).unwrap(), report);
    // an adapter that changes nothing answers the same, beside another on the same loaded model
    fs::write(&task, "{\"prompt\": \"w7\", \"answer\": 3}\n{\"query\": \"w7\"}\n").unwrap();
    toy.run("evaluate", &["--tasks", path(&task)]).fails_with(&["line 2", "no answer"]);
}

#[test]
fn perplexity_of_a_dataset_has_pythons_order_and_error() {
    let (toy, out) = (Toy::new(), tempfile::tempdir().unwrap());
    toy.tokenizer();
    let file = out.path().join("set.jsonl");
    let text: String = (0..9).map(|i| format!("{{\"text\": \"w{} w{} w{}\"}}\n", 10 + i, 20 + i, 30 + i)).collect();
    fs::write(&file, text).unwrap();
    let args = ["--data", path(&file), "--sequence-length", "6", "--num-samples", "2", "--seed", "0", "--json"];
    let got = toy.run("perplexity", &args).json();
    // numpy.random.seed(0); permutation(9) starts with 7, 2, 1, 4
    let ids = [17, 27, 37, 12, 22, 32, 11, 21, 31, 14, 24, 34].map(|i| i.to_string()).join(" ");
    let ids_file = out.path().join("ids.txt");
    fs::write(&ids_file, ids).unwrap();
    let want = toy.run("perplexity", &["--ids-file", path(&ids_file), "--sequence-length", "6", "--json"]).json();
    assert_eq!(got, want);
    assert_eq!(got["tokens"], 10);
    assert!(got["standard_error"].as_f64().unwrap() > 0.0);
}

#[test]
fn convert_takes_rules_shards_and_refuses_what_is_there() {
    let (toy, out) = (Toy::new(), tempfile::tempdir().unwrap());
    let to = out.path().join("q");
    let rules = out.path().join("rules.json");
    fs::write(&rules, r#"{"*.down_proj": 8, "*embed*": false}"#).unwrap();
    let args = [
        "-q",
        "--q-group-size",
        "32",
        "--quant-predicate",
        path(&rules),
        "--max-shard-gb",
        "0.00002",
        "--mlx-path",
        path(&to),
    ];
    let ran = toy.run("convert", &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let config: Value = serde_json::from_slice(&fs::read(to.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization"]["bits"], 4);
    assert_eq!(config["quantization"]["model.layers.0.mlp.down_proj"]["bits"], 8);
    assert!(
        fs::read_dir(&to)
            .unwrap()
            .filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "safetensors"))
            .count()
            > 3
    );
    toy.run("convert", &args).fails_with(&["not empty"]);
    let generated = program()
        .args(["generate", "--model", path(&to), "--prompt-ids", "1,2,3", "-m", "2", "--json"])
        .output()
        .unwrap();
    assert!(generated.status.success());
}
