// SPDX-License-Identifier: GPL-2.0
//! Man pages and completions, from a tool's own command line and what is written by hand.
//!
//! A tool that is built with its feature `pages` writes them when it is called with
//! `--pages DIR`: into `DIR/man8`, `DIR/bash`, `DIR/zsh` and `DIR/fish`. The tools that are
//! installed are built without.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Programs for administrators.
const SECTION: &str = "8";

/// One program.
pub struct Tool {
    /// Its command line.
    pub command: Command,
    /// Sections that its page has at the end, in the format of man(7).
    pub more: &'static str,
    /// Whether a user types it, so that a shell should complete it.
    pub typed: bool,
}

/// The directory for the pages, if the arguments ask for them.
pub fn wanted() -> Option<PathBuf> {
    let mut args = std::env::args_os().skip(1);
    let (option, dir) = (args.next()?, args.next()?);
    (option == "--pages").then(|| dir.into())
}

/// Writes everything of these tools.
pub fn write(dir: &Path, tools: Vec<Tool>) -> io::Result<()> {
    let man = dir.join(format!("man{SECTION}"));
    fs::create_dir_all(&man)?;
    for mut tool in tools {
        if tool.typed {
            let name = tool.command.get_name().to_owned();
            let mut completes = tool.command.clone();
            let mut put = |shell: Shell, file: String| {
                let dir = dir.join(shell.to_string());
                fs::create_dir_all(&dir)?;
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut completes, &name, &mut text);
                fs::write(dir.join(file), text)
            };
            // The names by which each shell looks for them.
            put(Shell::Bash, name.clone())?;
            put(Shell::Zsh, format!("_{name}"))?;
            put(Shell::Fish, format!("{name}.fish"))?;
        }
        tool.command = tool.command.disable_help_subcommand(true);
        tool.command.build();
        let version = tool.command.render_version();
        let version = version.trim().rsplit(' ').next().unwrap_or_default();
        page(&man, &tool.command, None, version, tool.more)?;
    }
    Ok(())
}

/// Writes the page of a command, and those of its subcommands.
fn page(
    dir: &Path,
    command: &Command,
    above: Option<&str>,
    version: &str,
    more: &str,
) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let whole = above.unwrap_or(name);
    let mut text = Vec::new();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(SECTION)
        .source(format!("fuse_dax_fmap {version}"))
        .manual("DAX file maps");
    text.write_all(b".\\\" SPDX-License-Identifier: GPL-2.0\n")?;
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    let subcommands: Vec<_> = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
        .collect();
    if !subcommands.is_empty() {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(help) = command.get_after_long_help().or(command.get_after_help()) {
        text.write_all(prose(&help.to_string()).as_bytes())?;
    }
    text.write_all(more.as_bytes())?;
    if above.is_some() {
        writeln!(text, ".SH SEE ALSO\n.BR {} ({SECTION})", roff(whole))?;
    }
    fs::write(dir.join(format!("{name}.{SECTION}")), text)?;
    for subcommand in subcommands {
        page(dir, subcommand, Some(whole), version, "")?;
    }
    Ok(())
}

/// Help that is laid out for a terminal, for man(7): lines that are indented stay as they are.
/// Its first words are no heading of a page, so it gets one.
fn prose(help: &str) -> String {
    let mut text = ".SH DETAILS\n".to_owned();
    let mut fixed = false;
    for line in help.lines() {
        let indented = line.starts_with(' ');
        if line.is_empty() {
            text += if fixed { "\n" } else { ".PP\n" };
            continue;
        }
        if indented != fixed {
            text += if indented { ".PP\n.nf\n" } else { ".fi\n.PP\n" };
            fixed = indented;
        }
        text += &roff(line);
        text += "\n";
    }
    if fixed {
        text += ".fi\n";
    }
    // An empty line and then another paragraph, or the end of an example.
    text.replace(".PP\n.PP\n", ".PP\n")
        .replace("\n\n.fi\n", "\n.fi\n")
}

/// Escapes what roff would take for something else.
fn roff(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}

/// What a tool's main() returns.
pub fn main(dir: PathBuf, tools: Vec<Tool>) -> std::process::ExitCode {
    match write(&dir, tools) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let shown = OsString::from(dir);
            eprintln!("{}: {error}", shown.to_string_lossy());
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_as_they_are() {
        assert_eq!(
            prose("Text:\n\n  a = 1\n\n  .b-c\n\nMore.\n"),
            ".SH DETAILS\nText:\n.PP\n.nf\n  a = 1\n\n  .b\\-c\n.fi\n.PP\nMore.\n"
        );
        assert_eq!(roff(".x\\y"), "\\&.x\\ey");
    }
}
