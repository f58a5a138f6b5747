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
pub fn write(mut command: Command, folder: &Path) -> Result<(), OutputError> {
    let man = subfolder(folder, "man")?;
    let completions = subfolder(folder, "completions")?;
    let mut documented = command.clone().disable_help_subcommand(true);
    documented.build();
    write_pages(&documented, &man)?;
    let program = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, &program, &mut script);
        let path = completions.join(shell.file_name(&program));
        Output::without_inputs(path)?.write(|out| out.write_all(&script))?;
    }
    Ok(())
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
