//! Man pages and shell completions of a program, made from the description that its help is
//! made from, so that they agree with it.

use std::fs::create_dir_all;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Writes the manual of `command`: a page for it and for each of its subcommands to
/// `folder/man`, and completions for bash, zsh and fish to `folder/completions`.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(mut command: Command, folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    create_dir_all(&man)?;
    create_dir_all(&completions)?;
    clap_mangen::generate_to(command.clone(), &man)?;
    let program = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &program, &completions)?;
    }
    Ok(())
}
