//! Work shared out among threads: one pool for every kernel, so that threads never wait for each other's
//! pools.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

use candle_core::utils::barrier_pool;

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// How many threads work: `RAYON_NUM_THREADS` where it is set, else the number of cores.
pub fn num_threads() -> usize {
    barrier_pool().n_workers() + 1
}

/// Calls `task` once with each index below `tasks`, on all threads. Inside a task it runs them in a row.
pub fn run(tasks: usize, task: impl Fn(usize) + Sync) {
    if tasks <= 1 || IN_TASK.get() {
        (0..tasks).for_each(task);
        return;
    }
    barrier_pool().execute_chunked(tasks, |range| {
        // The pool must not be entered again by the thread that waits for it.
        IN_TASK.set(true);
        range.for_each(&task);
        IN_TASK.set(false);
    });
}

/// Does `work` on the calling thread alone, for who has other work for the others.
pub fn alone<T>(work: impl FnOnce() -> T) -> T {
    let before = IN_TASK.replace(true);
    let result = work();
    IN_TASK.set(before);
    result
}

/// What `task` gives for each index below `tasks`, in order, computed on all threads.
pub fn map<T: Send + Sync>(tasks: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..tasks).map(|_| OnceLock::new()).collect();
    run(tasks, |index| {
        // Every index comes once.
        let _ = results[index].set(task(index));
    });
    results
        .into_iter()
        .filter_map(OnceLock::into_inner)
        .collect()
}

/// Cuts `0..len` into at most `parts` ranges whose lengths are multiples of `unit`, the last one excepted.
pub fn split(len: usize, parts: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let step = len.div_ceil(parts.max(1)).next_multiple_of(unit).max(unit);
    (0..len.div_ceil(step)).map(move |part| part * step..len.min((part + 1) * step))
}

/// As [`split`], and calls `task` with each range, in parallel.
pub fn run_ranges(len: usize, parts: usize, unit: usize, task: impl Fn(Range<usize>) + Sync) {
    let ranges: Vec<Range<usize>> = split(len, parts, unit).collect();
    run(ranges.len(), |index| task(ranges[index].clone()));
}

/// How many tasks an even piece of work is cut into: enough for threads to make up for each other.
pub fn default_parts() -> usize {
    4 * num_threads()
}

/// A slice that several tasks write at once, each its own part.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Parts` stands for a `&mut [f32]`, which is `Send`; sharing it between threads is safe because
// the only way to use it, `range`, is unsafe and asks for disjoint parts.
unsafe impl Send for Parts<'_> {}
// SAFETY: as above.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    /// The parts of `slice`.
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// One part, empty where the range leaves the slice.
    ///
    /// # Safety
    /// No two parts that are in use at the same time may overlap.
    pub unsafe fn range(self, range: Range<usize>) -> &'a mut [f32] {
        let end = range.end.min(self.len);
        let start = range.start.min(end);
        // SAFETY: the range lies inside the slice, which is borrowed mutably for `'a`; the caller promises
        // that nobody else uses this part.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), end - start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once_also_inside_a_task() {
        let counts: Vec<AtomicUsize> = (0..60).map(|_| AtomicUsize::new(0)).collect();
        run(6, |outer| {
            run(10, |inner| {
                counts[outer * 10 + inner].fetch_add(1, Ordering::Relaxed);
            });
        });
        assert!(
            counts
                .iter()
                .all(|count| count.load(Ordering::Relaxed) == 1)
        );
    }

    #[test]
    fn results_come_in_the_order_of_their_tasks() {
        assert_eq!(
            map(50, |index| 2 * index),
            (0..50).map(|index| 2 * index).collect::<Vec<_>>()
        );
        assert!(map(0, |index| index).is_empty());
    }

    #[test]
    fn work_alone_stays_on_its_thread() {
        let here = std::thread::current().id();
        let there = alone(|| map(100, |_| std::thread::current().id()));
        assert!(there.iter().all(|thread| *thread == here));
        assert!(!IN_TASK.get());
    }

    #[test]
    fn ranges_cover_the_whole_in_units() {
        for (len, parts, unit) in [(0, 4, 1), (1, 4, 6), (100, 4, 6), (7, 9, 1), (960, 8, 6)] {
            let ranges: Vec<_> = split(len, parts, unit).collect();
            assert!(ranges.len() <= parts);
            let covered: Vec<usize> = ranges.iter().cloned().flatten().collect();
            assert_eq!(covered, (0..len).collect::<Vec<_>>());
            assert!(
                ranges
                    .iter()
                    .rev()
                    .skip(1)
                    .all(|range| range.len() % unit == 0)
            );
        }
    }

    #[test]
    fn parts_write_their_own_range() {
        let mut slice = vec![0.0_f32; 100];
        let parts = Parts::new(&mut slice);
        run_ranges(100, 7, 1, |range| {
            // SAFETY: the ranges of `run_ranges` are disjoint.
            let part = unsafe { parts.range(range.clone()) };
            for (value, index) in part.iter_mut().zip(range) {
                *value = index as f32;
            }
        });
        assert!(
            slice
                .iter()
                .enumerate()
                .all(|(index, value)| *value == index as f32)
        );
    }
}
