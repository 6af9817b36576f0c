//! An evaluation as a table for a terminal.

use std::fmt;

use super::Evaluation;
use crate::stats::Estimate;

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "",
            "success",
            "return",
            "turns",
            "tokens/turn",
            "read/turn",
            "s/turn",
            "failed",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.columns.iter().map(|column| {
            [
                column.name.clone(),
                show(column.success.as_ref()),
                show(column.return_.as_ref()),
                show(column.turns.as_ref()),
                column
                    .tokens_per_turn
                    .map_or("-".to_owned(), |n| format!("{n:.1}")),
                column
                    .tokens_read_per_turn
                    .map_or("-".to_owned(), |n| format!("{n:.1}")),
                column
                    .seconds_per_turn
                    .map_or("-".to_owned(), |n| format!("{n:.4}")),
                format!(
                    "{} of {}",
                    column.failures,
                    column.failures + column.episodes
                ),
            ]
        }));
        write_aligned(f, &rows)?;
        if self.differences.is_empty() {
            return Ok(());
        }
        writeln!(f)?;
        let mut rows = vec![["difference", "success", "return", "episodes"].map(str::to_owned)];
        rows.extend(self.differences.iter().map(|difference| {
            [
                format!("{} − {}", difference.a, difference.b),
                show(difference.success.as_ref()),
                show(Some(&difference.return_)),
                difference.episodes.to_string(),
            ]
        }));
        write_aligned(f, &rows)
    }
}

/// Columns as wide as their widest cell, the first to the left and the others to the right.
fn write_aligned<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    for row in rows {
        write!(f, "{:<width$}", row[0], width = width(0))?;
        for (column, cell) in row.iter().enumerate().skip(1) {
            write!(f, "  {cell:>width$}", width = width(column))?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn show(estimate: Option<&Estimate>) -> String {
    match estimate {
        Some(Estimate { mean, low, high }) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
        None => "-".to_owned(),
    }
}
