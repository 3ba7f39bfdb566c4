use crate::{assert_close, numbers};
use mlx::nn::{Adapter, Embedding, LayerNorm, Linear, ModuleExt, RmsNorm, Rope, Rotation, SwitchLinear};
use mlx::{self as mx, Array, Dtype, Quant, QuantMode, array};

/// x W.T by loops.
fn product(x: &[f64], w: &[f64], n: usize, k: usize) -> Vec<f64> {
    let dot = |row: &[f64], o: usize| (0..k).map(|i| row[i] * w[o * k + i]).sum();
    x.chunks(k).flat_map(|row| (0..n).map(move |o| dot(row, o)).collect::<Vec<f64>>()).collect()
}

fn vec(a: &Array) -> Vec<f64> {
    a.to_vec().unwrap()
}

#[test]
fn linear_is_x_times_w_transposed_plus_b() {
    let (x, w, b) = (numbers(&[2, 3], -1.0, 1.0), numbers(&[4, 3], -2.0, 2.0), array!([1.0, 2.0, 3.0, 4.0]));
    let mut expected = product(&vec(&x), &vec(&w), 4, 3);
    let layer = Linear::new(w, Some(b.clone()));
    expected.iter_mut().enumerate().for_each(|(i, y)| *y += (i % 4 + 1) as f64);
    let expected: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
    assert_close(&layer.forward(&x), &Array::from_slice(&expected, [2, 4]), 1e-6);
    assert_eq!((layer.in_features(), layer.out_features(), layer.quant()), (3, 4, None));
}

#[test]
fn quantised_layers_compute_with_the_dequantised_weight() {
    let (x, w) = (numbers(&[3, 128], -1.0, 1.0), numbers(&[8, 128], -2.0, 2.0));
    for quant in
        [Quant::affine(32, 4), Quant::affine(64, 8), Quant::of_mode(QuantMode::Mxfp4), Quant::of_mode(QuantMode::Nvfp4)]
    {
        let mut layer = Linear::new(w.clone(), Some(numbers(&[8], 0.0, 1.0)));
        layer.quantize(quant);
        assert_eq!((layer.in_features(), layer.out_features(), layer.quant()), (128, 8, Some(quant)));
        assert!(layer.dense_weight().dim(-1) == 128 && layer.weight().dtype() == Dtype::Uint32);
        let dense = Linear::new(layer.dense_weight(), layer.bias().cloned());
        assert_close(&layer.forward(&x), &dense.forward(&x), 1e-4);
        let names: Vec<String> = layer.parameters().into_iter().map(|p| p.0).collect();
        let affine = quant.mode == QuantMode::Affine;
        assert_eq!(
            names,
            if affine { vec!["weight", "scales", "biases", "bias"] } else { vec!["weight", "scales", "bias"] }
        );
        assert_eq!(layer.trainable().len(), 1);
        layer.freeze();
        layer.unfreeze();
        assert_eq!(layer.trainable()[0].0, "bias");

        let mut table = Embedding::new(w.clone());
        table.quantize(quant);
        let ids = array!([[7, 0], [3, -1]]);
        assert_close(&table.forward(&ids), &Embedding::new(table.dense_weight()).forward(&ids), 1e-6);
        assert_eq!(table.forward(&array!(3)).shape(), [128]);
        assert_close(&table.as_linear(&x), &x.matmul(&table.dense_weight().t()), 1e-4);
        layer.dequantize();
        assert_eq!(layer.quant(), None);
    }
    let refused = mx::catch(|| Linear::new(numbers(&[4, 48], 0.0, 1.0), None).quantize(Quant::affine(32, 4)));
    assert!(refused.unwrap_err().to_string().contains("48"));
}

#[test]
fn lora_adds_a_scaled_product_and_fuses_into_the_weight() {
    let (x, w) = (numbers(&[5, 64], -1.0, 1.0), numbers(&[3, 64], -2.0, 2.0));
    let (a, b) = (numbers(&[64, 2], -0.3, 0.4), numbers(&[2, 3], -1.0, 0.5));
    let mut layer = Linear::new(w.clone(), Some(array!([1.0, 2.0, 3.0])));
    let plain = layer.forward(&x);
    layer.set_adapter(Some(Adapter::lora(a.clone(), b.clone(), 20.0, 0.0)));
    let expected = &plain + x.matmul(&a).matmul(&b) * 20.0;
    assert_close(&layer.forward(&x), &expected, 1e-5);
    let names: Vec<String> = layer.parameters().into_iter().map(|p| p.0).collect();
    assert_eq!(names, ["weight", "bias", "lora_a", "lora_b"]);
    layer.fuse(false);
    assert!(layer.adapter().is_none());
    assert_close(&layer.forward(&x), &expected, 1e-4);
    assert!(mx::catch(|| layer.set_adapter(Some(Adapter::lora(b, a, 1.0, 0.0)))).is_err());

    let mut fresh = Linear::new(w, None);
    let before = fresh.forward(&x);
    fresh.add_lora(4, 10.0, 0.0);
    assert_close(&fresh.forward(&x), &before, 0.0);
    fresh.quantize(Quant::affine(64, 4));
    fresh.fuse(false);
    assert_eq!(fresh.quant(), Some(Quant::affine(64, 4)));
}

