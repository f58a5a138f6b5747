//! Man pages and shell completions of a program, made from the description that its help is
//! made from, so that they agree with it.

use std::fs::create_dir_all;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Generator as _, Shell};
use clap_mangen::Man;
use jola_edit::{Output, OutputError, OutputErrorKind};

/// Writes the manual of `command`: a page for it and for each of its subcommands to
/// `folder/man`, and completions for bash, zsh and fish to `folder/completions`.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(command: Command, folder: &Path) -> Result<(), OutputError> {
    let man = subfolder(folder, "man")?;
    let completions = subfolder(folder, "completions")?;
    let mut documented = command.clone().disable_help_subcommand(true);
    documented.build();
    write_pages(&documented, &man)?;
    let program = command.get_name().to_owned();
    let mut shown = without_hidden(&command);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut shown, &program, &mut script);
        let path = completions.join(shell.file_name(&program));
        Output::without_inputs(path)?.write(|out| out.write_all(&script))?;
    }
    Ok(())
}

/// The command as its completions see it: clap's completions name hidden subcommands, too, and
/// a command cannot lose one.
fn without_hidden(command: &Command) -> Command {
    let subcommands = command.get_subcommands().filter(|s| !s.is_hide_set());
    let mut shown = Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments())
        .groups(command.get_groups())
        .subcommands(subcommands.map(without_hidden));
    if let Some(text) = command.get_long_about() {
        shown = shown.long_about(text.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown
}

/// The page of a command, after those of its subcommands.
fn write_pages(command: &Command, folder: &Path) -> Result<(), OutputError> {
    for subcommand in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        write_pages(subcommand, folder)?;
    }
    let page = Man::new(command.clone());
    let output = Output::without_inputs(folder.join(page.get_filename()))?;
    output.write(|out| page.render(out))
}

fn subfolder(folder: &Path, name: &str) -> Result<PathBuf, OutputError> {
    let path = folder.join(name);
    create_dir_all(&path).map_err(|error| {
        let action = "create this folder";
        OutputError::new(&path, OutputErrorKind::Io { action, error })
    })?;
    Ok(path)
}
