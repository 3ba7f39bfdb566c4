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
    let e = AllToShardedLinear::from_linear(&linear, &Segments::Equal(4), group).err().unwrap().to_string();
    assert!(e.contains("[6, 64]"), "{e}");
}