/// Under 16-bit layers the gradients of float32 factors are those of the products written out.
#[test]
fn gradients_of_lora_under_16_bit_layers_are_those_of_the_products() {
    let (x, w) = (numbers(&[2, 5, 8], -1.0, 1.0), numbers(&[3, 8], -2.0, 2.0));
    let (x, w) = (x.astype(Dtype::Bfloat16), w.astype(Dtype::Bfloat16));
    let factors = (numbers(&[8, 2], -0.3, 0.4), numbers(&[2, 3], -1.0, 0.5), x.clone());
    let weights = numbers(&[2, 5, 3], -1.0, 2.0).astype(Dtype::Bfloat16).astype(Dtype::Float32);
    let layer = Linear::new(w.clone(), None);
    let adapted = |(a, b, x): &(Array, Array, Array)| {
        let mut layer = layer.clone();
        layer.set_adapter(Some(Adapter::lora(a.clone(), b.clone(), 20.0, 0.0)));
        (layer.forward(x).astype(Dtype::Float32) * &weights).sum(())
    };
    let by_hand = |(a, b, x): &(Array, Array, Array)| {
        let x = x.astype(Dtype::Float32);
        let y = x.matmul(&w.astype(Dtype::Float32).t()) + x.matmul(a).matmul(b) * 20.0;
        (y * &weights).sum(())
    };
    let ((a, b, dx), (a2, b2, dx2)) = (mx::grad(adapted)(&factors), mx::grad(by_hand)(&factors));
    assert_eq!((a.dtype(), dx.dtype()), (Dtype::Float32, Dtype::Bfloat16));
    assert_close(&a, &a2, 1e-3);
    assert_close(&b, &b2, 1e-3);
    assert_close(&dx.astype(Dtype::Float32), &dx2.astype(Dtype::Float32), 0.1);
}

#[test]
fn dora_rescales_rows_to_their_magnitudes() {
    let (x, w) = (numbers(&[2, 4], -1.0, 1.0), numbers(&[3, 4], -2.0, 2.0));
    let (a, b, m) = (numbers(&[4, 2], -0.3, 0.4), numbers(&[2, 3], -1.0, 0.5), array!([1.0, 2.0, 3.0]));
    let mut layer = Linear::new(w.clone(), None);
    layer.set_adapter(Some(Adapter::dora(a.clone(), b.clone(), m, 0.5, 0.0)));
    // by loops: v = w + 0.5 (a b)^T, y_o = m_o / |v_o| * (v_o . x)
    let (xs, ws, a, b) = (vec(&x), vec(&w), vec(&a), vec(&b));
    let mut expected = Vec::new();
    for row in xs.chunks(4) {
        for o in 0..3 {
            let v: Vec<f64> = (0..4)
                .map(|i| ws[o * 4 + i] + 0.5 * (0..2).map(|r| a[i * 2 + r] * b[r * 3 + o]).sum::<f64>())
                .collect();
            let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
            expected.push(((o + 1) as f64 / norm * v.iter().zip(row).map(|(v, x)| v * x).sum::<f64>()) as f32);
        }
    }
    let expected = Array::from_slice(&expected, [2, 3]);
    assert_close(&layer.forward(&x), &expected, 1e-5);
    layer.fuse(false);
    assert_close(&layer.forward(&x), &expected, 1e-5);

    let mut table = Embedding::new(w);
    let before = table.forward(&array!([2, 0]));
    table.add_dora(2, 4.0, 0.0);
    assert_close(&table.forward(&array!([2, 0])), &before, 1e-6);
}

