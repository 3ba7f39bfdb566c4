//! A large stack for calls that walk graphs recursively: MLX takes about 150 bytes a node, Rust threads have 2 MB.
//!
//! One per thread, made by the first transform and kept: making one for each call would cost more than most calls.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Reserved, not used: a page counts once it is touched. Holds about 1.7 million nodes.
const SIZE: usize = 256 << 20;

/// Mapped memory with a guard page at its low end.
struct Stack {
    base: *mut libc::c_void,
    guard: usize,
}

impl Stack {
    fn new() -> Option<Stack> {
        // SAFETY: a fresh anonymous mapping, checked; the guard lies inside it
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).ok().filter(|p| p.is_power_of_two())?;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
            let base = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if base == libc::MAP_FAILED {
                return None;
            }
            let stack = Stack { base, guard: page };
            (libc::mprotect(base, page, libc::PROT_NONE) == 0).then_some(stack)
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once, and nothing runs on it any more
        unsafe { libc::munmap(self.base, SIZE) };
    }
}

thread_local! {
    static STACK: RefCell<Option<Stack>> = const { RefCell::new(None) };
    /// Whether this thread runs on its large stack now.
    static THERE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on the thread's large stack; where the thread is already, or there is none to have, as it is.
pub(crate) fn deep<R>(f: impl FnOnce() -> R) -> R {
    if THERE.get() {
        return f();
    }
    let place = STACK.try_with(|s| {
        let mut s = s.borrow_mut();
        if s.is_none() {
            *s = Stack::new();
        }
        // the address stays: the stack is unmapped only when the thread ends
        s.as_ref().map(|s| (s.base as usize + s.guard, SIZE - s.guard))
    });
    let Ok(Some((base, size))) = place else { return f() };
    THERE.set(true);
    // SAFETY: mapped memory that nothing else uses while `THERE` is set; no unwinding leaves the callback
    let result = unsafe { psm::on_stack(base as *mut u8, size, || catch_unwind(AssertUnwindSafe(f))) };
    THERE.set(false);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
