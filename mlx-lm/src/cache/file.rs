//! Prompt-cache files, in Python mlx-lm's safetensors form.
//!
//! Tensors are named by their path: `layer.item`. What is not an array is a tensor too (a number is 0-d, a text its code
//! points, None empty), recorded in the metadata as `2.<j>.0` = path, `2.<j>.1` = kind. `1.<layer>` is the cache's class,
//! `0.<key>` the user's metadata.

use super::{
    Cache, CacheList, Caches, ChunkedKvCache, ConcatenateKvCache, KvCache, OpenGroup, QuantizedKvCache,
    RotatingKvCache, Slots, TokenWindow,
};
use crate::{Error, Result};
use mlx::{Array, Dtype};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A cache's state as a tree.
#[derive(Debug, Clone)]
pub enum State {
    Array(Array),
    Int(i64),
    Text(String),
    None,
    List(Vec<State>),
}

impl State {
    /// Keys and values, if there are any, and the numbers that go with them.
    pub(super) fn of_buffers<const N: usize>(kv: Option<&(Array, Array)>, numbers: [i32; N]) -> State {
        let arrays = match kv {
            Some((k, v)) => [State::Array(k.clone()), State::Array(v.clone())],
            None => [State::None, State::None],
        };
        State::List(arrays.into_iter().chain(numbers.map(|n| State::Int(n.into()))).collect())
    }
    pub(super) fn of_arrays(arrays: &[Array]) -> State {
        State::List(arrays.iter().cloned().map(State::Array).collect())
    }
    /// One array, or a list of nothing but arrays.
    pub(super) fn arrays(&self) -> Option<Vec<Array>> {
        match self {
            State::Array(a) => Some(vec![a.clone()]),
            State::List(l) => l.iter().map(|s| s.array().cloned()).collect(),
            _ => None,
        }
    }
    pub(super) fn array(&self) -> Option<&Array> {
        if let State::Array(a) = self { Some(a) } else { None }
    }
    pub(super) fn int(&self) -> Option<i64> {
        if let State::Int(n) = self { Some(*n) } else { None }
    }
    pub(super) fn list(&self) -> Option<&[State]> {
        if let State::List(l) = self { Some(l) } else { None }
    }
    pub(super) fn item(&self, i: usize) -> Option<&State> {
        self.list()?.get(i)
    }

    fn flatten(&self, path: String, arrays: &mut HashMap<String, Array>, kinds: &mut Vec<(String, &'static str)>) {
        match self {
            State::Array(a) => drop(arrays.insert(path, a.clone())),
            State::List(items) => {
                items.iter().enumerate().for_each(|(i, s)| s.flatten(format!("{path}.{i}"), arrays, kinds));
            }
            State::Int(n) => {
                // as Python's mx.array(int)
                let n = i32::try_from(*n).map_or_else(|_| Array::from(*n), Array::from);
                arrays.insert(path.clone(), n);
                kinds.push((path, "scalar"));
            }
            State::Text(t) => {
                arrays.insert(path.clone(), Array::from(t.chars().map(|c| c as i32).collect::<Vec<_>>()));
                kinds.push((path, "string"));
            }
            State::None => {
                arrays.insert(path.clone(), Array::from(Vec::<f32>::new()));
                kinds.push((path, "none"));
            }
        }
    }
}

/// Caches with the metadata that was saved beside them (`model`, `tokenizer_config`).
pub struct PromptCache {
    pub caches: Caches,
    pub metadata: BTreeMap<String, String>,
}

impl PromptCache {
    /// Writes the file (`save_prompt_cache`); as in Python, layers that remember nothing have no entry.
    pub fn save(path: impl AsRef<Path>, caches: &Caches, metadata: &BTreeMap<String, String>) -> Result<()> {
        let (mut arrays, mut kinds, mut meta) = (HashMap::new(), Vec::new(), BTreeMap::new());
        for (i, c) in caches.iter().filter(|c| !c.is_stateless()).enumerate() {
            c.state().flatten(i.to_string(), &mut arrays, &mut kinds);
            meta.insert(format!("1.{i}"), c.kind().to_string());
        }
        for (k, v) in metadata {
            meta.insert(format!("0.{k}"), v.clone());
        }
        meta.insert("2.0".into(), String::new());
        for (j, (name, kind)) in kinds.into_iter().enumerate() {
            meta.insert(format!("2.{}.0", j + 1), name);
            meta.insert(format!("2.{}.1", j + 1), kind.into());
        }
        mlx::io::save_safetensors(path.as_ref(), arrays.iter().map(|(k, a)| (k.as_str(), a)), &meta)?;
        Ok(())
    }