#[test]
fn switch_layers_use_the_chosen_experts_in_every_form_and_dtype() {
    let (w, bias) = (numbers(&[3, 2, 32], -1.0, 1.0), numbers(&[3, 2], 1.0, 2.0));
    let x = numbers(&[4, 1, 1, 32], -1.0, 1.0);
    let indices = array!([[0, 2], [1, 0], [2, 1], [2, 2]]);
    let expected = |w: &Array, x: &Array| {
        let mut rows = Vec::new();
        for (t, chosen) in [[0, 2], [1, 0], [2, 1], [2, 2]].iter().enumerate() {
            for &e in chosen {
                let we = w.take(&array!(e), 0);
                let y = x.take(&array!(t as i32), 0).reshape([1, 32]).matmul(&we.t());
                rows.push(y + bias.take(&array!(e), 0));
            }
        }
        mx::stack(&rows, 0).reshape([4, 2, 1, 2])
    };
    let mut layer = SwitchLinear::new(w.clone(), Some(bias.clone()));
    assert_close(&layer.forward(&x, &indices, false), &expected(&w, &x), 1e-5);
    let half = SwitchLinear::new(w.astype(Dtype::Bfloat16), Some(bias.astype(Dtype::Bfloat16)));
    let y = half.forward(&x.astype(Dtype::Bfloat16), &indices, false);
    assert_eq!(y.dtype(), Dtype::Bfloat16);
    assert_close(&y.astype(Dtype::Float32), &expected(&w, &x), 3e-2);

    layer.add_lora(2, 2.0, 0.0);
    let (a, b) = (numbers(&[3, 2, 32], -0.5, 0.5), numbers(&[3, 2, 2], -1.0, 1.0));
    layer.set_adapter(Some(Adapter::lora(a.clone(), b.clone(), 2.0, 0.0)));
    let adapted = &w + b.matmul(&a) * 2.0;
    assert_close(&layer.forward(&x, &indices, false), &expected(&adapted, &x), 1e-4);
    layer.fuse(false);
    assert_close(&layer.forward(&x, &indices, false), &expected(&adapted, &x), 1e-4);
    layer.quantize(Quant::affine(32, 8));
    assert_close(&layer.forward(&x, &indices, false), &expected(&layer.dense_weight(), &x), 1e-4);
    assert_eq!((layer.in_features(), layer.out_features(), layer.num_experts()), (32, 2, 3));
}

#[test]
fn norms_match_their_formulas() {
    let x = numbers(&[2, 8], -3.0, 5.0);
    let w = numbers(&[8], 0.5, 2.0);
    let by_hand: Vec<f32> = vec(&x)
        .chunks(8)
        .flat_map(|r| {
            let rms = (r.iter().map(|v| v * v).sum::<f64>() / 8.0 + 1e-5).sqrt();
            r.iter().zip(vec(&w)).map(|(v, w)| (v / rms * w) as f32).collect::<Vec<_>>()
        })
        .collect();
    assert_close(&RmsNorm::new(Some(w.clone()), 1e-5).forward(&x), &Array::from_slice(&by_hand, [2, 8]), 1e-5);
    let by_hand: Vec<f32> = vec(&x)
        .chunks(8)
        .flat_map(|r| {
            let mean = r.iter().sum::<f64>() / 8.0;
            let std = (r.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 8.0 + 1e-5).sqrt();
            r.iter().zip(vec(&w)).map(|(v, w)| ((v - mean) / std * w + 0.25) as f32).collect::<Vec<_>>()
        })
        .collect();
    let bias = mx::full([8], 0.25, None);
    let layer = LayerNorm::new(Some(w), Some(bias), 1e-5);
    assert_close(&layer.forward(&x), &Array::from_slice(&by_hand, [2, 8]), 1e-5);
}

#[test]
fn rope_rotates_pairs_by_position() {
    let x = numbers(&[1, 1, 3, 4], -1.0, 1.0);
    let y = vec(&Rope::new(4, false).forward(&x, 5));
    let xs = vec(&x);
    for l in 0..3 {
        for i in 0..2 {
            let angle = (5 + l) as f64 * 10000f64.powf(-(i as f64) / 2.0);
            let (a, b) = (xs[l * 4 + i], xs[l * 4 + i + 2]);
            assert!((y[l * 4 + i] - (a * angle.cos() - b * angle.sin())).abs() < 1e-5);
            assert!((y[l * 4 + i + 2] - (a * angle.sin() + b * angle.cos())).abs() < 1e-5);
        }
    }
    assert_close(&Rope::new(4, false).forward(&x, &array!(5)), &Rope::new(4, false).forward(&x, 5), 1e-6);
}

