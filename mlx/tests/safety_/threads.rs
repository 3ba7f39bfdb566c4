//! Threads: each has its own streams and random numbers; what crosses is evaluated and frozen.

use mlx::{self as mx, Array, Dtype, Frozen, array, random};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the long test runs: seconds in `MLX_SAFETY_SECONDS`, else a moment.
fn span() -> Duration {
    let seconds = std::env::var("MLX_SAFETY_SECONDS").ok().and_then(|s| s.parse().ok());
    seconds.map_or(Duration::from_millis(500), Duration::from_secs)
}

#[test]
fn eight_threads_compute_their_own_graphs() {
    let shared = Frozen::new(mx::arange(0, 256, 1, None).astype(Dtype::Float32).reshape([16, 16])).unwrap();
    let end = Instant::now() + span();
    let rounds: Vec<u64> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let shared = &shared;
                s.spawn(move || {
                    let mut rounds = 0;
                    while Instant::now() < end {
                        let w = shared.thaw();
                        let x = mx::full([16], n as f32 + 1.0, None);
                        let y = w.matmul(&x.reshape([16, 1])).sum(()) / (n as f32 + 1.0);
                        assert_eq!(y.item::<f32>().unwrap(), 32640.0);
                        let g = mx::grad(|x: &Array| (x * x).sum(()))(&x);
                        assert_eq!(g.to_vec::<f32>().unwrap(), [2.0 * (n as f32 + 1.0); 16]);
                        let mut z = mx::zeros([4], Dtype::Int32);
                        z.set(n % 4, n);
                        mx::async_eval([&z]).unwrap();
                        assert_eq!(z.i(n % 4).item::<i32>().unwrap(), n);
                        if n == 7 {
                            // a failing neighbour does not disturb the others
                            assert!(mx::linalg::inv(&mx::zeros([2, 2], Dtype::Float32)).eval().is_err());
                        }
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(rounds.iter().all(|r| *r > 0), "{rounds:?}");
    println!("rounds by thread: {rounds:?}");
}

fn os_threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).map_or(0, |pages| pages * 4096)
}

/// Measured in a process of its own: other tests of this binary use memory, too.
#[test]
fn ten_thousand_short_lived_threads_do_not_grow_the_process() {
    if std::env::var_os("MLX_SAFETY_ALONE").is_none() {
        let name = "safety_::threads::ten_thousand_short_lived_threads_do_not_grow_the_process";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let out = alone.args([name, "--exact"]).env("MLX_SAFETY_ALONE", "1").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        return;
    }
    let one = |i: i32| {
        let f = move || (array!([1, 2]) * i + random::randint(0, 1, (), Dtype::Int32, None)).to_vec::<i32>();
        assert_eq!(std::thread::spawn(f).join().unwrap().unwrap(), [i, 2 * i]);
    };
    (0..1000).for_each(one);
    let (threads, bytes) = (os_threads(), resident());
    (1000..10_000).for_each(one);
    assert!(os_threads() <= threads + 2, "{threads} -> {} OS threads", os_threads());
    assert!(resident() <= bytes + (24 << 20), "{bytes} -> {} bytes", resident());
}

#[test]
fn no_two_threads_draw_the_same_numbers() {
    let draw = || random::uniform(0, 1, [4], Dtype::Float32, None).to_vec::<f32>().unwrap();
    let threads: Vec<_> = (0..16).map(|_| std::thread::spawn(draw)).collect();
    let drawn: BTreeSet<Vec<u32>> =
        threads.into_iter().map(|t| t.join().unwrap().into_iter().map(f32::to_bits).collect()).collect();
    assert_eq!(drawn.len(), 16);
    // a seed belongs to its thread, and gives the same numbers on any
    let seeded = move || {
        random::seed(7);
        draw()
    };
    let there = std::thread::spawn(seeded).join().unwrap();
    assert_eq!(seeded(), there);
}

#[test]
fn frozen_arrays_outlive_their_thread() {
    let frozen: Vec<Frozen<Array>> = (0..50)
        .map(|n| std::thread::spawn(move || Frozen::new(array!([1.0, 2.0]) * n as f32).unwrap()).join().unwrap())
        .collect();
    for (n, f) in frozen.iter().enumerate() {
        assert_eq!((f.thaw() + 1.0).to_vec::<f32>().unwrap(), [n as f32 + 1.0, 2.0 * n as f32 + 1.0]);
    }
}
