//! Going back to an earlier point of a sequence, also where a layer cannot forget single tokens.

use super::{Cache, Caches};
use crate::{Error, Result};

/// How one layer goes back.
pub enum Mark {
    /// By forgetting what came after so many tokens.
    Offset(i32),
    /// By its state as it was: handles that the layer no longer writes to.
    State(Box<dyn Cache>),
    /// One mark for each of several caches.
    List(Vec<Mark>),
}

/// A point of a sequence, for [`restore`]: to take back guessed tokens, or to start again from a shared beginning.
///
/// Layers that can be trimmed note their length only; recurrent states and full rings keep handles of their arrays.
pub struct Snapshot(Vec<Mark>);

impl Snapshot {
    /// Bytes that the snapshot keeps alive by itself.
    pub fn nbytes(&self) -> usize {
        self.0.iter().map(Mark::nbytes).sum()
    }
}

impl Mark {
    fn nbytes(&self) -> usize {
        match self {
            Mark::Offset(_) => 0,
            Mark::State(c) => c.nbytes(),
            Mark::List(marks) => marks.iter().map(Mark::nbytes).sum(),
        }
    }

    /// Brings the cache back to this point.
    pub fn apply(&self, cache: &mut Box<dyn Cache>) -> Result<()> {
        let lost = || Error::Request("the snapshot does not belong to these caches".into());
        match self {
            Mark::Offset(at) => {
                let n = cache.offset() - at;
                if n < 0 || cache.trim(n) != n {
                    return Err(lost());
                }
            }
            Mark::State(then) if then.kind() == cache.kind() => *cache = then.boxed_clone(),
            Mark::State(_) => return Err(lost()),
            Mark::List(marks) => {
                let parts = cache.as_list().filter(|l| l.len() == marks.len()).ok_or_else(lost)?;
                marks.iter().zip(parts).try_for_each(|(m, c)| m.apply(c))?;
            }
        }
        Ok(())
    }
}

/// Notes where a sequence stands.
pub fn snapshot(caches: &Caches) -> Snapshot {
    Snapshot(caches.iter().map(|c| c.mark()).collect())
}

/// Brings every layer back to a snapshot, which may be used again.
///
/// # Errors
/// A snapshot of other caches, or of a point that these have not reached or have been trimmed below.
pub fn restore(caches: &mut Caches, to: &Snapshot) -> Result<()> {
    if caches.len() != to.0.len() {
        return Err(Error::Request(format!("a snapshot of {} layers for {}", to.0.len(), caches.len())));
    }
    to.0.iter().zip(caches).try_for_each(|(m, c)| m.apply(c))
}