/// H of Sylvester's construction, scaled to be orthogonal: the sign of entry i, j is the parity of the bits that both have.
fn rotated(row: &[f64], signs: &[f64], block: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let turned = |b: usize, i: usize| {
        (0..block).map(|j| entry(i, j) * signs[b + j] * row[b + j]).sum::<f64>() / (block as f64).sqrt()
    };
    (0..row.len()).map(|i| turned(i / block * block, i % block)).collect()
}

#[test]
fn a_rotated_weight_turns_its_inputs() {
    let (n, k, block) = (6, 64, 16);
    let (w, x) = (numbers(&[n, k], -1.0, 1.0), numbers(&[3, k], -1.0, 1.0));
    let signs: Vec<f64> = (0..k).map(|i| if i * i % 7 < 3 { 1.0 } else { -1.0 }).collect();
    let rotation = || Rotation::new(Array::from(signs.iter().map(|&s| s as f32).collect::<Vec<_>>()), block);
    let (words, scales, biases) = mx::quantize(&w, Quant { group_size: 32, bits: 4, mode: QuantMode::Affine });
    let quant = Quant { group_size: 32, bits: 4, mode: QuantMode::Affine };
    let bias = numbers(&[n], 0.0, 1.0);
    let mut linear = Linear::quantized(words.clone(), scales.clone(), biases.clone(), quant, Some(bias.clone()));
    let stored = vec(&linear.dense_weight());
    linear.set_rotation(rotation());
    let turned: Vec<f64> = vec(&x).chunks(k as usize).flat_map(|r| rotated(r, &signs, block as usize)).collect();
    let by_hand: Vec<f32> = product(&turned, &stored, n as usize, k as usize).iter().map(|&y| y as f32).collect();
    let by_hand = Array::from_slice(&by_hand, [3, n]) + &bias;
    assert_close(&linear.forward(&x), &by_hand, 1e-5);
    // the dense weight is in the inputs' basis, as are rows of a table
    assert_close(&(x.matmul(&linear.dense_weight().t()) + &bias), &by_hand, 1e-5);
    assert!(linear.matrix().is_none(), "fused kernels do not know rotations");
    let mut table = Embedding::quantized(words, scales, biases, quant);
    table.set_rotation(rotation());
    assert_close(&table.forward(&array!([4, 1])), &linear.dense_weight().take(&array!([4, 1]), 0), 1e-6);
    assert_close(&table.as_linear(&x), &(by_hand - &bias), 1e-5);
    assert_eq!(table.parameters().iter().filter(|(name, _)| name == "signs").count(), 1);
}

#[test]
fn a_global_scale_and_an_order_of_columns_stand_around_a_packed_weight() {
    let quant = Quant::of_mode(QuantMode::Nvfp4);
    let (w, x) = (numbers(&[6, 64], -0.03, 0.05), numbers(&[3, 64], -1.0, 1.0));
    let largest = w.abs().max(()).astype(Dtype::Float32);
    let (words, scales, _) = mx::quantize_with(&w, quant, Some(&largest));
    let dense = mx::dequantize_with(&words, &scales, None, quant, Some(Dtype::Float32), Some(&largest));
    let mut layer = Linear::quantized(words.clone(), scales.clone(), None, quant, Some(numbers(&[6], 0.0, 1.0)));
    layer.set_global_scale(largest.clone());
    let bias = numbers(&[6], 0.0, 1.0);
    let by_hand = |x: &Array| x.matmul(&dense.t()) + &bias;
    assert_close(&layer.forward(&x), &by_hand(&x), 1e-6);
    assert_close(&layer.dense_weight_in(Dtype::Float32), &dense, 1e-7);
    // float16 holds the result, not the product before its factor
    let large = &x * 40.0;
    assert_close(&layer.forward(&large.astype(Dtype::Float16)).astype(Dtype::Float32), &by_hand(&large), 5e-3);
    assert!(layer.matrix().is_none(), "fused kernels do not know the scale");
    // column j takes input 63 - j
    let order: Vec<u32> = (0..64).rev().collect();
    layer.set_order(Array::from(order.clone()));
    let turned = x.take(&Array::from(order), -1);
    assert_close(&layer.forward(&turned), &by_hand(&x), 1e-6);
    assert_close(&(turned.matmul(&layer.dense_weight_in(Dtype::Float32).t()) + &bias), &by_hand(&x), 1e-6);

    let mut table = Embedding::quantized(words, scales, None, quant);
    table.set_global_scale(largest);
    let rows = dense.take(&array!([4, 1]), 0);
    assert_close(&table.forward(&array!([4, 1])).astype(Dtype::Float32), &rows, 3e-4);
}
