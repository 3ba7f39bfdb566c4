use crate::{assert_close, numbers};
use mlx::distributed::{self, Backend};
use mlx::nn::{self, AllToShardedLinear, Grads, Linear, ModuleExt, Segments, ShardedToAllLinear};
use mlx::{Quant, array};
use std::rc::Rc;

// a group of one: what several processes do is tried by the example `data_parallel`
#[test]
fn a_group_of_one_changes_nothing() {
    let group = Rc::new(distributed::init(false, Backend::Any).unwrap());
    assert_eq!(group.size(), 1);
    let grads = Grads::from([("a".to_string(), array!([1.0, 2.0])), ("b".to_string(), array!(3.0))]);
    let same = nn::average_gradients(&grads, &group, 1 << 20);
    assert_eq!(same["a"].to_vec::<f32>().unwrap(), [1.0, 2.0]);

    let (x, linear) =
        (numbers(&[2, 64], -1.0, 1.0), Linear::new(numbers(&[6, 64], -1.0, 1.0), Some(numbers(&[6], 0.0, 1.0))));
    let mut packed = linear.clone();
    packed.quantize(Quant::affine(32, 8));
    for l in [&linear, &packed] {
        let all = AllToShardedLinear::from_linear(l, &Segments::Equal(3), group.clone()).unwrap();
        let back = ShardedToAllLinear::from_linear(l, &Segments::default(), group.clone()).unwrap();
        assert_close(&all.forward(&x), &l.forward(&x), 1e-6);
        assert_close(&back.forward(&x), &l.forward(&x), 1e-5);
        let names = |m: &dyn nn::Module| m.parameters().into_iter().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(names(&all), names(l));
    }
    // parameters gathered for the call, gradients scattered back
    let mut whole = linear.clone();
    let mut sharded = nn::fully_shard(linear.clone(), group.clone(), None).unwrap();
    let plain = nn::value_and_grad(|m: &Linear, x: &mlx::Array| m.forward(x).square().sum(()))(&mut whole, &x);
    let f = nn::value_and_grad(|m: &nn::FullyShardedModule<Linear>, x: &mlx::Array| {
        m.call(|m| m.forward(x)).square().sum(())
    });
    let (loss, grads) = f(&mut sharded, &x);
    assert_close(&loss, &plain.0, 1e-6);
    assert_close(&grads["module.weight"], &plain.1["weight"], 1e-6);
    assert_close(&grads["module.bias"], &plain.1["bias"], 1e-6);
    let scalar = nn::Param::new(array!(1.0));
    assert!(nn::fully_shard(scalar, group.clone(), None).is_err());
    let e = AllToShardedLinear::from_linear(&linear, &Segments::Equal(4), group).err().unwrap().to_string();
    assert!(e.contains("[6, 64]"), "{e}");
}
