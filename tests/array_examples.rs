//! Runs the examples that finish in seconds; each fails if it does not reach what it is to show.

#[path = "../examples/char_gpt.rs"]
mod char_gpt;
#[path = "../examples/compiled_step.rs"]
mod compiled_step;
#[path = "../examples/custom_kernel.rs"]
mod custom_kernel;
#[path = "../examples/linear_regression.rs"]
mod linear_regression;
#[path = "../examples/logistic_regression.rs"]
mod logistic_regression;
#[path = "../examples/lora_by_hand.rs"]
mod lora_by_hand;
#[path = "../examples/mlp_synthetic.rs"]
mod mlp_synthetic;
#[path = "../examples/per_example_gradients.rs"]
mod per_example_gradients;
#[path = "../examples/rnn.rs"]
mod rnn;

macro_rules! runs {
    ($($name:ident),*) => { $(
        #[test]
        fn $name() {
            $name::main().unwrap();
        }
    )* };
}
// the modules and the tests share their names
mod run {
    use super::*;
    runs!(
        linear_regression,
        logistic_regression,
        mlp_synthetic,
        char_gpt,
        rnn,
        per_example_gradients,
        custom_kernel,
        compiled_step,
        lora_by_hand
    );
}

// starts processes of itself, so it runs as a program; `cargo test` builds it beside this test
#[test]
fn data_parallel() {
    let exe = std::env::current_exe().unwrap();
    let program = exe.parent().and_then(|deps| deps.parent()).unwrap().join("examples/data_parallel");
    if !program.exists() {
        eprintln!("{} is not built: run `cargo test` without --test", program.display());
        return;
    }
    let out = std::process::Command::new(program).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("2 processes"), "{text}{}", String::from_utf8_lossy(&out.stderr));
}
