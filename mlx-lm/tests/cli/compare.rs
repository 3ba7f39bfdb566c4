//! `benchmark --compare`: played programs stand in for Python mlx-lm and llama-bench.
#![cfg(unix)]

use crate::toy::Toy;
use mlx_lm::bench::{self, BenchOptions, Other};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A shell script in `dir`. `$n` is the number of its calls, `all` a file with its arguments.
fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    let head = "#!/bin/sh\n[ \"$1\" = ready ] && exit\ncd \"$(dirname \"$0\")\"\necho x >> calls; n=$(wc -l < calls)\necho \"$@\" >> all\n";
    fs::write(&path, format!("{head}{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // another test's child may hold the file open for writing until it execs
    while Command::new(&path).arg("ready").status().is_err_and(|e| e.kind() == std::io::ErrorKind::ExecutableFileBusy) {
    }
    path
}

const PYTHON: &str = "echo Version: 1.2.3 with mlx 4.5.6
echo Running warmup..
echo \"Trial 1:  prompt_tps=7.0, generation_tps=7.0, peak_memory=7.0, total_time=7.0\"
echo \"Averages: prompt_tps=$((n * 100)).000, generation_tps=$n.500, peak_memory=0.250\"";

/// As llama-bench answers: one test a call, numbers by what was asked.
const LLAMA: &str = r#"case "$*" in *"-p 16 -n 0 "*) p=16; g=0; ts=$((n * 1000));; *) p=0; g=4; ts=$((n * 10));; esac
echo "[ {\"build_commit\": \"abc\", \"build_number\": 77, \"backends\": \"CPU\", \"n_threads\": 3,
\"n_prompt\": $p, \"n_gen\": $g, \"avg_ts\": $ts.5, \"samples_ts\": [ $ts.5 ] } ]""#;

fn numbers(rows: &Value, key: &str) -> Vec<f64> {
    rows.as_array().unwrap().iter().map(|row| row[key].as_f64().unwrap()).collect()
}

/// Smallest, middle and largest ratio of three pairs.
fn spread(ours: &[f64], theirs: &[f64]) -> [f64; 3] {
    let mut r = [ours[0] / theirs[0], ours[1] / theirs[1], ours[2] / theirs[2]];
    r.sort_by(f64::total_cmp);
    r
}

#[test]
fn python_runs_in_turn_and_each_pair_gives_a_ratio() {
    let toy = Toy::new();
    let python = script(toy.path(), "python", PYTHON);
    let args = ["--compare", "python", "--python", python.to_str().unwrap(), "-p", "16", "-g", "4", "-n", "3"];
    let report = toy.run("benchmark", &[&args[..], &["--device", "cpu", "--json"]].concat()).json();
    assert_eq!(report["program"], "mlx-lm (Python)");
    assert_eq!(report["version"], "1.2.3 with mlx 4.5.6");
    assert_eq!(numbers(&report["their_trials"], "prompt_tps"), [100.0, 200.0, 300.0]);
    assert_eq!(numbers(&report["their_trials"], "generation_tps"), [1.5, 2.5, 3.5]);
    assert_eq!(
        report["theirs"],
        serde_json::json!({"prompt_tps": 200.0, "generation_tps": 2.5, "peak_memory_gb": 0.25})
    );
    for key in ["prompt_tps", "generation_tps"] {
        let want = spread(&numbers(&report["ours"]["trials"], key), &numbers(&report["their_trials"], key));
        let got = &report["ratios"][key];
        for (name, want) in ["min", "median", "max"].into_iter().zip(want) {
            let got = got[name].as_f64().unwrap();
            assert!((got / want - 1.0).abs() < 1e-9, "{key} {name}: {got} {want}");
        }
    }
    // Python got the same model, lengths and device
    let asked = fs::read_to_string(toy.path().join("all")).unwrap();
    let folder = fs::canonicalize(toy.path()).unwrap();
    let model = format!("--num-trials 1 --model {}", folder.display());
    let rest = "--prompt-tokens 16 --generation-tokens 4 --batch-size 1 --prefill-step-size 2048";
    assert_eq!(asked.matches(&format!(" cpu {model} {rest}\n")).count(), 3, "{asked}");
    let out = toy.run("benchmark", &[&args[..], &["--device", "cpu"]].concat());
    let last = out.stdout.lines().last().unwrap();
    assert!(last.starts_with("Ratios, mlx-lm to mlx-lm (Python): prompt "), "{}", out.stdout);
    assert_eq!(out.stdout.lines().filter(|l| l.starts_with("Trial ")).count(), 3);
}

#[test]
fn llama_bench_is_asked_for_prompt_and_tokens_after_it() {
    let toy = Toy::new();
    let model = toy.path().join("toy.gguf");
    let llama = Other::LlamaCpp(script(toy.path(), "llama-bench", LLAMA));
    let lm = mlx_lm::load(toy.path()).unwrap();
    let options = BenchOptions { prompt_tokens: 16, generation_tokens: 4, num_trials: 2, ..BenchOptions::default() };
    let mut seen = Vec::new();
    let got = bench::compare(&lm.model.decoder, &model, &llama, options, &mut |i, _, t| seen.push((i, *t))).unwrap();
    let speeds: Vec<_> = got.their_trials.iter().map(|t| (t.prompt_tps, t.generation_tps)).collect();
    assert_eq!(speeds, [(1000.5, 20.5), (3000.5, 40.5)]);
    assert_eq!(seen, [(1, got.their_trials[0]), (2, got.their_trials[1])]);
    assert_eq!((got.program, got.theirs.prompt_tps, got.theirs.peak_memory_gb), ("llama.cpp", 2000.5, None));
    assert_eq!(got.version, "build 77 (abc), CPU, 3 threads");
    let asked = fs::read_to_string(toy.path().join("all")).unwrap();
    assert!(asked.lines().all(|l| l.starts_with(&format!("-m {} -o json -r 1 -ngl ", model.display()))), "{asked}");
    assert!(asked.lines().nth(1).unwrap().contains(" -p 0 -n 4 -t ") && asked.contains(" --n-depth 16\n"), "{asked}");
}

#[test]
fn a_program_that_is_missing_or_strange_is_one_line() {
    let toy = Toy::new();
    let compare = |program: &str, flag: &str, path: &str| {
        toy.run("benchmark", &["--compare", program, flag, path, "-p", "4", "-g", "2", "-n", "1", "--json"])
    };
    compare("python", "--python", "/nonexistent/py").fails_with(&["/nonexistent/py: No such file", "--python PATH"]);
    let without = "echo \"ModuleNotFoundError: No module named 'mlx_lm'\" >&2; exit 1";
    let python = |name, body| script(toy.path(), name, body).to_str().unwrap().to_owned();
    compare("python", "--python", &python("without", without)).fails_with(&["has no mlx-lm", "-m pip install 'mlx-lm"]);
    compare("python", "--python", &python("dies", "echo first >&2; echo last >&2; exit 3")).fails_with(&["3: last"]);
    let words = "echo 'Averages: prompt_tps=fast, generation_tps=1'";
    compare("python", "--python", &python("words", words)).fails_with(&["words: its output has no line"]);
    compare("llama.cpp", "--binary", "llama-bench").fails_with(&["llama.cpp reads .gguf files, and "]);

    let lm = mlx_lm::load(toy.path()).unwrap();
    let model = toy.path().join("toy.gguf");
    let fails = |binary: PathBuf, batch_size| {
        let options = BenchOptions { batch_size, num_trials: 1, ..BenchOptions::default() };
        let compared = bench::compare(&lm.model.decoder, &model, &Other::LlamaCpp(binary), options, &mut |_, _, _| ());
        compared.unwrap_err().to_string()
    };
    let missing = fails("/nonexistent/bench".into(), 1);
    assert!(missing.starts_with("/nonexistent/bench: No such file") && missing.ends_with("llama-bench"), "{missing}");
    for (name, body) in [("plain", "echo 512 tokens"), ("other", "echo '[{\"n_prompt\": 511, \"avg_ts\": 1.0}]'")] {
        let strange = fails(script(toy.path(), name, body), 1);
        assert!(strange.contains("no JSON array with a test of n_prompt = 512"), "{strange}");
    }
    assert!(fails("llama-bench".into(), 2).contains("one sequence at once, not 2"));
    let python = Other::Python("python3".into());
    let refused = bench::compare(&lm.model.decoder, &model, &python, BenchOptions::default(), &mut |_, _, _| ());
    assert!(refused.unwrap_err().to_string().contains("reads model directories"));
}
