//! Tables for people, JSON for scripts.

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// How a list or description is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns, for people.
    #[default]
    Table,
    /// One JSON document, for scripts.
    Json,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// How to print: a table for people, or JSON for scripts.
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub output: OutputFormat,
}

impl OutputArgs {
    /// Prints `value` as JSON, or what `table` makes of it.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Outcome {
        match self.output {
            OutputFormat::Json => {
                let json = serde_json::to_string_pretty(value)
                    .map_err(|error| Failure::failed(format!("can't write this as JSON: {error}")))?;
                line(json)
            }
            OutputFormat::Table => line(table(value)),
        }
    }
}

/// Writes one line (or several) to standard output. Unlike `println!`, a closed pipe is an error and no panic.
pub fn line(text: impl std::fmt::Display) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A table with the given column heads; those that start with `#` are numbers and stand to the right.
pub fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let names = heads.iter().map(|head| head.trim_start_matches('#').to_uppercase()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(names).chain(rows).collect();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let cell = |(column, text): (usize, &String)| match heads.get(column) {
        Some(head) if head.starts_with('#') => format!("{text:>width$}", width = widths[column]),
        Some(_) => format!("{text:width$}", width = widths[column]),
        None => text.clone(),
    };
    let line =
        |line: &Vec<String>| line.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned();
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Names and values, one a line, the values in one column.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect::<Vec<_>>().join("\n")
}

/// `a, b, c`, or a dash for nothing.
pub fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let text = items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",");
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A size for people.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", units[unit]) }
}

/// A whole number with its thousands apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_to_the_right_and_leave_no_trailing_space() {
        let text = table(&["name", "#count"], [vec!["a".to_owned(), "1".to_owned()], vec!["bb".into(), "100".into()]]);
        assert_eq!(text, "NAME  COUNT\na         1\nbb      100");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!((thousands(0), thousands(1000), thousands(27004)), ("0".into(), "1,000".into(), "27,004".into()));
        assert_eq!((bytes(5), bytes(1536), bytes(3 << 30)), ("5 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
    }
}
