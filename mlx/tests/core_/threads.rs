use mlx::{Array, array};

fn os_threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, |d| d.count())
}

#[test]
fn short_lived_threads_reuse_streams() {
    let one = || (array!([1.0, 2.0]) * 3.0).to_vec::<f32>().unwrap();
    std::thread::spawn(one).join().unwrap();
    let before = os_threads();
    for _ in 0..300 {
        assert_eq!(std::thread::spawn(one).join().unwrap(), [3.0, 6.0]);
    }
    let grown = os_threads().saturating_sub(before);
    assert!(grown < 20, "300 threads left {grown} OS threads");
}

#[test]
fn threads_compute_their_own_graphs() {
    let handles: Vec<_> = (0..4)
        .map(|n| {
            std::thread::spawn(move || {
                for i in 0..200 {
                    let x = Array::from(vec![n as f32 + i as f32; 8]);
                    let y = (&x * 2.0 + 1.0).sum(());
                    assert_eq!(y.item::<f32>().unwrap(), 8.0 * (2.0 * (n + i) as f32 + 1.0));
                }
            })
        })
        .collect();
    for h in handles {
        h.join().unwrap();
    }
}
