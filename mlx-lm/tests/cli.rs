//! The command line from outside: its contract, bad input, the real model; and text generation below it.
#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/cache_prompt.rs"]
mod cache_prompt;
#[path = "cli/compare.rs"]
mod compare;
#[path = "cli/contract.rs"]
mod contract;
#[path = "cli/generation.rs"]
mod generation;
#[path = "cli/real.rs"]
mod real;
#[path = "goldens/rule.rs"]
mod rule;
#[path = "cli/toy.rs"]
mod toy;
#[path = "cli/training.rs"]
mod training;
