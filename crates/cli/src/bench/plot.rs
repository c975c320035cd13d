//! The figures as a drawing: how latencies are spread, and how throughput went over time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use super::figures::Report;
use super::load::Run;

const SIZE: (u32, u32) = (1000, 900);
/// Into how many slices of time a run is cut.
const SLICES: usize = 60;

/// Draws a run as an SVG file.
pub(super) fn draw(path: &Path, report: &Report, run: &Run) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let title = format!(
            "{} containers, {} callers, {} {} networks: {:.0} lifecycles/s",
            report.endpoints, report.concurrency, report.networks, report.driver, report.lifecycles_per_s
        );
        let (above, below) = root.titled(&title, ("sans-serif", 20))?.split_vertically(SIZE.1 / 2);
        latencies(&above, run)?;
        throughput(&below, run)?;
        root.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("{error}")).with_context(|| format!("cannot draw {}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// For each step, how many in a hundred took at most how long; the time axis is logarithmic.
fn latencies(area: &Area<'_>, run: &Run) -> Drawn {
    let named = run.samples.named();
    let longest = named.iter().flat_map(|(_, samples)| samples.iter()).max().copied().unwrap_or_default();
    let right = (longest.as_secs_f64() * 1e3).max(0.1);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d((0.01..right).log_scale(), 0.0..100.0)?;
    chart.configure_mesh().x_desc("ms").y_desc("% of all").draw()?;
    for (place, (name, samples)) in named.into_iter().enumerate() {
        let color = Palette99::pick(place).to_rgba();
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let count = sorted.len().max(1) as f64;
        // A line of a few hundred points looks the same as one of a million.
        let every = (sorted.len() / 400).max(1);
        let last = sorted.len().saturating_sub(1);
        let points = sorted.iter().enumerate().filter(|(rank, _)| rank % every == 0 || *rank == last);
        let points = points.map(|(rank, took)| (took.as_secs_f64() * 1e3, (rank + 1) as f64 * 100.0 / count));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// How many containers came up and went in each slice of time.
fn throughput(area: &Area<'_>, run: &Run) -> Drawn {
    let end = run.ups.iter().chain(&run.downs).max().copied().unwrap_or_default();
    let slice = (end.as_secs_f64() / SLICES as f64).max(1e-6);
    let (ups, downs) = (rates(&run.ups, slice), rates(&run.downs, slice));
    let top = ups.iter().chain(&downs).copied().fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end.as_secs_f64().max(slice), 0.0..top)?;
    chart.configure_mesh().x_desc("s").y_desc("per second").draw()?;
    for (name, rates, color) in [("up", ups, BLUE), ("down", downs, RED)] {
        let points = rates.into_iter().enumerate().map(|(n, rate)| ((n as f64 + 0.5) * slice, rate));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(())
}

fn rates(moments: &[Duration], slice: f64) -> Vec<f64> {
    let mut counts = vec![0.0; SLICES];
    for moment in moments {
        // The last moment belongs to the last slice.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let place = ((moment.as_secs_f64() / slice) as usize).min(SLICES - 1);
        counts[place] += 1.0 / slice;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_counts_once() {
        let moments: Vec<_> = (0..=600).map(Duration::from_millis).collect();
        let rates = rates(&moments, 0.01);
        assert_eq!(rates.len(), SLICES);
        assert!((rates.iter().sum::<f64>() * 0.01 - 601.0).abs() < 1e-6);
    }
}
