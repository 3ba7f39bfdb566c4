//! A prompt saved by `cache-prompt` and gone on from by `generate`.

use crate::toy::{Toy, ids, list, run};

#[test]
fn a_saved_prompt_goes_on_as_if_it_were_read_anew() {
    let toy = Toy::new();
    let file = toy.path().join("prompt.safetensors");
    let file = file.to_str().unwrap();
    let prompt = toy.prompt();
    let (first, rest) = prompt.split_at(30);
    for how in [&[][..], &["--kv-cache", "paged"], &["--kv-cache", "concatenated"], &["--prefill-step-size", "7"]] {
        let args = ["--prompt-ids", &list(first), "--prompt-cache-file", file, "--json"];
        let saved = toy.run("cache-prompt", &[&args[..], how].concat()).json();
        assert_eq!(saved["prompt_tokens"], 30);
        assert!(saved["cache_bytes"].as_u64().unwrap() > 0);
        // the model is noted in the file
        let args = ["generate", "--prompt-cache-file", file, "--prompt-ids", &list(rest), "-m", "13", "--json"];
        let report = run(&args).json();
        assert_eq!(ids(&report["token_ids"]), toy.greedy(), "{how:?}");
        assert_eq!(report["prompt_tokens"], 10);
    }
}

#[test]
fn a_question_follows_the_saved_text() {
    let toy = Toy::new();
    toy.tokenizer();
    let file = toy.path().join("prompt.safetensors");
    let file = file.to_str().unwrap();
    let saved = toy.run("cache-prompt", &["--prompt", "w7 w8", "--prompt-cache-file", file, "--json"]).json();
    assert_eq!(saved["prompt_tokens"], 3, "w1 w7 w8: the turn stays open");
    let go_on = toy.run("generate", &["--prompt-cache-file", file, "--prompt", "w9", "-m", "5", "--json"]).json();
    assert_eq!(ids(&go_on["prompt_ids"]), [9, 2, 3], "from the question on");
    let whole = toy.run("generate", &["--prompt", "w7 w8 w9", "-m", "5", "--json"]).json();
    assert_eq!(go_on["token_ids"], whole["token_ids"]);
}

#[test]
fn a_saved_prompt_that_does_not_fit_is_refused() {
    let (toy, other) = (Toy::new(), Toy::new());
    let file = toy.path().join("prompt.safetensors");
    let file = file.to_str().unwrap();
    let save = ["--prompt-ids", "1,2,3", "--prompt-cache-file", file];
    assert_eq!(toy.run("cache-prompt", &save).code, 0);
    let go_on = ["--prompt-cache-file", file, "--prompt-ids", "4", "-m", "1"];
    other.run("generate", &go_on).fails_with(&["was made with the model", toy.path().to_str().unwrap()]);
    // the same folder by another name
    let dotted = format!("{}/.", toy.path().display());
    assert_eq!(run(&[&["generate", "--model", &dotted], &go_on[..]].concat()).code, 0);
    // another number of layers in the same folder
    let layers = toy.case["config"]["num_hidden_layers"].as_u64().unwrap();
    toy.config(&[("num_hidden_layers", (layers - 1).into())]);
    toy.weights(|t| t.retain(|t| !t.name.contains(&format!("layers.{}.", layers - 1))));
    toy.run("generate", &go_on).fails_with(&[&format!("has {layers} layers"), &format!("needs {}", layers - 1)]);
    std::fs::write(file, b"nonsense").unwrap();
    assert_eq!(toy.run("generate", &go_on).code, 1);
    assert_eq!(run(&["cache-prompt", "--prompt-cache-file", file]).code, 2, "no prompt");
}
