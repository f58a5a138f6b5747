use super::*;

const NOTHING: [&Path; 0] = [];

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write(path: &Path, bytes: &[u8]) {
    let output = Output::without_inputs(path).unwrap();
    output.write(|out| out.write_all(bytes)).unwrap();
}

fn refusal<P: AsRef<Path>>(path: &Path, inputs: &[P]) -> String {
    let error = Output::new(path, inputs).unwrap_err().to_string();
    let (file, reason) = error.split_once(": ").expect("FILE: REASON");
    assert_eq!(file, path.to_str().unwrap());
    reason.to_owned()
}

#[test]
fn a_complete_file_replaces_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    fs::write(&path, "old").unwrap();
    let output = Output::without_inputs(&path).unwrap();
    assert_eq!(
        names(folder.path()),
        ["report"],
        "nothing before the work is done"
    );
    output.write(|out| out.write_all(b"new")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(folder.path()), ["report"]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    fs::write(&path, "old").unwrap();
    let failing = Output::without_inputs(&path).unwrap().write(|out| {
        out.write_all(b"half")?;
        Err(io::Error::other("no more"))
    });
    let failing = failing.unwrap_err().to_string();
    assert!(
        failing.ends_with("report: cannot write it: no more"),
        "{failing}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["report"]);
}

#[test]
fn a_look_at_the_result_shows_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::without_inputs(folder.path().join("model")).unwrap();
    let mut file = output.begin().unwrap();
    file.write_all(b"weights").unwrap();
    let preview = file.preview().unwrap();
    assert_eq!(fs::read(preview).unwrap(), b"weights");
    assert!(is_temporary(preview.file_name().unwrap().to_str().unwrap()));
    assert!(!output.path().exists());
    file.commit().unwrap();
    assert_eq!(names(folder.path()), ["model"]);
}

