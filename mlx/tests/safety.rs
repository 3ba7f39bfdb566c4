//! Whatever safe code asks for ends in a value, an error or a panic that names op and shapes: never in a crash, foreign
//! memory, junk or the end of the process. Each test stands for rows of what MLX and its C API do by themselves.
mod safety_ {
    pub mod async_errors;
    pub mod bounds;
    pub mod refusals;
    pub mod sizes;
    pub mod threads;
}

/// The text of the error that `f` must end in.
fn refused<R: std::fmt::Debug>(f: impl FnOnce() -> R) -> String {
    match mlx::catch(f) {
        Ok(value) => panic!("accepted: {value:?}"),
        Err(e) => e.to_string(),
    }
}
