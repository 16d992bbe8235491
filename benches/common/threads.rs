//! Servers on threads of their own, whose time on a core is counted; and what many
//! measurements come to.

use std::time::Duration;

use tokio::runtime::Runtime;

/// Threads of a server, as many as there are cores.
pub(crate) struct Threads {
    name: &'static str,
    pub(crate) runtime: Runtime,
}

// === impl Threads ===

impl Threads {
    pub(crate) fn new(name: &'static str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().thread_name(name).enable_all().build();
        Self { name, runtime: runtime.expect("threads") }
    }

    /// Does this on these threads, and all that it starts.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.runtime.spawn(task).await.expect("no panic")
    }

    /// The time that they have spent on a core.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
        let nanoseconds = tasks.filter_map(|task| {
            // A thread may end meanwhile.
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            let spent = std::fs::read_to_string(path.join("schedstat")).ok()?;
            (name.trim_end() == self.name).then(|| spent.split(' ').next()?.parse::<u64>().ok())?
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

/// The latency that this share of the requests stays below, in milliseconds.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
