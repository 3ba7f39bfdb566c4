//! Failures while something is computed: reported once where it happened, and for good by what depends on it.

use mlx::{self as mx, Array, Device, Dtype, Stream, array, linalg};

fn singular() -> Array {
    array!([[1.0, 2.0], [2.0, 4.0]])
}

/// Every way to get at the value fails.
fn is_an_error(a: &Array) {
    for _ in 0..2 {
        assert!(a.eval().is_err());
        assert!(a.to_vec::<f32>().is_err());
        assert!(a.to_bytes().is_err());
        assert!((a + 1.0).sum(()).eval().is_err(), "what is built on it fails, too");
        assert!(a.to_string().starts_with('<'));
    }
    assert!(mx::Frozen::new(a.clone()).is_err());
}

#[test]
fn a_failed_array_and_all_that_depends_on_it_stay_errors() {
    let bad = linalg::inv(&singular());
    let between = &bad * 2.0;
    let late = &between + 1.0;
    let end = between.sum(());
    let message = end.eval().unwrap_err().to_string();
    assert!(message.contains("LU"), "{message}");
    for a in [&end, &between, &bad, &late] {
        is_an_error(a);
    }
    assert!(bad.eval().unwrap_err().to_string().contains("failed earlier"));
    assert_eq!((array!([1.0]) + 1.0).item::<f32>().unwrap(), 2.0, "the stream works on");
}

#[test]
fn an_asynchronous_failure_is_reported_by_the_next_wait_and_stays() {
    let bad = linalg::inv(&singular());
    let next = &bad + 1.0;
    // the start may already see it, when the worker was quick
    let report = mx::async_eval([&next]).and_then(|()| mx::synchronize());
    assert!(report.unwrap_err().to_string().contains("LU"));
    is_an_error(&next);
    is_an_error(&bad);

    // an unrelated evaluation on the same stream meets the failure, and the junk is no value either
    let bad = linalg::inv(&singular()) * 3.0;
    let unrelated = array!([1.0, 2.0]) * 2.0;
    assert!(mx::async_eval([&bad]).and_then(|()| unrelated.eval()).is_err());
    is_an_error(&bad);
    assert_eq!((array!([1.0, 2.0]) * 2.0).to_vec::<f32>().unwrap(), [2.0, 4.0]);
}

#[test]
fn a_failure_on_one_stream_leaves_another_alone() {
    let other = Stream::new(Device::Cpu).unwrap();
    let good = mx::with_stream(&other, || array!([1.0, 2.0]) * 2.0);
    let bad = linalg::inv(&singular());
    assert!(mx::async_eval([&bad]).and_then(|()| mx::synchronize()).is_err());
    assert_eq!(good.to_vec::<f32>().unwrap(), [2.0, 4.0]);
    is_an_error(&bad);
    let bad = mx::with_stream(&other, || linalg::inv(&singular()));
    assert!(mx::async_eval([&bad]).and_then(|()| other.synchronize()).is_err());
    is_an_error(&bad);
}

#[test]
fn too_few_values_for_a_mask_fail_when_computed() {
    let mut x = mx::zeros([4], Dtype::Float32);
    x.set(array!([true, true, true, false]), array!([1.0, 2.0]));
    is_an_error(&x);
    let mut y = mx::zeros([4], Dtype::Float32);
    y.set(array!([true, true, false, false]), array!([1.0, 2.0]));
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 2.0, 0.0, 0.0]);
    assert!(mx::catch(|| mx::zeros([4], Dtype::Float32).set(array!([true, false]), 1)).is_err());
}

#[test]
fn what_the_backend_cannot_compute_is_an_error_that_stays() {
    let half = mx::ones([2, 4, 4], Dtype::Float16);
    let bad = mx::gather_mm(&half, &half, None, Some(&array!([0, 1])), false);
    if bad.eval().is_err() {
        is_an_error(&bad);
    }
}

#[test]
fn a_failure_inside_of_a_gradient_comes_out() {
    let g = mx::grad(|x: &Array| {
        let scale = linalg::inv(&singular()).sum(());
        // the value is wanted inside: the error is seen here
        if scale.item::<f32>().is_err() { x * 0.0 } else { x * 1.0 }
    });
    assert_eq!(g(&array!(1.0)).item::<f32>().unwrap(), 0.0);
}
