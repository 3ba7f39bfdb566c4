use crate::assert_close;
use mlx::nn::{self, Grads, Linear, ModuleExt, Param};
use mlx::optim::*;
use mlx::{self as mx, Array, Dtype, Module, array};

fn problem() -> (Linear, impl Fn(&mut Linear, &(Array, Array)) -> (Array, Grads), (Array, Array)) {
    let x = crate::numbers(&[8, 3], -1.0, 1.0);
    let y = x.matmul(&array!([[1.0], [-2.0], [0.5]])) + 0.25;
    let model = Linear::new(crate::numbers(&[1, 3], -0.5, 0.5), Some(array!([0.0])));
    let step = nn::value_and_grad(|m: &Linear, (x, y): &(Array, Array)| (m.forward(x) - y).square().mean(()));
    (model, step, (x, y))
}

#[test]
fn every_optimizer_lowers_the_loss_and_goes_on_bit_for_bit_from_a_saved_state() {
    type Make = fn() -> Box<dyn Optimizer>;
    let all: [(&str, Make); 11] = [
        ("sgd", || Box::new(SGD { momentum: 0.9, ..SGD::new(0.05) })),
        ("rmsprop", || Box::new(RMSprop::new(0.01))),
        ("adagrad", || Box::new(Adagrad::new(0.1))),
        ("adadelta", || Box::new(AdaDelta::new(1.0))),
        ("adam", || Box::new(Adam::new(exponential_decay(0.05, 0.99)))),
        ("adamw", || Box::new(AdamW { bias_correction: true, ..AdamW::new(0.05) })),
        ("adamax", || Box::new(Adamax::new(0.05))),
        ("lion", || Box::new(Lion::new(0.01))),
        ("adafactor", || Box::new(Adafactor { beta_1: Some(0.9), ..Adafactor::default() })),
        ("muon", || Box::new(Muon::new(0.05))),
        ("scheduled", || Box::new(SGD::new(cosine_decay(0.1, 20, 0.0)))),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, make) in all {
        let (mut model, step, data) = problem();
        let mut opt = make();
        let first = step(&mut model, &data).0.item::<f32>().unwrap();
        for _ in 0..5 {
            let (_, grads) = step(&mut model, &data);
            opt.update(&mut model, &grads);
        }
        // save, go on twice
        let path = dir.path().join(format!("{name}.safetensors"));
        let state = opt.state();
        mx::io::save_arrays(&path, state.iter().map(|(n, a)| (n.as_str(), a))).unwrap();
        let mut twin = make();
        twin.set_state(&mx::load(&path).unwrap().into_arrays().unwrap()).unwrap();
        let mut other = model.clone();
        for _ in 0..5 {
            let (_, grads) = step(&mut model, &data);
            opt.update(&mut model, &grads);
            let (_, grads) = step(&mut other, &data);
            twin.update(&mut other, &grads);
        }
        for ((n, a), (_, b)) in model.parameters().iter().zip(other.parameters()) {
            assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{name} {n}");
        }
        assert!(step(&mut model, &data).0.item::<f32>().unwrap() < first, "{name}");
        assert_eq!(opt.step().item::<u64>().unwrap(), 10);
    }
}

#[derive(Module)]
struct One {
    w: Param,
}

#[test]
fn state_in_float32_keeps_small_updates_of_bfloat16_parameters() {
    let grads = |v: f32| Grads::from([("w".to_string(), array!([v]).astype(Dtype::Bfloat16))]);
    let mut model = One { w: array!([1.0]).astype(Dtype::Bfloat16).into() };
    let mut opt = Adam::new(1e-3);
    opt.base.state_dtype = Some(Dtype::Float32);
    opt.update(&mut model, &grads(1e-3));
    assert_eq!(opt.state()["w.v"].dtype(), Dtype::Float32);
    assert_eq!(model.w.dtype(), Dtype::Bfloat16);
    // (1 - 0.999) * 1e-6
    assert_close(&(&opt.state()["w.v"] * 1e9), &array!([1.0]), 1e-2);
    let mut plain = Adam::new(1e-3);
    plain.update(&mut model, &grads(1e-3));
    assert_eq!(plain.state()["w.v"].dtype(), Dtype::Bfloat16);
}

