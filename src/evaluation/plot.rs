//! An evaluation as a picture: success and return of every column with their intervals, as SVG.

use std::fmt::Write as _;

use super::{Evaluation, Summary};
use crate::stats::Estimate;

/// Pixels.
const ROW: f64 = 28.0;
const NAMES: f64 = 220.0;
const PANEL: f64 = 300.0;
const GAP: f64 = 40.0;
const TOP: f64 = 40.0;
/// Distinct for people with any colour vision (Okabe and Ito 2008), and on white and dark ground.
const COLOUR: &str = "#0072b2";

/// Draws an evaluation: a row per column of it, a dot for each mean and a line for its interval.
pub fn plot(evaluation: &Evaluation) -> String {
    let columns = &evaluation.columns;
    let (width, height) = (
        NAMES + 2.0 * (PANEL + GAP),
        TOP + ROW * (columns.len() as f64 + 1.5),
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Success and return with 95 % intervals</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, column) in columns.iter().enumerate() {
        let y = row(place) + 4.0;
        let name = escape(&column.name);
        text(&mut svg, (NAMES - 12.0, y), "end", &name);
    }
    panel(
        &mut svg,
        NAMES,
        "success",
        columns,
        |column| column.success,
        Some((0.0, 1.0)),
    );
    panel(
        &mut svg,
        NAMES + PANEL + GAP,
        "return",
        columns,
        |column| column.return_,
        None,
    );
    svg += "</svg>\n";
    svg
}

/// The middle of a row.
fn row(place: usize) -> f64 {
    TOP + ROW * (place as f64 + 0.5)
}

fn panel(
    svg: &mut String,
    left: f64,
    title: &str,
    columns: &[Summary],
    value: fn(&Summary) -> Option<Estimate>,
    range: Option<(f64, f64)>,
) {
    let estimates: Vec<(usize, Estimate)> = columns
        .iter()
        .enumerate()
        .filter_map(|(place, column)| Some((place, value(column)?)))
        .collect();
    text(svg, (left + PANEL / 2.0, TOP - 16.0), "middle", title);
    let (low, high) = range.unwrap_or_else(|| {
        let low = estimates
            .iter()
            .map(|(_, e)| e.low)
            .fold(f64::INFINITY, f64::min);
        let high = estimates
            .iter()
            .map(|(_, e)| e.high)
            .fold(f64::NEG_INFINITY, f64::max);
        // Room for a single value, and around the outermost ones.
        let margin = (0.05 * (high - low)).max(0.01);
        (low - margin, high + margin)
    });
    if estimates.is_empty() {
        text(
            svg,
            (left + PANEL / 2.0, row(0) + 4.0),
            "middle",
            "not known",
        );
        return;
    }
    let x = |value: f64| left + PANEL * (value - low) / (high - low);
    let bottom = row(columns.len()) - ROW / 2.0;
    for tick in 0..=4 {
        let value = low + (high - low) * f64::from(tick) / 4.0;
        line(svg, (x(value), TOP), (x(value), bottom), "#ccc", 1.0);
        text(
            svg,
            (x(value), bottom + 18.0),
            "middle",
            &format!("{value:.2}"),
        );
    }
    for (place, estimate) in estimates {
        let y = row(place);
        line(
            svg,
            (x(estimate.low), y),
            (x(estimate.high), y),
            COLOUR,
            3.0,
        );
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{COLOUR}\"><title>{:.3} [{:.3}, {:.3}]</title></circle>",
            x(estimate.mean),
            estimate.mean,
            estimate.low,
            estimate.high
        );
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>",
        at.0, at.1
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
