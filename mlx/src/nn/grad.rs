//! Differentiating models, and quantising them as a whole.

use super::module::{LayerMut, Module, Path};
use super::module_ext::ModuleExt;
use crate::error::{Error, Result};
use crate::transforms;
use crate::tree::Tree;
use crate::{Array, Quant};
use std::collections::BTreeMap;

/// Gradients (or parameters) by dotted name: a [`Tree`].
pub type Grads = BTreeMap<String, Array>;

/// What `f` gives for a model and arguments, and the gradients of its first array, a scalar, with respect to the trained
/// parameters (`nn.value_and_grad`).
///
/// ```
/// use mlx::{array, nn::{self, Linear}};
/// let mut model = Linear::init(2, 1, true);
/// let step = nn::value_and_grad(|m: &Linear, x: &mlx::Array| m.forward(x).square().sum(()));
/// let (loss, grads) = step(&mut model, &array!([[1.0, 2.0]]));
/// assert!(loss.item::<f32>()? >= 0.0);
/// assert_eq!(grads["weight"].shape(), [1, 2]);
/// # Ok::<(), mlx::Error>(())
/// ```
pub fn value_and_grad<M: Module, A: ?Sized, R: Tree>(f: impl Fn(&M, &A) -> R) -> impl Fn(&mut M, &A) -> (R, Grads) {
    move |model, args| {
        let params: Grads = model.trainable().into_iter().collect();
        let swapped = Swapped::new(model, &params);
        transforms::value_and_grad(|params: &Grads| {
            let mut model = swapped.model.borrow_mut();
            put(&mut **model, params);
            f(&**model, args)
        })(&params)
    }
}

/// [`value_and_grad`] of a function that can fail.
pub fn try_value_and_grad<M: Module, A: ?Sized, R: Tree, E>(
    f: impl Fn(&M, &A) -> Result<R, E>,
) -> impl Fn(&mut M, &A) -> Result<(R, Grads), E> {
    move |model, args| transforms::carry(|slot| value_and_grad(|m: &M, a: &A| slot.unwrap(f(m, a)))(model, args))
}

/// A model whose trained parameters are replaced while it is differentiated; they return when this is dropped.
struct Swapped<'m, M: Module> {
    model: std::cell::RefCell<&'m mut M>,
    before: &'m Grads,
}

impl<'m, M: Module> Swapped<'m, M> {
    fn new(model: &'m mut M, before: &'m Grads) -> Self {
        Swapped { model: std::cell::RefCell::new(model), before }
    }
}

impl<M: Module> Drop for Swapped<'_, M> {
    fn drop(&mut self) {
        put(&mut **self.model.get_mut(), self.before);
    }
}

/// Sets the parameters of these names.
fn put<M: Module + ?Sized>(model: &mut M, params: &Grads) {
    model.visit_mut(&mut Path::new(), &mut |name, p| {
        if let Some(a) = params.get(name) {
            p.set(a.clone());
        }
    });
}

/// `f` of a module, computed again in the backward pass instead of keeping what lies between (`nn.checkpoint`).
///
/// The module is copied (its arrays are shared), its trained parameters get gradients.
pub fn checkpoint<M: Module + Clone + 'static, A: Tree + 'static, R: Tree + 'static>(
    module: &M,
    f: impl Fn(&M, &A) -> R + 'static,
) -> impl Fn(&A) -> R {
    let params: Grads = module.trainable().into_iter().collect();
    let module = module.clone();
    let inner = transforms::checkpoint(move |(params, args): &(Grads, A)| {
        let mut module = module.clone();
        put(&mut module, params);
        f(&module, args)
    });
    move |args| inner(&(params.clone(), args.map(|_, a| a.clone())))
}

/// Quantises the layers of a model (`nn.quantize`): those for which `choose` gives how.
///
/// # Errors
/// If the input width of a chosen layer is not a multiple of its group size. Then the model is unchanged.
pub fn quantize<M: Module + ?Sized>(
    model: &mut M,
    choose: impl Fn(&str, &LayerMut<'_>) -> Option<Quant>,
) -> Result<()> {
    let mut bad = None;
    model.layers_mut(&mut Path::new(), &mut |path, layer| {
        if let Some(q) = choose(path, &layer) {
            let width = layer.width();
            if bad.is_none() && (!q.is_valid() || width % q.group_size != 0) {
                bad = Some(Error::parameter(path, format!("a width of {width} cannot be quantised as {q:?}")));
            }
        }
    });
    if let Some(e) = bad {
        return Err(e);
    }
    model.layers_mut(&mut Path::new(), &mut |path, mut layer| {
        if let Some(q) = choose(path, &layer) {
            layer.quantize(q);
        }
    });
    Ok(())
}
