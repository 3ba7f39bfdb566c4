//! Several caches of one layer (`CacheList`).

use super::{Cache, Mark, State};
use crate::{Error, Result};
use mlx::Array;

/// The caches of a layer with more than one mixer.
#[derive(Clone)]
pub struct CacheList {
    parts: Vec<Box<dyn Cache>>,
}

impl CacheList {
    pub fn new(parts: Vec<Box<dyn Cache>>) -> Self {
        CacheList { parts }
    }
    pub fn parts(&self) -> &[Box<dyn Cache>] {
        &self.parts
    }
}

impl Cache for CacheList {
    fn kind(&self) -> &'static str {
        "CacheList"
    }
    fn offset(&self) -> i32 {
        self.parts.iter().map(|p| p.offset()).max().unwrap_or(0)
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.parts.iter().for_each(|p| p.each(f));
    }
    fn trim(&mut self, n: i32) -> i32 {
        if !self.is_trimmable() {
            return 0;
        }
        self.parts.iter_mut().map(|p| p.trim(n)).max().unwrap_or(0)
    }
    fn is_trimmable(&self) -> bool {
        self.parts.iter().all(|p| p.is_trimmable())
    }
    fn mark(&self) -> Mark {
        Mark::List(self.parts.iter().map(|p| p.mark()).collect())
    }
    fn as_list(&mut self) -> Option<&mut [Box<dyn Cache>]> {
        Some(&mut self.parts)
    }
    fn nbytes(&self) -> usize {
        self.parts.iter().map(|p| p.nbytes()).sum()
    }
    fn nbytes_at(&self, n: i32) -> usize {
        self.parts.iter().map(|p| p.nbytes_at(n)).sum()
    }
    fn rows(&self) -> usize {
        self.parts.first().map_or(1, |p| p.rows())
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let Some(list) = other.as_any_mut().downcast_mut::<CacheList>().filter(|l| l.parts.len() == self.parts.len())
        else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let theirs = std::mem::take(&mut list.parts);
        self.parts.iter_mut().zip(theirs).try_for_each(|(a, b)| a.join(b))
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        self.parts.iter_mut().try_for_each(|p| p.keep_rows(rows))
    }
    fn state(&self) -> State {
        let item = |p: &dyn Cache| State::List(vec![p.state(), State::Text(p.kind().into())]);
        State::List(self.parts.iter().map(|p| item(p.as_ref())).collect())
    }
}
