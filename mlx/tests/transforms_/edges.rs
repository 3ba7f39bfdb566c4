//! What must not crash: nothing in, nothing out, leaked tracers, evaluation inside traces, threads that end.

use mlx::{self as mx, Array, CustomFunction, Frozen, array};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[test]
fn functions_of_nothing_and_to_nothing() {
    let (value, ()) = mx::value_and_grad(|(): &()| array!(2.0))(&());
    assert_eq!(value.item::<f32>().unwrap(), 2.0);
    let none = mx::catch(|| mx::grad(|_: &Array| Array::from_slice(&[0.0f32; 0], 0))(&array!(1.0)));
    assert!(none.unwrap_err().to_string().contains("scalar"));
    let _ = mx::catch(|| mx::compile(|_: &Array| Vec::<Array>::new()).call(&array!(1.0)));
    let _ = mx::catch(|| mx::compile(|(): &()| array!(3.0)).call(&()));
    let _ = mx::catch(|| mx::vmap(|_: &Array| ())(&array!([1.0])));
    let _ = mx::catch(|| mx::vjp(|_: &Array| (), &array!(1.0), &()));
    let _ = mx::catch(|| mx::jvp(|_: &Array| (), &array!(1.0), &array!(1.0)));
    assert!(mx::catch(|| mx::checkpoint(|_: &Array| ())(&array!(1.0))).is_err());
    assert!(mx::catch(|| mx::vmap(|x: &Array| x.clone())(&array!(1.0))).is_err());
    assert!(mx::catch(|| mx::vjp(|x: &Array| x.clone(), &array!([1.0, 2.0]), &array!(1.0))).is_err());
    assert!(mx::catch(|| mx::jvp(|x: &Array| x.clone(), &array!([1.0, 2.0]), &array!(1.0))).is_err());
    assert!(mx::catch(|| mx::value_and_grad_argnums(|a| a.to_vec(), &[array!(1.0)], &[1])).is_err());
    assert!(mx::catch(|| mx::value_and_grad_argnums(|a| a.to_vec(), &[array!(1.0)], &[-1])).is_err());
    let _ = mx::catch(|| mx::grad(|x: &Array| x.sum(()))(&array!(3)));
}

#[test]
fn a_tracer_that_gets_out_has_no_value() {
    let kept = RefCell::new(None);
    mx::vmap(|x: &Array| {
        *kept.borrow_mut() = Some(x * 2.0);
        x + 1.0
    })(&array!([1.0, 2.0]));
    let leaked: Array = kept.into_inner().unwrap();
    assert!(leaked.eval().is_err() && leaked.to_vec::<f32>().is_err());
    assert!(!leaked.to_string().is_empty());

    let kept = Rc::new(RefCell::new(None));
    let place = kept.clone();
    mx::compile(move |x: &Array| {
        *place.borrow_mut() = Some(x * 2.0);
        x + 1.0
    })
    .call(&array!(1.0));
    let leaked = kept.borrow_mut().take().unwrap();
    assert!(leaked.eval().is_err());
    assert!(leaked.to_vec::<f32>().is_err());
    assert!(Frozen::new(leaked).is_err());
    // out of a gradient it is an ordinary array
    let kept = RefCell::new(None);
    mx::grad(|x: &Array| {
        *kept.borrow_mut() = Some(x * 2.0);
        x.sum(())
    })(&array!([1.0, 2.0]));
    assert_eq!(kept.into_inner().unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0]);
}

#[test]
fn evaluation_inside_a_trace_is_an_error_there() {
    let failed = Rc::new(RefCell::new(Vec::new()));
    let seen = failed.clone();
    mx::compile(move |x: &Array| {
        let mut seen = seen.borrow_mut();
        seen.push(x.eval().is_err());
        seen.push((x + 1).item::<f32>().is_err());
        seen.push(Frozen::new(x.clone()).is_err());
        x.clone()
    })
    .call(&array!(1.0));
    mx::vmap(|x: &Array| {
        failed.borrow_mut().push((x + 1).item::<f32>().is_err());
        x.clone()
    })(&array!([1.0, 2.0]));
    assert_eq!(*failed.borrow(), [true; 4]);
    // and everything goes on afterwards
    assert_eq!((array!(1.0) + 1.0).item::<f32>().unwrap(), 2.0);
    let inside = mx::grad(|x: &Array| x.square().sum(()) * x.item::<f32>().unwrap());
    assert_eq!(inside(&array!(3.0)).item::<f32>().unwrap(), 18.0);
}

