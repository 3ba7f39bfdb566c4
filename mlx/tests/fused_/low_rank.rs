use crate::tools::{error, fresh_seed, normal, poison};
use mlx::nn::{Adapter, Linear};
use mlx::{self as mx, Array, Device, Dtype, Quant, QuantMode};

/// Layers of one input, as they are used.
struct Layers {
    weights: Vec<Array>,
    quant: Option<Quant>,
    bias: bool,
    scale: f32,
}

/// x, then a and b of each layer: what is differentiated.
type Primals = (Array, Vec<Array>, Vec<Array>);

impl Layers {
    fn made(&self, (_, a, b): &Primals) -> Vec<Linear> {
        let one = |((w, a), b): ((&Array, &Array), &Array)| {
            let bias = self.bias.then(|| mx::full([w.dim(0)], 0.5f32, Some(w.dtype())));
            let mut l = Linear::new(w.clone(), bias);
            if let Some(q) = self.quant {
                l.quantize(q);
            }
            l.set_adapter(Some(Adapter::lora(a.clone(), b.clone(), self.scale, 0.0)));
            l
        };
        self.weights.iter().zip(a).zip(b).map(one).collect()
    }

    /// A number that every output counts in differently, so that swapped ones would show.
    fn loss(y: &[Array]) -> Array {
        let one = |(i, y): (usize, &Array)| {
            let y = y.astype(Dtype::Float32);
            let turn = mx::arange(0, y.dim(-1), 1, Some(Dtype::Float32));
            (y.square() * (turn * (0.1 * (i + 1) as f32)).cos()).sum(())
        };
        y.iter().enumerate().map(one).fold(Array::from(0.0f32), |a, b| a + b)
    }

    /// Products and gradients, all layers together.
    fn together(&self, p: &Primals) -> Vec<Array> {
        let forward = |p: &Primals| -> Vec<Array> {
            let made = self.made(p);
            match made.as_slice() {
                [one] => vec![one.forward(&p.0)],
                [a, b] => Linear::forward_all([a, b], &p.0).into(),
                [a, b, c] => Linear::forward_all([a, b, c], &p.0).into(),
                _ => unreachable!("one to three layers"),
            }
        };
        let (dx, da, db) = mx::grad(|p: &Primals| Self::loss(&forward(p)))(p);
        forward(p).into_iter().chain([dx]).chain(da).chain(db).collect()
    }

    /// The same in float32 from the definition, each layer by itself, differentiated by MLX.
    fn plain(&self, p: &Primals) -> Vec<Array> {
        let dense: Vec<Array> =
            self.made(p).iter().map(|l| l.dense_weight_in(p.0.dtype()).astype(Dtype::Float32)).collect();
        let forward = |(x, a, b): &Primals| -> Vec<Array> {
            let x = x.astype(Dtype::Float32);
            let one = |((w, a), b): ((&Array, &Array), &Array)| {
                x.matmul(&w.t()) + x.matmul(a).matmul(b) * self.scale + if self.bias { 0.5 } else { 0.0 }
            };
            dense.iter().zip(a).zip(b).map(one).collect()
        };
        let (dx, da, db) = mx::grad(|p: &Primals| Self::loss(&forward(p)))(p);
        forward(p).into_iter().chain([dx]).chain(da).chain(db).collect()
    }
}

/// On the default device in each type, against float32 on the CPU.
#[test]
fn layers_with_low_rank_updates_are_sums_and_so_are_their_gradients() {
    fresh_seed();
    let q4 = Quant { group_size: 64, bits: 4, mode: QuantMode::Affine };
    let cases: &[(&[i32], i32, &[i32], i32, Option<Quant>, bool)] = &[
        (&[2, 37], 128, &[192], 8, None, false),
        (&[1, 1], 128, &[64], 8, None, true),
        (&[2, 256], 1152, &[1032, 66, 130], 8, None, false),
        (&[3, 5], 64, &[64, 128], 16, None, true),
        (&[70], 128, &[64, 64], 4, Some(q4), false),
        (&[2, 40], 256, &[192, 64, 64], 32, Some(q4), true),
        // what no kernel takes
        (&[2, 9], 33, &[35], 3, None, false),
    ];
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
        for &(lead, k, n, r, quant, bias) in cases {
            let weights = n.iter().map(|&n| normal(&[n, k], dtype, 0.05)).collect();
            let layers = Layers { weights, quant, bias, scale: 1.5 };
            let x = normal(&[lead, &[k]].concat(), dtype, 1.0);
            let a = n.iter().map(|_| normal(&[k, r], Dtype::Float32, 0.1)).collect();
            let b = n.iter().map(|&n| normal(&[r, n], Dtype::Float32, 0.1)).collect();
            let p: Primals = (x, a, b);
            poison(1 << 20);
            let got = layers.together(&p);
            mx::eval(&got).unwrap();
            let expected = mx::with_device(Device::Cpu, || layers.plain(&p));
            for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
                // a card multiplies float32 in tf32
                let allowed = match dtype {
                    Dtype::Float32 if !mx::cuda_is_available() => 1e-5,
                    Dtype::Float32 => 2e-3,
                    Dtype::Float16 => 2e-3,
                    // MLX's product with packed weights rounds its parts to 16 bits
                    _ if quant.is_some() => 2e-2,
                    _ => 1.2e-2,
                };
                let off = error(g, e);
                assert!(off < allowed, "{dtype} {lead:?} {k} {n:?} rank {r} {quant:?}: output {i} is off by {off}");
            }
        }
    }
}

/// Weights that are trained beside their adapters still get a gradient.
#[test]
fn a_trained_weight_under_an_adapter_has_its_gradient() {
    let (x, w) = (normal(&[4, 8], Dtype::Float32, 1.0), normal(&[6, 8], Dtype::Float32, 1.0));
    let layer = |w: &Array| {
        let mut l = Linear::new(w.clone(), None);
        l.add_lora(2, 1.0, 0.0);
        l
    };
    let g = mx::grad(|w: &Array| layer(w).forward(&x).sum(()))(&w);
    let e = mx::broadcast_to(&x.sum(0), [6, 8]);
    assert!(error(&g, &e) < 1e-2);
}
