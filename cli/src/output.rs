//! Tables, JSON and YAML.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::OutputFormat;
use crate::exit::{CommandError, Exit};

/// Writes a value as JSON or YAML; `table` writes it for people.
///
/// # Errors
/// When it cannot be written. Where the reader closed the pipe, the message is empty.
pub fn print<T: Serialize>(
    out: &mut dyn Write,
    format: OutputFormat,
    value: &T,
    table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CommandError> {
    let written = match format {
        OutputFormat::Table => table(out),
        OutputFormat::Json => match serde_json::to_string_pretty(value) {
            Ok(text) => writeln!(out, "{text}"),
            Err(error) => Err(io::Error::other(error)),
        },
        OutputFormat::Yaml => match serde_yaml::to_string(value) {
            Ok(text) => write!(out, "{text}"),
            Err(error) => Err(io::Error::other(error)),
        },
    };
    written.and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CommandError::new(Exit::Failed, ""),
        _ => CommandError::other(format!("the output cannot be written: {error}")),
    })
}

/// Writes rows in columns, as kubectl does.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn columns(out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..count).map(|column| width(rows, column)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}   ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Returns the width of a column, in characters.
fn width(rows: &[Vec<String>], column: usize) -> usize {
    rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
}
