use crate::tools::{card, error, fresh_seed, normal, poison};
use mlx::optim::{Adam, AdamW, Optimizer};
use mlx::{self as mx, Array, Device, Dtype, nn::Grads};

fn three_updates(mut o: impl Optimizer, gradients: &Grads, parameters: &Grads) -> Vec<Array> {
    let mut p = parameters.clone();
    for _ in 0..3 {
        p = o.apply_gradients(gradients, &p);
        poison(4 * 4097);
    }
    p.into_values().chain(o.state().into_values()).collect()
}

/// The same updates by small ops on the CPU are the reference.
#[test]
fn adam_in_one_op_is_adam() {
    if !card("adam_in_one_op_is_adam") {
        return;
    }
    fresh_seed();
    let shapes: &[&[i32]] = &[&[1], &[31], &[7, 33], &[4097], &[300, 1000]];
    let make = |scale| -> Grads {
        let some = |(i, s): (usize, &&[i32])| (format!("p{i}"), normal(s, Dtype::Float32, scale));
        shapes.iter().enumerate().map(some).collect()
    };
    let (g, mut p) = (make(0.01), make(1.0));
    // a view that is not contiguous
    p.insert("p2".into(), normal(&[33, 7], Dtype::Float32, 1.0).t());
    for (corrected, decay) in [(false, None), (true, None), (false, Some(0.1)), (true, Some(0.01))] {
        let run = || match decay {
            None => three_updates(Adam { bias_correction: corrected, ..Adam::new(1e-2) }, &g, &p),
            Some(weight_decay) => {
                three_updates(AdamW { bias_correction: corrected, weight_decay, ..AdamW::new(1e-2) }, &g, &p)
            }
        };
        let fused = run();
        let plain = mx::with_device(Device::Cpu, run);
        for (a, b) in fused.iter().zip(&plain) {
            let e = error(a, b);
            assert!(e < 1e-6, "{corrected} {decay:?} {:?}: {e}", a.shape());
        }
    }
}
