//! Caches: flat memory, files that Python reads and writes, rows that join and leave.

#[path = "cache/attend.rs"]
mod attend;
#[path = "cache/batches.rs"]
mod batches;
#[path = "goldens/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "cache/flat.rs"]
mod flat;
#[path = "cache/python.rs"]
mod python;
#[path = "goldens/rule.rs"]
#[allow(dead_code)]
mod rule;
#[path = "cache/sequences.rs"]
mod sequences;

use mlx::fast::Mask;
use mlx::{self as mx, Array, Dtype};
use mlx_lm::Model;
use mlx_lm::cache::{
    Cache, CacheList, Caches, ChunkedKvCache, ConcatenateKvCache, KvCache, PagedKvCache, PromptCache, QuantizedKvCache,
    RotatingKvCache, Slots,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard};

/// MLX counts memory for the whole process: the test that reads it runs alone.
static ALONE: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(|e| e.into_inner())
}

fn model(name: &str) -> Model {
    let c = case::all("families").into_iter().find(|c| c["case"] == name).unwrap();
    let dir = tempfile::tempdir().unwrap();
    case::write(dir.path(), &c["config"], &case::tensors(&c));
    Model::load(dir.path()).unwrap()
}

fn random(n: i32, seed: u64) -> Array {
    mx::random::normal([1, 2, n, 32], Dtype::Float32, 0.0, 1.0, Some(&mx::random::key(seed)))
}

fn filled(mut c: Box<dyn Cache>, steps: &[i32]) -> Box<dyn Cache> {
    for (i, &n) in steps.iter().enumerate() {
        c.kv().update(random(n, i as u64), random(n, 100 + i as u64));
    }
    c
}

fn arrays(c: &dyn Cache) -> Vec<Vec<f32>> {
    let mut out = Vec::new();
    c.each(&mut |a| out.push(a.astype(Dtype::Float32).to_vec::<f32>().unwrap()));
    out
}

