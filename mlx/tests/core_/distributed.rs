//! The ring over loopback: this binary starts itself again as the processes of a group.

use mlx::distributed::{self as dist, Backend};
use mlx::{self as mx, Array, Dtype};
use std::process::{Command, Stdio};

/// What each process of the ring does; a test that does nothing outside of one.
#[test]
fn ring_member() {
    if std::env::var_os("MLX_TEST_RING").is_none() {
        return;
    }
    let g = dist::init(true, Backend::Ring).unwrap();
    let (rank, n) = (g.rank() as i32, g.size() as i32);
    let x = mx::arange(0, 6, 1, None).astype(Dtype::Float32) * (rank + 1);
    let all: i32 = (1..=n).sum();
    let ints = |a: &Array| a.astype(Dtype::Int32).to_vec::<i32>().unwrap();
    assert_eq!(ints(&dist::all_sum(&x, Some(&g))), [0, 1, 2, 3, 4, 5].map(|i| i * all));
    assert_eq!(ints(&dist::all_max(&x, Some(&g))), [0, 1, 2, 3, 4, 5].map(|i| i * n));
    assert_eq!(ints(&dist::all_min(&x, None)), [0, 1, 2, 3, 4, 5]);
    let mine = Array::from([10 * rank, 10 * rank + 1]);
    let joined: Vec<i32> = (0..n).flat_map(|r| [10 * r, 10 * r + 1]).collect();
    assert_eq!(ints(&dist::all_gather(&mine, Some(&g))), joined);

    // once around: rank 0 starts, every other process passes on what it gets plus one
    let (next, last) = (((rank + 1) % n) as usize, ((rank + n - 1) % n) as usize);
    if rank == 0 {
        dist::send(&Array::from([100, 200]), next, Some(&g)).eval().unwrap();
        assert_eq!(ints(&dist::recv([2], Dtype::Int32, last, Some(&g))), [100 + n - 1, 200 + n - 1]);
    } else {
        let got = dist::recv_like(&Array::from([0, 0]), last, Some(&g));
        dist::send(&(got + 1), next, Some(&g)).eval().unwrap();
    }
    assert!(g.split(0, None).is_err(), "the ring cannot split");
    assert!(mx::catch(|| dist::send(&x, 99, Some(&g))).is_err());
    mx::synchronize().unwrap();
}

fn ring(n: usize) {
    let states = dist::launch(n, |_| {
        let mut c = Command::new(std::env::current_exe().unwrap());
        c.args(["core_::distributed::ring_member", "--exact", "--test-threads=1"]);
        c.env("MLX_TEST_RING", "1").stdout(Stdio::null());
        c
    })
    .unwrap();
    assert_eq!(states.len(), n);
    assert!(states.iter().all(|s| s.success()), "{states:?}");
}

#[test]
fn two_processes_compute_together() {
    ring(2);
}

#[test]
fn three_processes_compute_together() {
    ring(3);
}

#[test]
fn a_failing_process_ends_the_others() {
    let states = dist::launch(2, |rank| {
        let mut c = Command::new(if rank == 0 { "false" } else { "sleep" });
        c.args((rank == 1).then_some("1000"));
        c
    });
    assert!(states.unwrap().iter().all(|s| !s.success()));
}

#[test]
fn alone_collectives_are_the_identity() {
    if std::env::var_os("MLX_TEST_RING").is_some() {
        return;
    }
    let x = Array::from([1.0f32, 2.0]);
    assert_eq!(dist::all_sum(&x, None).to_vec::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!(dist::all_gather(&x, None).shape(), [2]);
    assert!(mx::catch(|| dist::recv([1], Dtype::Int32, 0, None)).unwrap_err().to_string().contains("singleton"));
    assert!(dist::init(true, Backend::Ring).is_err());
    assert!(dist::is_available(Backend::Ring));
}
