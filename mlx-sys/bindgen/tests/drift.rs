//! The committed bindings are those that mlx-c's headers give, on either processor.

use mlx_sys_bindgen::{committed, generate, libclang};

/// Without what formatting changes.
fn plain(text: &str) -> String {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    dense.replace(",)", ")").replace(",}", "}").replace(",>", ">")
}

#[test]
fn the_committed_bindings_are_what_the_headers_give_on_both_processors() {
    let clang = match libclang() {
        Ok(dir) => dir,
        Err(e) if e.starts_with("offline") || e.starts_with("could not download") => {
            println!("skipped, no libclang: {e}");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let committed = plain(&std::fs::read_to_string(committed()).unwrap());
    assert!(committed.matches("pubfn").count() > 600);
    let mut targets = vec!["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
    if std::env::consts::ARCH == "aarch64" {
        targets.remove(0); // the x86-64 headers of the system are not there
    }
    for target in targets {
        let fresh = plain(&generate(&clang, target).unwrap());
        let at = fresh.bytes().zip(committed.bytes()).take_while(|(a, b)| a == b).count();
        let near = |text: &str| text[at.saturating_sub(60)..(at + 60).min(text.len())].to_string();
        assert!(
            fresh == committed,
            "{target}: bindings.rs differs; run `cargo run -p mlx-sys-bindgen`\n  generated {}\n  committed {}",
            near(&fresh),
            near(&committed)
        );
    }
}
