use crate::tools::{card, error, fresh_seed, normal};
use mlx::{self as mx, Dtype, fast};

/// A part of a joined projection, seen head by head, turns as its copy does.
#[test]
fn a_view_with_gaps_turns_as_its_copy() {
    if !card("a_view_with_gaps_turns_as_its_copy") {
        return;
    }
    fresh_seed();
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        for [b, l, h, d] in [[1, 7, 4, 16], [1, 40, 2, 64], [2, 1, 2, 64], [2, 40, 4, 16]] {
            let joined = normal(&[b, l, 3 * h * d], dtype, 1.0);
            let view = joined.split_at(&[h * d, 2 * h * d], -1)[1].reshape([b, l, h, d]).transpose([0, 2, 1, 3]);
            let copy = mx::contiguous(&view) + 0;
            copy.eval().unwrap();
            for (traditional, offset) in [(false, 0), (false, 5), (true, 0), (true, 5)] {
                let r = fast::Rope { dims: d, traditional, base: 10000.0, scale: 1.0, freqs: None };
                let e = error(&fast::rope(&view, r, offset), &fast::rope(&copy, r, offset));
                assert!(e < 1e-5, "{dtype:?} {:?} {traditional} {offset}: {e}", [b, l, h, d]);
            }
        }
    }
}

/// What comes back is turned as its copy too: the cotangent of a sum is one number seen many times.
#[test]
fn a_cotangent_without_rows_turns_back_as_its_copy() {
    if !card("a_cotangent_without_rows_turns_back_as_its_copy") {
        return;
    }
    fresh_seed();
    for [b, l, h, d] in [[1, 7, 4, 16], [2, 40, 2, 64]] {
        let x = normal(&[b, h, l, d], Dtype::Float32, 1.0);
        let turned = move |x: &mx::Array| fast::rope(x, fast::Rope { dims: d, ..Default::default() }, 3);
        let ones = mx::ones([b, h, l, d], Dtype::Float32);
        ones.eval().unwrap();
        let seen = mx::grad(move |x: &mx::Array| turned(x).sum(()))(&x);
        let copied = mx::grad(move |x: &mx::Array| (turned(x) * &ones).sum(()))(&x);
        let on_cpu = mx::with_device(mx::Device::Cpu, || mx::grad(move |x: &mx::Array| turned(x).sum(()))(&x));
        assert!(error(&seen, &copied) < 1e-5, "{:?}", [b, l, h, d]);
        assert!(error(&seen, &on_cpu) < 1e-4, "{:?}", [b, l, h, d]);
    }
}
