//! Threads for short jobs. A decode step is a chain of products of 10 to 100 us each; waking a sleeping thread costs as much, so
//! helpers spin for a moment after each job before they sleep, the caller works too, and chunks are handed out dynamically. A helper
//! that arrives late (it slept, or the machine is busy) is never waited for: a job closes once its chunks are taken.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long an idle helper spins before it sleeps.
const SPIN: Duration = Duration::from_micros(200);
/// Bit of `Pool::state` saying that nobody may enter the job any more; below it the number of helpers inside, above it the epoch.
const CLOSED: u64 = 1 << 31;
const EPOCH: u64 = 1 << 32;

type Job = *const (dyn Fn() + Sync);

struct Pool {
    threads: usize,
    state: AtomicU64,
    left: AtomicU32,
    job: UnsafeCell<Option<Job>>,
    failed: AtomicBool,
    busy: AtomicBool,
    asleep: AtomicU32,
    door: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `job` is written only by the owner of `busy` while the state is closed, and read only by helpers that entered after it.
unsafe impl Sync for Pool {}

fn pool() -> &'static Pool {
    static POOL: OnceLock<&'static Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool: &'static Pool = Box::leak(Box::new(Pool {
            threads,
            state: AtomicU64::new(CLOSED),
            left: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            failed: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            asleep: AtomicU32::new(0),
            door: Mutex::new(()),
            bell: Condvar::new(),
        }));
        for i in 1..threads {
            // fewer helpers than asked for only make it slower
            let _ = std::thread::Builder::new().name(format!("mlx-kernel-{i}")).spawn(move || pool.help());
        }
        pool
    })
}

impl Pool {
    fn help(&self) {
        let mut seen = 0;
        loop {
            let state = self.wait_beyond(seen);
            seen = state / EPOCH;
            if state & CLOSED != 0 || self.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_err() {
                if self.state.load(Acquire) & CLOSED == 0 {
                    seen -= 1; // another helper entered first: try again
                }
                continue;
            }
            // SAFETY: entered, so the caller keeps the job alive until `left` counts us.
            let job = unsafe { (*self.job.get()).map(|j| &*j) };
            if let Some(job) = job
                && catch_unwind(AssertUnwindSafe(job)).is_err()
            {
                self.failed.store(true, Relaxed);
            }
            self.left.fetch_add(1, Release);
        }
    }

    fn wait_beyond(&self, seen: u64) -> u64 {
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                let state = self.state.load(Acquire);
                if state / EPOCH != seen {
                    return state;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        let mut guard = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, SeqCst);
        let state = loop {
            let state = self.state.load(SeqCst);
            if state / EPOCH != seen {
                break state;
            }
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.asleep.fetch_sub(1, SeqCst);
        state
    }

    /// Run `body` on the caller and on every helper that comes in time.
    fn share(&self, body: &(dyn Fn() + Sync)) {
        // SAFETY: only the lifetime changes; no helper touches the job after this function returns.
        let job: Job = unsafe { std::mem::transmute(std::ptr::from_ref(body)) };
        self.left.store(0, Relaxed);
        self.failed.store(false, Relaxed);
        // SAFETY: the state is closed and `busy` is ours.
        unsafe { *self.job.get() = Some(job) };
        let epoch = (self.state.load(Relaxed) / EPOCH + 1) * EPOCH;
        self.state.store(epoch, SeqCst);
        if self.asleep.load(SeqCst) > 0 {
            let _guard = self.door.lock().unwrap_or_else(PoisonError::into_inner);
            self.bell.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(body));
        let entered = self.state.fetch_or(CLOSED, AcqRel) & (CLOSED - 1);
        let mut turns = 0u32;
        while u64::from(self.left.load(Acquire)) != entered {
            turns += 1;
            if turns.is_multiple_of(256) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let failed = self.failed.load(Relaxed);
        self.busy.store(false, Release);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!failed, "a kernel panicked on a helper thread");
    }
}

/// Number of threads that `parallel` uses at most (cores allowed by affinity and cgroup).
pub fn threads() -> usize {
    pool().threads
}

/// Run `f(i)` for every `i` in `0..chunks`, on all threads. Runs on the caller alone if there is one chunk, one core, or another
/// thread is using the helpers.
pub(crate) fn parallel(chunks: usize, f: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let body = || {
        loop {
            let i = next.fetch_add(1, Relaxed);
            if i >= chunks {
                break;
            }
            f(i)
        }
    };
    if chunks < 2 {
        return body();
    }
    let pool = pool();
    if pool.threads == 1 || pool.busy.swap(true, Acquire) {
        return body();
    }
    pool.share(&body)
}
