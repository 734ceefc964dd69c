// SPDX-License-Identifier: GPL-2.0
//! Output for programs.

use serde::Serialize;

use crate::failure::Failure;

/// Prints a value, and ends the line.
pub fn print(value: &impl Serialize, out: &mut String) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| format!("cannot write JSON: {error}"))?;
    out.push_str(&text);
    out.push('\n');
    Ok(())
}

/// Prints a value on a line of its own.
pub fn print_line(value: &impl Serialize, out: &mut String) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| format!("cannot write JSON: {error}"))?;
    out.push_str(&text);
    out.push('\n');
    Ok(())
}
