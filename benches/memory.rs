//! Memory per live child: a million children of one parent, each held.
//!
//! `cargo bench --bench memory` prints two figures for each side: the allocated bytes, as a
//! counting allocator sees them, and the growth of the resident set of a process that made nothing
//! else. Both include the handles in the list that holds them. Go's figure is in the table of the
//! `targets` bench.

#[cfg(not(loom))]
fn main() {
    memory::main();
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
mod kit;

#[cfg(not(loom))]
mod memory {
    use crate::kit::{resident, waiting};
    use quell::{Canceller, Context};
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::hint::black_box;

    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio_util::sync::CancellationToken;

    const CHILDREN: usize = 1_000_000;

    /// The system's allocator, with a count of the allocated bytes.
    struct Counting;

    static BYTES: AtomicUsize = AtomicUsize::new(0);

    #[global_allocator]
    static COUNTING: Counting = Counting;

    // SAFETY: everything is left to the system's allocator; counting allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            BYTES.fetch_add(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller promises what `System` asks for.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: `memory` came from `alloc` above, so from `System`.
            unsafe { System.dealloc(memory, layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            BYTES.fetch_add(size, Ordering::Relaxed);
            BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: as for `dealloc`, and the caller promises a size that `System` takes.
            unsafe { System.realloc(memory, layout, size) }
        }
    }

    /// Bytes per child.
    struct Figures {
        allocated: f64,
        resident: Option<f64>,
    }

    pub(super) fn main() {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if let [command, side, kind] = args.as_slice() {
            if command == "--measure" {
                let Figures { allocated, resident } = measure(side, kind);
                println!("{allocated} {}", resident.unwrap_or(f64::NAN));
                return;
            }
        }
        if !args.iter().any(|arg| arg == "--bench") {
            println!("measures only under `cargo bench`");
            return;
        }
        println!("bytes per child, of {CHILDREN} live ones");
        println!("{:<12} {:<6} {:>10} {:>10}", "children", "side", "allocated", "resident");
        for kind in ["plain", "waited-for"] {
            for side in ["quell", "token"] {
                let Figures { allocated, resident } = measure_apart(side, kind);
                let resident = resident.map_or("unknown".into(), |bytes| format!("{bytes:.1}"));
                println!("{kind:<12} {side:<6} {allocated:>10.1} {resident:>10}");
            }
        }
    }

    /// Measures in a process of its own: memory freed by another measurement is not given back.
    fn measure_apart(side: &str, kind: &str) -> Figures {
        let exe = std::env::current_exe().expect("this program has a path");
        let output = Command::new(exe)
            .args(["--measure", side, kind])
            .output()
            .expect("this program starts again");
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut figures = output.split_whitespace().map(|word| word.parse::<f64>().unwrap());
        let (allocated, resident) = (figures.next().unwrap(), figures.next().unwrap());
        Figures { allocated, resident: (!resident.is_nan()).then_some(resident) }
    }

    fn measure(side: &str, kind: &str) -> Figures {
        let (ctx, _canceller) = Context::background().with_cancel();
        let token = CancellationToken::new();
        match (side, kind) {
            ("quell", "plain") => grow::<(Context, Canceller)>(|| ctx.with_cancel()),
            ("quell", _) => grow(|| {
                let (ctx, canceller) = ctx.with_cancel();
                (waiting(ctx.done()), ctx, canceller)
            }),
            (_, "plain") => grow(|| token.child_token()),
            _ => grow(|| {
                let child = token.child_token();
                (waiting(child.clone().cancelled_owned()), child)
            }),
        }
    }

    fn grow<T>(mut child: impl FnMut() -> T) -> Figures {
        let allocated = BYTES.load(Ordering::Relaxed);
        let resident_before = resident();
        let mut children = Vec::with_capacity(CHILDREN);
        children.extend((0..CHILDREN).map(|_| child()));
        let allocated = BYTES.load(Ordering::Relaxed) - allocated;
        let resident = resident().zip(resident_before).map(|(now, before)| now - before);
        drop(black_box(children));
        let per_child = |bytes: f64| bytes / CHILDREN as f64;
        Figures { allocated: per_child(allocated as f64), resident: resident.map(per_child) }
    }
}
