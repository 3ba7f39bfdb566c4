//! The channel from the engine's thread to whoever waits for an answer: in a thread or in a task of any runtime.

use super::Event;
use crate::Result;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    queue: VecDeque<Result<Event>>,
    waker: Option<Waker>,
    /// No more events will come.
    ended: bool,
    /// Nobody reads them any more.
    cancelled: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        f(&mut state);
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_one();
        if let Some(w) = waker {
            w.wake();
        }
    }
}

pub(super) fn channel() -> (Sender, Events) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Events(shared))
}

pub(super) struct Sender(Arc<Shared>);

impl Sender {
    /// False when nobody listens any more.
    pub fn send(&self, event: Result<Event>) -> bool {
        self.0.change(|s| s.queue.push_back(event));
        !self.is_cancelled()
    }
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().cancelled
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.change(|s| s.ended = true);
    }
}

/// The events of one answer, to be awaited with [`next`](Self::next) or, as an iterator, waited for on a thread.
/// Dropping it cancels the answer.
pub struct Events(Arc<Shared>);

impl Events {
    /// The next event; `None` after the last. Works on any async runtime.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Self::next) for hand-written futures and streams.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let mut state = self.0.lock();
        match state.queue.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event>;
    fn next(&mut self) -> Option<Result<Event>> {
        let mut state = self.0.lock();
        loop {
            if let Some(event) = state.queue.pop_front() {
                return Some(event);
            }
            if state.ended {
                return None;
            }
            state = self.0.arrived.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.lock().cancelled = true;
    }
}
