//! One step of training: forward, backward, update; as it is written, or as a compiled function.

use super::batches::{Batch, Packed};
use super::config::LoraConfig;
use super::loss::Loss;
use super::optimizer::optimizer;
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::nn::{Grads, ModuleExt};
use mlx::optim::{self, Optimizer};
use mlx::{self as mx, Array};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What steps carry on: the optimizer, and gradients that wait for more.
pub struct Stepper {
    inner: Rc<Inner>,
    pending: Option<Grads>,
    compiled: Option<Compiled>,
}

/// What a step is made of.
struct Inner {
    loss: Rc<Loss>,
    optimizer: RefCell<Box<dyn Optimizer>>,
    accumulate: usize,
    max_grad_norm: f64,
    /// An error of the loss while it was traced.
    failed: RefCell<Option<Error>>,
}

/// Ids, lengths, segments and learned positions; optimizer state; random key; gradients so far.
type Input = (Array, Array, Option<(Array, Array)>, BTreeMap<String, Array>, Array, Option<Grads>);
/// Mean, tokens; optimizer state; random key; gradients so far.
type Output = ((Array, Array), BTreeMap<String, Array>, Array, Option<Grads>);
type Compiled = [mx::CompiledStep<Decoder, Input, Output>; 2];

impl Stepper {
    /// # Errors
    /// Settings of the optimizer that make no sense; nothing to train.
    pub fn new(decoder: &Decoder, c: &LoraConfig, loss: Rc<Loss>) -> Result<Stepper> {
        let params: Grads = decoder.trainable().into_iter().collect();
        if params.is_empty() {
            return Err(Error::Request("nothing is trainable: attach adapters first".into()));
        }
        let mut optimizer = optimizer(c)?;
        optimizer.init(&params);
        let inner = Rc::new(Inner {
            loss,
            optimizer: RefCell::new(optimizer),
            accumulate: c.grad_accumulation_steps,
            max_grad_norm: c.max_grad_norm,
            failed: RefCell::default(),
        });
        let compiled = c.compile.then(|| [false, true].map(|update| compiled(inner.clone(), update)));
        Ok(Stepper { inner, pending: None, compiled })
    }

    /// One batch; an update of the parameters when `update`, else its gradients wait. Returns the loss and the number of
    /// learned tokens.
    pub fn run(&mut self, decoder: &mut Decoder, batch: &Batch, update: bool) -> Result<(f64, f64)> {
        let pending = self.pending.take();
        let (mean, n) = match &self.compiled {
            None => {
                let (out, pending) = mx::try_catch(|| self.inner.step(decoder, batch, pending, update))?;
                self.pending = pending;
                out
            }
            Some(steps) => {
                let packed = batch.packed.as_ref().map(|p| (p.segments.clone(), p.learned.clone()));
                let (ids, lengths) = (batch.ids.clone(), batch.lengths.clone());
                let input = (ids, lengths, packed, self.optimizer_state(), mx::random::state(), pending);
                let (out, state, key, pending) = mx::catch(|| steps[usize::from(update)].call(decoder, &input))?;
                if let Some(e) = self.inner.failed.take() {
                    return Err(e);
                }
                self.inner.optimizer.borrow_mut().set_state(&state)?;
                mx::random::set_state(key);
                self.pending = pending;
                out
            }
        };
        let mut real: Vec<Array> = decoder.trainable().into_iter().map(|(_, a)| a).collect();
        real.extend(self.optimizer_state().into_values());
        real.extend(self.pending.iter().flat_map(BTreeMap::values).cloned());
        real.extend([mean.clone(), n.clone(), mx::random::state()]);
        mx::eval(&real)?;
        Ok((mean.item::<f64>()?, n.item::<f64>()?))
    }

    /// Learning rate of the last update.
    pub fn learning_rate(&self) -> Result<f64> {
        Ok(self.inner.optimizer.borrow().learning_rate().map_or(Ok(0.0), |r| r.item::<f64>())?)
    }

    pub(super) fn optimizer_state(&self) -> BTreeMap<String, Array> {
        self.inner.optimizer.borrow().state()
    }

    pub(super) fn pending(&self) -> Option<&Grads> {
        self.pending.as_ref()
    }

    /// Goes on from a saved state.
    pub(super) fn set(&mut self, optimizer: &BTreeMap<String, Array>, pending: Option<Grads>) -> Result<()> {
        self.inner.optimizer.borrow_mut().set_state(optimizer)?;
        self.pending = pending;
        Ok(())
    }
}

impl Inner {
    fn step(
        &self,
        decoder: &mut Decoder,
        batch: &Batch,
        pending: Option<Grads>,
        update: bool,
    ) -> Result<((Array, Array), Option<Grads>)> {
        let loss = &self.loss;
        let (out, mut grads) =
            mx::nn::try_value_and_grad(|d: &Decoder, b: &Batch| -> Result<(Array, Array)> { loss(d, b) })(
                decoder, batch,
            )?;
        if let Some(mut before) = pending {
            for (name, g) in &mut grads {
                if let Some(b) = before.remove(name) {
                    *g = &*g + b;
                }
            }
        }
        if !update {
            return Ok((out, Some(grads)));
        }
        if self.accumulate > 1 {
            grads.values_mut().for_each(|g| *g = &*g / self.accumulate as f32);
        }
        if self.max_grad_norm > 0.0 {
            grads = optim::clip_grad_norm(&grads, self.max_grad_norm).0;
        }
        let parameters: Grads = decoder.trainable().into_iter().collect();
        let new = self.optimizer.borrow_mut().apply_gradients(&grads, &parameters);
        decoder.update(new, false)?;
        Ok((out, None))
    }
}

/// The step as a function of arrays. A shape that was not seen before is traced anew.
fn compiled(inner: Rc<Inner>, update: bool) -> mx::CompiledStep<Decoder, Input, Output> {
    mx::compile_with_state(move |decoder: &mut Decoder, input: &Input| {
        let (ids, lengths, packed, state, key, pending) = input;
        let packed =
            packed.as_ref().map(|(segments, learned)| Packed { segments: segments.clone(), learned: learned.clone() });
        let batch = Batch { ids: ids.clone(), lengths: lengths.clone(), packed, lines: vec![] };
        let outside = mx::random::state();
        mx::random::set_state(key.clone());
        let set = inner.optimizer.borrow_mut().set_state(state);
        let result = set.map_err(Error::from).and_then(|()| inner.step(decoder, &batch, pending.clone(), update));
        let key = mx::random::state();
        mx::random::set_state(outside);
        let (out, pending) = result.unwrap_or_else(|e| {
            *inner.failed.borrow_mut() = Some(e);
            ((Array::from(0.0f32), Array::from(0i32)), None)
        });
        (out, inner.optimizer.borrow().state(), key, pending)
    })
}

impl mx::State for Decoder {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        mx::module_arrays(self, f);
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        mx::module_arrays_mut(self, f);
    }
}
