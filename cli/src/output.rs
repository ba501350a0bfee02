//! Tables, JSON and YAML.

use std::io::{self, Write};

use serde::Serialize;

use crate::arguments::Format;
use crate::exit::{Exit, Failure};

/// Writes a value for programs; `table` writes it for people.
///
/// # Errors
/// When it cannot be written. A reader that went away is no error to talk about.
pub fn print<T: Serialize>(
    out: &mut dyn Write,
    format: Format,
    value: &T,
    table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let written = match format {
        Format::Table => table(out),
        Format::Json => match serde_json::to_string_pretty(value) {
            Ok(text) => writeln!(out, "{text}"),
            Err(error) => Err(io::Error::other(error)),
        },
        Format::Yaml => match serde_yaml::to_string(value) {
            Ok(text) => write!(out, "{text}"),
            Err(error) => Err(io::Error::other(error)),
        },
    };
    written.and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Failed, ""),
        _ => Failure::other(format!("writing: {error}")),
    })
}

/// Writes rows in columns, as kubectl does: the last one is as wide as it likes.
///
/// # Errors
/// When it cannot be written.
pub fn columns(out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}   ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
