use mlx::{self as mx, Array, array};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[test]
fn value_and_grad_differentiates_the_first_output_in_the_order_asked_for() {
    let target = array!([1.0, 1.0]);
    let f = |a: &[Array]| vec![((&a[0] * &a[1] - &target).square()).sum(()), &a[0] + 1.0];
    let args = [array!([2.0, 3.0]), array!([4.0, 5.0])];
    let (values, grads) = mx::value_and_grad_argnums(f, &args, &[1, 0]);
    assert_eq!(values[0].item::<f32>().unwrap(), 49.0 + 196.0);
    assert_eq!(values[1].to_vec::<f32>().unwrap(), [3.0, 4.0]);
    // d/db = 2 (ab - t) a, d/da = 2 (ab - t) b
    assert_eq!(grads[0].to_vec::<f32>().unwrap(), [28.0, 84.0]);
    assert_eq!(grads[1].to_vec::<f32>().unwrap(), [56.0, 140.0]);
}

#[test]
fn panics_in_closures_come_out_as_themselves_and_captures_are_freed() {
    let kept = Rc::new(());
    for _ in 0..3 {
        let capture = kept.clone();
        let f = move |a: &[Array]| -> Vec<Array> {
            let _capture = &capture;
            assert_eq!(a.len(), 7, "not seven");
            vec![]
        };
        let run = AssertUnwindSafe(|| mx::value_and_grad_argnums(f, &[array!(1.0)], &[0]));
        let message = *catch_unwind(run).unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("not seven"), "{message}");
    }
    assert_eq!(Rc::strong_count(&kept), 1);
    let shapes = |a: &[Array]| vec![(&a[0] + array!([1.0, 2.0, 3.0])).sum(())];
    let e = mx::catch(|| mx::value_and_grad_argnums(shapes, &[array!([1.0, 2.0])], &[0])).unwrap_err().to_string();
    assert!(e.contains("[add]") && e.contains("[3]"), "{e}");
    let e = mx::catch(|| mx::value_and_grad_argnums(|a| vec![a[0].clone()], &[array!([1.0, 2.0])], &[0])).unwrap_err();
    assert!(e.to_string().contains("scalar"), "{e}");
}

#[test]
fn vjp_and_jvp_multiply_by_the_jacobian() {
    let f = |x: &Array| (x.square(), x * 3.0);
    let x = array!([1.0, 2.0]);
    let ((y, _), product) = mx::vjp(f, &x, &(array!([1.0, 10.0]), array!([1.0, 1.0])));
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 4.0]);
    assert_eq!(product.to_vec::<f32>().unwrap(), [2.0 + 3.0, 40.0 + 3.0]);
    let (_, (a, b)) = mx::jvp(f, &x, &array!([1.0, 10.0]));
    assert_eq!(a.to_vec::<f32>().unwrap(), [2.0, 40.0]);
    assert_eq!(b.to_vec::<f32>().unwrap(), [3.0, 30.0]);
}

#[test]
fn captured_arrays_are_constants_and_closures_may_borrow() {
    let w = array!([3.0, 4.0]);
    let g = mx::grad(|x: &Array| (x * &w * &w).sum(()));
    assert_eq!(g(&array!([1.0, 1.0])).to_vec::<f32>().unwrap(), [9.0, 16.0]);
    // d/dw of a function that captures w is not seen
    let g = mx::grad(|_x: &Array| w.square().sum(()));
    assert_eq!(g(&w).to_vec::<f32>().unwrap(), [0.0, 0.0]);
}

#[test]
fn errors_of_closures_come_out_as_themselves() {
    #[derive(Debug, PartialEq)]
    struct TooBig(i32);
    let f = mx::try_value_and_grad(|x: &Array| if x.size() > 2 { Err(TooBig(x.size() as i32)) } else { Ok(x.sum(())) });
    assert_eq!(f(&array!([1.0, 2.0, 3.0])).err(), Some(TooBig(3)));
    assert_eq!(f(&array!([1.0, 2.0])).unwrap().1.to_vec::<f32>().unwrap(), [1.0, 1.0]);
    // through two transforms
    let g = mx::try_value_and_grad(|x: &Array| {
        let inner = mx::try_value_and_grad(|_: &Array| Err::<Array, _>(TooBig(7)));
        inner(x).map(|(v, _)| v)
    });
    assert_eq!(g(&array!(1.0)).err(), Some(TooBig(7)));
}

#[test]
fn a_chain_of_a_hundred_thousand_ops_fits_on_a_small_stack() {
    let run = || {
        let chain = |a: &[Array]| {
            let mut y = a[0].clone();
            for _ in 0..100_000 {
                y = y + 1.0;
            }
            vec![y]
        };
        let (_, g) = mx::value_and_grad_argnums(chain, &[array!(1.0)], &[0]);
        assert_eq!(g[0].item::<f32>().unwrap(), 1.0);
        let f = mx::compile(move |a: &Array| chain(std::slice::from_ref(a)));
        assert_eq!(f.call(&array!(0.0))[0].item::<f32>().unwrap(), 100_000.0);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}
