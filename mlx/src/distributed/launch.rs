//! Starts the processes of a ring on this machine.

use crate::error::{Error, Result};
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// Runs `processes` commands side by side, connected as a ring over the loopback device (`mlx.launch -n`), and waits.
///
/// `command` makes the command of each rank; its processes call [`init`](super::init). When one fails, the others are
/// ended. Exit states come back by rank.
///
/// # Errors
/// If a process cannot be started.
pub fn launch(processes: usize, mut command: impl FnMut(usize) -> Command) -> Result<Vec<ExitStatus>> {
    let failed = |e: std::io::Error| Error::op("launch", e.to_string());
    // the system names free ports; they stay free long enough for the processes to take them
    let listeners: Vec<TcpListener> =
        (0..processes).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>().map_err(failed)?;
    let mut nodes = Vec::new();
    for l in &listeners {
        nodes.push(format!("[\"127.0.0.1:{}\"]", l.local_addr().map_err(failed)?.port()));
    }
    drop(listeners);
    let hosts = HostFile::new(&format!("[{}]", nodes.join(", ")))?;

    let mut children = Children(Vec::new());
    for rank in 0..processes {
        let mut c = command(rank);
        c.env("MLX_RANK", rank.to_string()).env("MLX_HOSTFILE", &hosts.0);
        children.0.push(c.spawn().map_err(failed)?);
    }
    children.wait().map_err(failed)
}

/// A file of addresses that goes with its value.
struct HostFile(std::path::PathBuf);

impl HostFile {
    fn new(text: &str) -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mlx-ring-{}-{n}.json", std::process::id()));
        // never through a file that somebody else put there
        let file = std::fs::File::options().write(true).create_new(true).open(&path);
        let written = file.and_then(|mut f| f.write_all(text.as_bytes()));
        written.map_err(|e| Error::file(&path, e.to_string()))?;
        Ok(HostFile(path))
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Processes that do not outlive their value.
struct Children(Vec<Child>);

impl Children {
    fn wait(&mut self) -> std::io::Result<Vec<ExitStatus>> {
        let mut states: Vec<Option<ExitStatus>> = vec![None; self.0.len()];
        while states.iter().any(Option::is_none) {
            for (child, state) in self.0.iter_mut().zip(&mut states) {
                if state.is_none() {
                    *state = child.try_wait()?;
                }
            }
            if states.iter().flatten().any(|s| !s.success()) {
                // the others would wait for it for ever
                self.end();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(states.into_iter().flatten().collect())
    }

    fn end(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end();
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}