#[test]
fn a_compiled_training_step_equals_the_plain_one() {
    let (model, _, data) = problem();
    let run = |compiled: bool| {
        let step = |state: &mut (Linear, Adam), data: &(Array, Array)| {
            let (model, opt) = state;
            let f = nn::value_and_grad(|m: &Linear, (x, y): &(Array, Array)| (m.forward(x) - y).square().mean(()));
            let (loss, grads) = f(model, data);
            let (grads, _) = clip_grad_norm(&grads, 1.0);
            opt.update(model, &grads);
            loss
        };
        let mut state = (model.clone(), Adam::new(linear_schedule(0.1, 0.01, 10)));
        let fast = mx::compile_with_state(step);
        for _ in 0..6 {
            if compiled {
                fast.call(&mut state, &data)
            } else {
                step(&mut state, &data)
            };
        }
        state.0
    };
    for ((n, a), (_, b)) in run(true).parameters().iter().zip(run(false).parameters()) {
        assert_close(a, &b, 1e-6);
        assert!(!n.is_empty());
    }
}

#[test]
fn options_and_states_that_make_no_sense_are_refused() {
    let (mut model, step, data) = problem();
    let (_, grads) = step(&mut model, &data);
    let refused = |f: &mut dyn FnMut()| mx::catch(f).unwrap_err().to_string();
    assert!(refused(&mut || Adam { betas: [1.5, 0.9], ..Adam::new(0.1) }.update(&mut model, &grads)).contains("1.5"));
    assert!(refused(&mut || SGD { nesterov: true, ..SGD::new(0.1) }.update(&mut model, &grads)).contains("Nesterov"));
    let wrong = Grads::from([("nowhere".to_string(), array!([1.0]))]);
    assert!(refused(&mut || SGD::new(0.1).update(&mut model, &wrong)).contains("nowhere"));
    let wrong = Grads::from([("weight".to_string(), array!([1.0]))]);
    assert!(refused(&mut || SGD::new(0.1).update(&mut model, &wrong)).contains("weight"));
    assert!(SGD::new(0.1).set_state(&Grads::new()).unwrap_err().to_string().contains("step"));
    assert!(mx::catch(|| drop(step_decay(0.1, 0.5, 0))).is_err());
    assert!(mx::catch(|| drop(join_schedules(vec![], vec![]))).is_err());
}

#[test]
fn failing_losses_leave_the_model_and_running_statistics_move() {
    let (mut model, _, data) = problem();
    let before = model.weight().to_bytes().unwrap();
    let f = nn::try_value_and_grad(|m: &Linear, (x, _): &(Array, Array)| {
        let _ = m.forward(x);
        Err::<Array, _>("no")
    });
    assert_eq!(f(&mut model, &data).err(), Some("no"));
    assert_eq!(model.weight().to_bytes().unwrap(), before);

    let mut norm = nn::BatchNorm::new(2);
    let f = nn::value_and_grad(|m: &nn::BatchNorm, x: &Array| m.forward(x).square().sum(()));
    let (_, grads) = f(&mut norm, &array!([[1.0, 2.0], [3.0, 6.0]]));
    assert_eq!(grads.len(), 2);
    assert_close(&norm.running().unwrap().0, &array!([0.2, 0.4]), 1e-6);
    let (loss, grads) = nn::value_and_grad(|m: &nn::TransformerEncoder, x: &Array| m.forward(x, None).square().sum(()))(
        &mut nn::TransformerEncoder::init(2, 8, 2, nn::TransformerOptions { checkpoint: true, ..Default::default() }),
        &crate::numbers(&[1, 3, 8], -1.0, 1.0),
    );
    assert!(loss.item::<f32>().unwrap() > 0.0 && grads.len() == 2 + 2 * 12);
}