#[test]
fn transforms_nest_in_each_other() {
    let inner = Rc::new(mx::compile(|x: &Array| x.square()));
    let f = inner.clone();
    let outer = mx::compile(move |x: &Array| f.call(x) + 1.0);
    assert_eq!(outer.call(&array!(3.0)).item::<f32>().unwrap(), 10.0);
    let y = mx::vmap(|x: &Array| inner.call(x))(&array!([1.0, 2.0]));
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 4.0]);
    let y = mx::compile(|x: &Array| mx::vmap(|r: &Array| r.sum(()))(x)).call(&array!([[1.0, 2.0], [3.0, 4.0]]));
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0, 7.0]);
    let step = mx::compile(|x: &Array| {
        let f = mx::checkpoint(|x: &Array| (x * x * x).sum(()));
        mx::grad(|x: &Array| f(x))(x)
    });
    assert_eq!(step.call(&array!([1.0, 2.0])).to_vec::<f32>().unwrap(), [3.0, 12.0]);
    let custom = CustomFunction::new(|x: &Array| x * 2.0).vjp(|_, c: &Array, _| c * 5.0);
    let y = mx::vmap(|x: &Array| custom.call(x))(&array!([1.0, 2.0]));
    assert_eq!(y.to_vec::<f32>().unwrap(), [2.0, 4.0]);
    let g = mx::vmap(|x: &Array| mx::grad(|x: &Array| custom.call(x))(x))(&array!([1.0, 2.0]));
    assert_eq!(g.to_vec::<f32>().unwrap(), [5.0, 5.0]);
}

#[test]
fn panics_in_derivatives_and_in_drops_stay_where_they_belong() {
    let f = CustomFunction::new(|x: &Array| x * 2.0).vjp(|_, _: &Array, _| panic!("no derivative here"));
    let failed = catch_unwind(AssertUnwindSafe(|| mx::grad(|x: &Array| f.call(x))(&array!(1.0))));
    assert_eq!(failed.unwrap_err().downcast_ref::<&str>(), Some(&"no derivative here"));

    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("a drop that panics");
            }
        }
    }
    let loud = Loud;
    let f = mx::compile(move |x: &Array| {
        let _loud = &loud;
        x + 1.0
    });
    f.call(&array!(1.0));
    let _ = catch_unwind(AssertUnwindSafe(|| drop(f)));
    assert_eq!((array!(1.0) + 1.0).item::<f32>().unwrap(), 2.0);
}

#[test]
fn compiled_functions_may_outlive_everything_in_their_thread() {
    thread_local! { static KEPT: RefCell<Option<mx::Compiled<Array, Array>>> = const { RefCell::new(None) }; }
    for _ in 0..20 {
        std::thread::spawn(|| {
            let f = mx::compile(|x: &Array| x.exp().log() + 1.0);
            assert!((f.call(&array!(2.0)).item::<f32>().unwrap() - 3.0).abs() < 1e-5);
            KEPT.with(|k| *k.borrow_mut() = Some(f));
        })
        .join()
        .unwrap();
    }
    let threads: Vec<_> = (0..4)
        .map(|n| {
            std::thread::spawn(move || {
                let f = mx::compile(move |x: &Array| mx::grad(|x: &Array| (x * x * n).sum(()))(x));
                for i in 0..100 {
                    assert_eq!(f.call(&array!(i as f32)).item::<f32>().unwrap(), (2 * i * n) as f32);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn graphs_kept_by_frozen_values_drop_their_closures_at_home() {
    let kept = Rc::new(());
    let capture = kept.clone();
    let f = CustomFunction::new(move |x: &Array| {
        let _capture = &capture;
        x * 2.0
    })
    .vjp(|_, c: &Array, _| c.clone());
    let frozen = Frozen::new(f.call(&array!([1.0, 2.0]))).unwrap();
    std::thread::spawn(move || assert_eq!(frozen.thaw().to_vec::<f32>().unwrap(), [2.0, 4.0])).join().unwrap();
    drop(f);
    mx::grad(|x: &Array| x.sum(()))(&array!(1.0));
    assert_eq!(Rc::strong_count(&kept), 1);
}
