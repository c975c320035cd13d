//! The figures for a person.

use super::Mode;
use super::figures::{Report, Step};
use crate::report::{Output, rows};

/// Prints the report.
pub(super) fn print(out: &mut Output, report: &Report) {
    let Report { endpoints, concurrency, networks, driver, .. } = report;
    let how = match report.mode {
        Mode::Churn => "come and go",
        Mode::Hold => "all come, then all go",
    };
    out.line(format_args!(
        "{endpoints} containers {how}, {concurrency} callers, {networks} {driver} networks"
    ));
    throughput(out, report);
    steps(out, report);
    costs(out, report);
}

fn throughput(out: &mut Output, report: &Report) {
    let rate = |value: f64| format!("{value:.0}");
    let floor =
        |pick: fn(&super::figures::Floor) -> f64| report.floor.as_ref().map(pick).map_or("-".into(), rate);
    let ratio = |pick: fn(&super::figures::Ratio) -> f64| {
        report.ratio.as_ref().map(pick).map_or("-".into(), |ratio| format!("{ratio:.2}"))
    };
    let mut table = Vec::new();
    if report.mode == Mode::Hold {
        table.push(vec!["up".into(), rate(report.up_per_s), floor(|f| f.up_per_s), ratio(|r| r.up)]);
        table.push(vec!["down".into(), rate(report.down_per_s), floor(|f| f.down_per_s), ratio(|r| r.down)]);
    }
    let whole = rate(report.lifecycles_per_s);
    table.push(vec!["lifecycles".into(), whole, floor(|f| f.lifecycles_per_s), ratio(|r| r.churn)]);
    rows(out, &["per second", "engine", "kernel alone", "ratio"], table);
}

fn steps(out: &mut Output, report: &Report) {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1e3);
    let row = |name: &str, step: &Step| {
        vec![name.to_owned(), ms(step.p50_us), ms(step.p95_us), ms(step.p99_us), ms(step.max_us)]
    };
    let steps = &report.steps;
    let mut table = vec![
        row("create endpoint", &steps.create),
        row("create sandbox", &steps.sandbox),
        row("join", &steps.join),
        row("= up", &steps.up),
        row("leave", &steps.leave),
        row("delete endpoint", &steps.delete),
        row("delete sandbox", &steps.delete_sandbox),
        row("= down", &steps.down),
    ];
    if let Some(floor) = &report.floor {
        table.push(vec!["up, kernel alone".into(), ms(floor.up_p50_us)]);
    }
    rows(out, &["ms", "p50", "p95", "p99", "max"], table);
}

fn costs(out: &mut Output, report: &Report) {
    let threads = report.threads.iter().filter(|(_, us)| *us >= 1.0);
    let threads: Vec<_> = threads.map(|(name, us)| format!("{name} {us:.0}")).collect();
    let figure = |name: &str, value: String| vec![name.to_owned(), value];
    rows(
        out,
        &["cost", ""],
        vec![
            figure(
                "the engine's processor time a lifecycle, µs",
                format!("{:.0}", report.cpu_us_per_lifecycle),
            ),
            figure("… by thread, and the callers'", threads.join(", ")),
            figure("peak memory, MiB", format!("{:.1}", report.peak_rss_kib as f64 / 1024.0)),
            figure("netlink messages", report.netlink.messages.to_string()),
            figure("netlink sends", report.netlink.sends.to_string()),
            figure("deletions that waited for RCU", report.netlink.deletions.to_string()),
            figure("syncs of the store", report.fsyncs.to_string()),
        ],
    );
}
