//! What the program itself uses: processor time by thread, and memory.

use std::collections::BTreeMap;
use std::time::Duration;

/// Processor time at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    threads: BTreeMap<String, Duration>,
}

/// What was spent between two moments.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    /// By the engine's threads, in user mode and in the kernel on their behalf; the callers' are no part of it.
    pub(super) engine: Duration,
    /// By thread, those that spent the most first.
    pub(super) threads: Vec<(String, Duration)>,
    /// The most memory that the program had in use.
    pub(super) peak_rss_kib: u64,
}

/// What the names of the engine's threads begin with.
const ENGINE: &str = "nl-";

impl Usage {
    /// Reads it now, and lets the peak of the memory begin anew: what was measured before is no part of it.
    pub(super) fn begin() -> Self {
        // Where it is refused, the peak is that of the program's whole life.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self::now()
    }

    /// Reads it now. What cannot be read counts as nothing.
    fn now() -> Self {
        let mut threads: BTreeMap<String, Duration> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            // Nanoseconds on a processor, nanoseconds of waiting for one, time slices.
            let ran = read("schedstat").split(' ').next().and_then(|text| text.parse().ok());
            let name = read("comm").trim_end().to_owned();
            *threads.entry(name).or_default() += Duration::from_nanos(ran.unwrap_or_default());
        }
        Self { threads }
    }

    /// What was spent since.
    pub(super) fn since(&self) -> Spent {
        let now = Self::now();
        let mut threads: Vec<_> = now
            .threads
            .into_iter()
            .map(|(name, ran)| {
                let before = self.threads.get(&name).copied().unwrap_or_default();
                (name, ran.saturating_sub(before))
            })
            .collect();
        threads.sort_by_key(|(_, ran)| std::cmp::Reverse(*ran));
        let engine = threads.iter().filter(|(name, _)| name.starts_with(ENGINE)).map(|(_, ran)| *ran).sum();
        Spent { engine, threads, peak_rss_kib: peak_rss_kib() }
    }
}

fn peak_rss_kib() -> u64 {
    status_kib("VmHWM:")
}

/// How much memory the program has in use now.
pub(super) fn rss_kib() -> u64 {
    status_kib("VmRSS:")
}

fn status_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}