#[test]
fn what_cannot_be_written_is_said_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let no_folder = folder.path().join("none");
    for (path, reason) in [
        (no_folder.join("out"), "there is no folder"),
        (file.join("out"), "is no folder"),
        (file.join("sub").join("out"), "is no folder"),
        (folder.path().to_path_buf(), "it is a folder"),
        (folder.path().join("out/"), "no name of a file"),
    ] {
        let said = refusal(&path, &NOTHING);
        assert!(
            said.starts_with("cannot write it: ") && said.contains(reason),
            "{said}"
        );
    }
    assert!(refusal(&file.join("sub").join("out"), &NOTHING).contains(file.to_str().unwrap()));
    let error = Output::without_inputs("").unwrap_err();
    assert!(matches!(*error.kind, OutputErrorKind::NoName));
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn an_input_is_no_output_however_it_is_spelt() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in [
        "base.gguf",
        "m-00001-of-00002.gguf",
        "m-00002-of-00002.gguf",
    ] {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir(at("hf")).unwrap();
    fs::write(at("hf/model.safetensors"), "").unwrap();
    fs::hard_link(at("base.gguf"), at("hard.gguf")).unwrap();
    let inputs = [at("hf"), at("base.gguf"), at("m-00001-of-00002.gguf")];
    let refused = |output: &Path, input: &str| {
        let said = refusal(output, &inputs);
        assert!(said.contains("is an input of this command"), "{said}");
        assert!(said.contains(input), "{said}");
    };
    refused(&at("base.gguf"), "");
    refused(&at("hf/../base.gguf"), "base.gguf");
    refused(&at("hard.gguf"), "base.gguf");
    refused(&at("m-00002-of-00002.gguf"), "");
    refused(&at("hf/model.safetensors"), "");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("base.gguf", at("soft.gguf")).unwrap();
        refused(&at("soft.gguf"), "base.gguf");
        std::os::unix::fs::symlink(folder.path(), at("hf/up")).unwrap();
        refused(&at("hf/up/base.gguf"), "base.gguf");
    }
    // A link to the output is an input as well.
    let said = refusal(&at("base.gguf"), &[at("hard.gguf")]);
    assert!(said.contains("hard.gguf"), "{said}");
    // Others may lie beside them, and be replaced.
    Output::new(at("edit.gguf"), &inputs).unwrap();
    fs::write(at("other.gguf"), "base.gguf").unwrap();
    Output::new(at("other.gguf"), &inputs).unwrap();
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{symlink, FileTypeExt as _, PermissionsExt as _};
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn permissions_are_those_of_new_files_or_of_the_file_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("usual"), "").unwrap();
        write(&at("ours"), b"");
        assert_eq!(mode(&at("ours")), mode(&at("usual")));
        fs::set_permissions(at("ours"), fs::Permissions::from_mode(0o640)).unwrap();
        write(&at("ours"), b"again");
        assert_eq!(mode(&at("ours")), 0o640);
        fs::set_permissions(at("ours"), fs::Permissions::from_mode(0o444)).unwrap();
        let said = refusal(&at("ours"), &NOTHING);
        assert!(said.contains("write-protected"), "{said}");
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        fs::write(at("deep/target"), "old").unwrap();
        symlink("deep/target", at("link")).unwrap();
        symlink(at("link"), at("second")).unwrap();
        write(&at("second"), b"new");
        assert_eq!(fs::read(at("deep/target")).unwrap(), b"new");
        symlink("deep/fresh", at("dangling")).unwrap();
        write(&at("dangling"), b"made");
        assert_eq!(fs::read(at("deep/fresh")).unwrap(), b"made");
        for link in ["link", "second", "dangling"] {
            assert!(at(link).is_symlink(), "{link}");
        }
        assert_eq!(names(&at("deep")), ["fresh", "target"]);

        symlink("circle", at("circle")).unwrap();
        assert!(refusal(&at("circle"), &NOTHING).contains("circle"));
        symlink("none/target", at("astray")).unwrap();
        assert!(refusal(&at("astray"), &NOTHING).contains("there is no folder"));
    }

    #[test]
    fn a_pipe_gets_the_bytes_and_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        let bytes = vec![7; 3 * BUFFER_LEN];
        write(&pipe, &bytes);
        assert_eq!(reader.join().unwrap(), bytes);
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["pipe"]);
    }

    #[test]
    fn devices_are_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("/dev/null", &link).unwrap();
        for device in [Path::new("/dev/null"), &link] {
            write(device, b"gone");
            let found = fs::metadata(device).unwrap().file_type();
            assert!(found.is_char_device(), "{device:?}");
        }
        assert!(link.is_symlink());
    }

    /// The name of a temporary file is none of the user's business.
    #[test]
    fn a_folder_that_goes_away_is_told_in_the_systems_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/out");
        fs::create_dir(folder.path().join("sub")).unwrap();
        let output = Output::without_inputs(&path).unwrap();
        fs::remove_dir(folder.path().join("sub")).unwrap();
        let error = output.write(|out| out.write_all(b"x")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.ends_with("cannot write it: No such file or directory (os error 2)"),
            "{error}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_once_in_the_systems_words() {
        let full = Output::without_inputs("/dev/full").unwrap();
        let error = full.write(|out| out.write_all(b"x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/dev/full: cannot write it: No space left on device (os error 28)"
        );
        assert!(std::error::Error::source(&error).is_none());
    }

    /// A log that standard output is appended to keeps what it holds.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_file_named_by_its_descriptor_is_appended_to() {
        use std::os::fd::AsRawFd as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "first ").unwrap();
        let open = File::options().append(true).open(&path).unwrap();
        let descriptor = format!("/proc/self/fd/{}", open.as_raw_fd());
        write(Path::new(&descriptor), b"second");
        assert_eq!(fs::read(&path).unwrap(), b"first second");
        let said = refusal(Path::new(&descriptor), &[&path]);
        assert!(said.contains("is an input of this command"), "{said}");
    }
}