    /// Reads the file (`load_prompt_cache`); [`adopt`](super::adopt) brings the caches to a model's layers.
    ///
    /// # Errors
    /// A broken file, a class that this crate does not have, a state that does not belong to its class.
    pub fn load(path: impl AsRef<Path>) -> Result<PromptCache> {
        let path = path.as_ref();
        let (arrays, meta) = mlx::io::load_safetensors(path)?;
        let kinds: HashMap<&str, &str> = meta
            .iter()
            .filter_map(|(k, name)| {
                let j = k.strip_prefix("2.")?.strip_suffix(".0")?;
                Some((name.as_str(), meta.get(&format!("2.{j}.1"))?.as_str()))
            })
            .collect();
        let mut root = Node::default();
        for (name, array) in &arrays {
            let state = match kinds.get(name.as_str()) {
                None => State::Array(array.clone()),
                Some(&"scalar") => State::Int(array.astype(Dtype::Int64).item::<i64>()?),
                Some(&"none") => State::None,
                Some(&"string") => State::Text(text(array)?),
                Some(other) => return Err(Error::file(path, format!("tensor {name} has the unknown kind {other:?}"))),
            };
            root.insert(name, state).ok_or_else(|| Error::file(path, format!("tensor {name} has no place")))?;
        }
        let mut caches: Caches = Vec::new();
        while let Some(class) = meta.get(&format!("1.{}", caches.len())) {
            let i = caches.len();
            let state = root.children.remove(&i).map_or(State::List(Vec::new()), Node::state);
            caches.push(
                build(class, &state)
                    .ok_or_else(|| Error::file(path, format!("layer {i}: not the state of a {class}")))?,
            );
        }
        if caches.is_empty() {
            return Err(Error::file(path, "no caches: not a prompt-cache file"));
        }
        // recurrent states carry no position: it is that of the layers beside them
        let seen = caches.iter().map(|c| c.offset()).max().unwrap_or(0);
        caches.iter_mut().filter_map(|c| c.as_slots()).for_each(|s| s.continue_at(seen));
        let metadata = meta.iter().filter_map(|(k, v)| Some((k.strip_prefix("0.")?.to_string(), v.clone()))).collect();
        Ok(PromptCache { caches, metadata })
    }
}

fn text(a: &Array) -> Result<String> {
    Ok(a.astype(Dtype::Int64).to_vec::<i64>()?.into_iter().filter_map(|c| char::from_u32(c as u32)).collect())
}

fn build(class: &str, state: &State) -> Option<Box<dyn Cache>> {
    Some(match class {
        "KVCache" => Box::new(KvCache::from_state(state)?),
        "ConcatenateKVCache" => Box::new(ConcatenateKvCache::from_state(state)?),
        "RotatingKVCache" | "QuantizedRotatingKVCache" => Box::new(RotatingKvCache::from_state(state)?),
        "ChunkedKVCache" => Box::new(ChunkedKvCache::from_state(state)?),
        "QuantizedKVCache" => Box::new(QuantizedKvCache::from_state(state)?),
        "ArraysCache" => Box::new(Slots::from_state(state)?),
        "TokenWindow" => Box::new(TokenWindow::from_state(state)?),
        "OpenGroup" => Box::new(OpenGroup::from_state(state)?),
        "CacheList" => {
            let parts = state.list()?.iter().map(|item| match (item.item(0), item.item(1)) {
                (Some(state), Some(State::Text(class))) => build(class, state),
                _ => None,
            });
            Box::new(CacheList::new(parts.collect::<Option<_>>()?))
        }
        _ => return None,
    })
}

/// The tree of dotted names while it is put together.
#[derive(Default)]
struct Node {
    leaf: Option<State>,
    children: BTreeMap<usize, Node>,
}

impl Node {
    fn insert(&mut self, name: &str, state: State) -> Option<()> {
        let mut node = self;
        for part in name.split('.') {
            node = node.children.entry(part.parse().ok()?).or_default();
        }
        node.leaf = Some(state);
        Some(())
    }
    fn state(self) -> State {
        self.leaf.unwrap_or_else(|| State::List(self.children.into_values().map(Node::state).collect()))
    }
}