#[test]
fn prompt_caches_come_back_from_disk_as_they_were() {
    let _guard = beside_others();
    let mut slots = Slots::new(2);
    slots.set(1, random(2, 9));
    let list = CacheList::new(vec![filled(Box::new(KvCache::new()), &[4]), Box::new(slots.clone())]);
    let caches: Caches = vec![
        filled(Box::new(KvCache::new()), &[5, 1]),
        filled(Box::new(RotatingKvCache::new(8, 2)), &[6, 1, 1, 1, 1]),
        filled(Box::new(ChunkedKvCache::new(8)), &[250, 5, 4]),
        filled(Box::new(QuantizedKvCache::new(32, 8, 8).unwrap()), &[3, 1]),
        filled(Box::new(QuantizedKvCache::new(32, 8, 4).unwrap()), &[3, 1]),
        filled(Box::new(RotatingKvCache::new(8, 2).to_quantized(32, 8, 3).unwrap()), &[6, 1, 1, 1, 1]),
        filled(Box::new(ConcatenateKvCache::new()), &[5, 1]),
        Box::new(QuantizedKvCache::new(32, 8, 8).unwrap()),
        Box::new(ConcatenateKvCache::new()),
        Box::new(KvCache::new()),
        Box::new(slots),
        Box::new(list),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache.safetensors");
    let meta = BTreeMap::from([("model".to_string(), "m".to_string())]);
    PromptCache::save(&file, &caches, &meta).unwrap();
    let back = PromptCache::load(&file).unwrap();
    assert_eq!(back.metadata, meta);
    for (mut a, mut b) in caches.into_iter().zip(back.caches) {
        assert_eq!((a.kind(), arrays(a.as_ref())), (b.kind(), arrays(b.as_ref())));
        if a.as_kv().is_some() {
            // the next token goes to the same place
            assert_eq!(a.offset(), b.offset());
            a.kv().update(random(1, 50), random(1, 51));
            b.kv().update(random(1, 50), random(1, 51));
            assert_eq!(arrays(a.as_ref()), arrays(b.as_ref()));
        }
    }
    std::fs::write(&file, b"nonsense").unwrap();
    assert!(PromptCache::load(&file).is_err());
}

/// What new tokens see must start with their chunk, however the prompt is cut and however often old tokens are dropped.
/// Keys without values are held once; files have zeros beside them, as Python's indexer writes them, which are dropped.
#[test]
fn keys_without_values_are_held_once() {
    let _guard = beside_others();
    let add = |c: &mut dyn Cache, n: i32, seed: u64| {
        let k = random(n, seed);
        let none = k.slice_axis(-1, 0..0);
        let (keys, values) = c.kv().update(k, none);
        assert_eq!(values.dim(-1), 0);
        keys.to_vec::<f32>().unwrap()
    };
    let mut c = KvCache::new();
    add(&mut c, 5, 1);
    let bytes = c.nbytes();
    assert_eq!(bytes, 2 * 256 * 32 * 4);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache.safetensors");
    let caches: Caches = vec![Box::new(c.clone())];
    PromptCache::save(&file, &caches, &BTreeMap::new()).unwrap();
    let (arrays, _) = mx::io::load_safetensors(&file).unwrap();
    assert_eq!(arrays["0.1"].shape(), arrays["0.0"].shape());
    assert_eq!(arrays["0.1"].abs().max(()).item::<f32>().unwrap(), 0.0);
    let mut back = PromptCache::load(&file).unwrap().caches.remove(0);
    assert_eq!(add(&mut c, 3, 2), add(back.as_mut(), 3, 2));
    assert_eq!((c.nbytes(), back.nbytes()), (bytes, bytes));
}

#[test]
fn chunked_caches_show_the_current_chunk_and_stay_small() {
    let _guard = beside_others();
    const CHUNK: i32 = 300;
    let mut c: Box<dyn Cache> = Box::new(ChunkedKvCache::new(CHUNK));
    let mut all: Vec<f32> = Vec::new();
    for (i, n) in [7, 250, 43, 1, 299, 1, 700, 2, 1, 400, 1].into_iter().enumerate() {
        let at = c.offset();
        let k = mx::random::normal([1, 1, n, 1], Dtype::Float32, 0.0, 1.0, Some(&mx::random::key(i as u64)));
        all.extend(k.to_vec::<f32>().unwrap());
        let mask = c.kv().mask(n, None, true);
        let (keys, values) = c.kv().update(k.clone(), &k * 2.0);
        let first = at / CHUNK * CHUNK;
        assert_eq!(keys.to_vec::<f32>().unwrap(), all[first as usize..], "step {i}");
        assert_eq!((values / 2.0).to_vec::<f32>().unwrap(), all[first as usize..], "step {i}");
        let Mask::Array(mask) = mask else { panic!("asked for an array") };
        let seen = mask.astype(Dtype::Int32).to_vec::<i32>().unwrap();
        let want = (at..at + n).flat_map(|q| (first..at + n).map(move |k| (k <= q && k / CHUNK == q / CHUNK) as i32));
        assert_eq!(seen, want.collect::<Vec<_>>(), "step {i}");
        c.each(&mut |a| assert!(a.dim(2) <= CHUNK + n + 512, "step {i}: {} tokens kept", a.dim(2)));
    }
    assert!(!c.is_trimmable() && c.trim(1) == 0);
}

#[test]
fn pythons_prompt_caches_are_read() {
    let _guard = beside_others();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cache/python.safetensors");
    let p = PromptCache::load(file).unwrap();
    let kinds: Vec<&str> = p.caches.iter().map(|c| c.kind()).collect();
    assert_eq!(kinds, ["KVCache", "ArraysCache", "RotatingKVCache", "QuantizedKVCache", "CacheList"]);
    let offsets: Vec<i32> = p.caches.iter().map(|c| c.offset()).collect();
    // the file does not say where a recurrent state stands: with the layer that is furthest
    assert_eq!(offsets, [3, 12, 12, 5, 2]);
    assert_eq!(p.metadata["model"], "m");
    assert_eq!(arrays(p.caches[1].as_ref())[0], [3.0, 3.0]);
}

#[test]
fn rows_join_and_leave_without_changing_each_other() {
    let _guard = beside_others();
    let kinds: [fn() -> Box<dyn Cache>; 6] = [
        || Box::new(KvCache::new()),
        || Box::new(ConcatenateKvCache::new()),
        || Box::new(PagedKvCache::new(5)),
        || Box::new(RotatingKvCache::new(8, 0).to_quantized(32, 8, 4).unwrap()),
        || Box::new(RotatingKvCache::new(8, 0)),
        || Box::new(QuantizedKvCache::new(32, 8, 8).unwrap()),
    ];
    for make in kinds {
        let (short, long) = (filled(make(), &[3]), filled(make(), &[11, 1]));
        let mut both = short.boxed_clone();
        both.join(long.boxed_clone()).unwrap();
        assert_eq!(both.rows(), 2, "{}", both.kind());
        let seen = |c: &mut Box<dyn Cache>| c.kv().fetch().unwrap().0.to_vec::<f32>().unwrap();
        let (mut a, mut b) = (both.row(0).unwrap(), both.row(1).unwrap());
        assert_eq!((a.offset(), b.offset()), (3, 12));
        assert_eq!(seen(&mut a), seen(&mut short.boxed_clone()), "{}", both.kind());
        // a ring comes back oldest first: compare as sets of rows
        let sorted = |v: Vec<f32>| {
            let mut v = v;
            v.sort_by(f32::total_cmp);
            v
        };
        let kept = if make().kind().contains("Rotating") { 8 * 64 } else { 12 * 64 };
        let mut whole = sorted(seen(&mut long.boxed_clone()));
        if whole.len() > kept {
            whole = sorted(seen(&mut long.row(0).unwrap()));
        }
        assert_eq!(sorted(seen(&mut b)), whole, "{}", both.kind());
    }
}
