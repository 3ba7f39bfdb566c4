//! Memory: bytes that live beside the caches do not grow with the number of tokens, and copies share what they can.

use crate::{ALONE, filled, model};
use mlx::memory;
use mlx_lm::Model;
use mlx_lm::cache::{Cache, CacheOptions, Caches, KvLayout, KvQuant, PagedKvCache};
use mlx_lm::generate::{TokenOptions, Tokens};

/// Generates up to `marks` tokens, and calls `f` at each of them.
fn generate(m: &Model, caches: &mut Caches, marks: &[usize], kv_quant: Option<KvQuant>, f: &mut dyn FnMut(&Caches)) {
    let (mut at, mut prompt) = (0, vec![3, 1, 4, 1, 5]);
    for &n in marks {
        let options = TokenOptions { max_tokens: Some(n - at), kv_quant, ..TokenOptions::default() };
        let tokens = Tokens::new(&m.decoder, &prompt, caches, options).unwrap();
        let ids: Vec<u32> = tokens.map(|t| t.unwrap().id).collect();
        assert_eq!(ids.len(), n - at);
        (at, prompt) = (n, vec![ids[ids.len() - 1]]);
        memory::clear_cache();
        f(caches);
    }
}

fn held(caches: &Caches) -> i64 {
    caches.iter().map(|c| c.nbytes() as i64).sum()
}

/// One test: counters are the process's.
#[test]
fn memory_is_flat_over_128_512_1024_and_2048_tokens() {
    let _alone = ALONE.write().unwrap_or_else(|e| e.into_inner());
    let plain = CacheOptions::default();
    let bounded = CacheOptions { max_size: Some(64), ..plain };
    let paged = CacheOptions { layout: KvLayout::Paged { page: 64 }, ..plain };
    let joined = CacheOptions { layout: KvLayout::Concatenated, ..plain };
    let quant = Some(KvQuant::new(8, 32));
    let apart = quant.map(|q| KvQuant { value_bits: Some(4), ..q });
    for (kind, name, options, quant) in [
        ("buffer", "qwen3.hd32", plain, None),
        ("ring", "qwen3.hd32", bounded, None),
        ("packed", "qwen3.hd32", plain, quant),
        ("packed ring", "qwen3.hd32", bounded, apart),
        ("pages", "qwen3.hd32", paged, None),
        ("joined", "qwen3.hd32", joined, None),
        ("chunked", "llama4", plain, None),
        ("latent", "deepseek_v3", plain, None),
        ("latent, indexed", "deepseek_v32.long", plain, None),
        ("pooled", "deepseek_v41", plain, None),
        ("slots", "mamba2", plain, None),
        ("list", "falcon_h1", plain, None),
    ] {
        let m = model(name);
        let fresh = || m.decoder.caches_with(options).unwrap();
        generate(&m, &mut fresh(), &[16], quant, &mut |_| {});
        let start = memory::active_memory() as i64;
        let (mut beside, mut peaks) = (Vec::new(), Vec::new());
        let mut caches = fresh();
        memory::reset_peak_memory();
        generate(&m, &mut caches, &[128, 512, 1024, 2048], quant, &mut |caches| {
            let held = held(caches);
            peaks.push((memory::peak_memory() as i64 - start, held));
            beside.push(memory::active_memory() as i64 - start - held);
            memory::reset_peak_memory();
        });
        drop(caches);
        let left = memory::active_memory() as i64 - start;
        assert!(left.abs() < 4096, "{kind}: {left} bytes are left");
        let spread = beside.iter().max().unwrap() - beside.iter().min().unwrap();
        assert!(spread < 64 << 10, "{kind}: bytes beside the caches {beside:?}");
        // a growing buffer is there twice while it is copied into a larger one, pages never
        let copies = if kind == "pages" { 1 } else { 2 };
        println!("{kind}: beside {beside:?}, peak and held {peaks:?}");
        for (peak, held) in &peaks {
            assert!(*peak < (512 << 10) + copies * held, "{kind}: peak and held bytes {peaks:?}");
        }
    }
    copies_share_pages();
}

fn copies_share_pages() {
    let mut base = filled(Box::new(PagedKvCache::new(64)), &[640, 1]);
    let (k, v) = base.kv().fetch().unwrap();
    mlx::eval([&k, &v]).unwrap();
    drop((k, v));
    memory::clear_cache();
    let page = 2 * 2 * 64 * 32 * 4;
    let before = memory::active_memory();
    let mut forks: Vec<Box<dyn Cache>> = (0..20).map(|_| base.boxed_clone()).collect();
    let grown = memory::active_memory() - before;
    assert!(grown < 4096, "20 forks cost {grown} bytes");
    for f in &mut forks {
        let token = mlx::ones([1, 2, 1, 32], mlx::Dtype::Float32);
        f.kv().update(token.clone(), token);
        let mut arrays = Vec::new();
        f.each(&mut |a| arrays.push(a.clone()));
        mlx::eval(&arrays).unwrap();
    }
    memory::clear_cache();
    let grown = memory::active_memory() - before;
    assert!((20 * page..21 * page).contains(&grown), "each writer copies its open page: {grown} of {page} bytes");
}
