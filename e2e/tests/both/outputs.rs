//! Where results go: never over what a command reads, through what is no regular file, along
//! links, and found out before the work. The rules themselves are tested in edit/.

use std::path::Path;

use testkit::{
    base_model, llama_jola, llama_jola_on, repository, sidecars, split, text, Cli, Folder,
};

use crate::programs::{jola_train_logits, train};

/// Every command that writes a file, to `out`, on a model, sidecar and rows of which nothing but
/// the paths should be looked at.
fn writing_commands(model: &Path, edit: &Path, data: &Path, out: &Path) -> Vec<Cli> {
    let out = text(out);
    let jola = ["--jola", text(edit)];
    vec![
        llama_jola_on("logits", model)
            .args(jola)
            .args(["--tokens", "1", "-o", out]),
        llama_jola_on("eval", model)
            .args(jola)
            .args(["--data", text(data), "--predictions", out]),
        llama_jola_on("bake", model).args(jola).args(["-o", out]),
        llama_jola("inspect").args([text(edit), "-m", text(model), "--plot", out]),
        llama_jola("import").args([text(data), text(edit), "-m", text(model), "-o", out]),
        jola_train_logits(model)
            .args(jola)
            .args(["--tokens", "1", "-o", out]),
    ]
}

#[test]
fn an_input_is_never_the_output() {
    let folder = Folder::new();
    let model = folder.file("base.gguf", "base");
    let edit = folder.file("edit.gguf", "edit");
    let data = folder.file("rows.jsonl", "rows");
    let shards = [1, 2].map(|i| folder.file(&format!("m-0000{i}-of-00002.gguf"), "shard"));
    let hard = folder.path("hard.gguf");
    std::fs::hard_link(&model, &hard).unwrap();
    let soft = folder.path("soft.gguf");
    std::os::unix::fs::symlink("edit.gguf", &soft).unwrap();
    let before = folder.names();
    let refused = |model: &Path, out: &Path| {
        for cli in writing_commands(model, &edit, &data, out) {
            cli.fail(1, &[text(out), "is an input of this command"]);
        }
        assert_eq!(folder.names(), before);
    };
    refused(&model, &model);
    refused(&model, &hard);
    refused(&model, &edit);
    refused(&model, &soft);
    refused(&shards[0], &shards[1]);
    // A training reads no sidecar.
    for (model, out) in [(&model, &hard), (&model, &data), (&shards[0], &shards[1])] {
        train(model, &data, out).fail(1, &[text(out), "is an input of this command"]);
    }
    assert_eq!(folder.names(), before);
    for (path, contents) in [(&model, "base"), (&edit, "edit"), (&data, "rows")] {
        assert_eq!(std::fs::read_to_string(path).unwrap(), contents);
    }
    assert!(soft.is_symlink());
}

fn plot(out: &Path) -> Cli {
    let edit = sidecars::golden();
    llama_jola("inspect").args([text(&edit), "--json", "--plot", text(out)])
}

#[test]
fn devices_pipes_and_links_are_written_through() {
    use std::os::unix::fs::FileTypeExt as _;
    let folder = Folder::new();
    let (link, target) = (folder.path("link.svg"), folder.path("target.svg"));
    std::os::unix::fs::symlink("target.svg", &link).unwrap();
    plot(&link).succeed();
    let svg = std::fs::read_to_string(&target).unwrap();
    assert!(svg.starts_with("<svg") && link.is_symlink());

    plot(Path::new("/dev/null")).succeed();
    let null = std::fs::metadata("/dev/null").unwrap();
    assert!(null.file_type().is_char_device());
    let both = plot(Path::new("/dev/stdout")).succeed();
    assert!(both.stdout.starts_with(&svg) && both.stdout.ends_with("}\n"));

    let pipe = folder.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    plot(&pipe).succeed();
    assert_eq!(reader.join().unwrap(), svg);
    assert_eq!(folder.names(), ["link.svg", "pipe", "target.svg"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_once() {
    let said = plot(Path::new("/dev/full")).fail(1, &["/dev/full: cannot write it"]);
    assert_eq!(said.stderr.matches("No space left").count(), 1, "{said:#?}");
}

/// What a missing file is called, and how often.
#[test]
fn the_systems_reason_is_given_once() {
    let folder = Folder::new();
    let (none, out) = (folder.path("none"), folder.path("out"));
    let data = repository("examples/routing/test.jsonl");
    for cli in [
        llama_jola_on("run", &none).args(["-p", "Hello"]),
        llama_jola_on("eval", &base_model()).args(["--data", text(&none)]),
        llama_jola_on("run", &base_model()).args(["-f", text(&none)]),
        jola_train_logits(&none).args(["--tokens", "1", "-o", text(&out)]),
        train(&none, &data, &out),
        train(&base_model(), &none, &out),
    ] {
        let said = cli.fail(1, &["none"]);
        assert_eq!(said.stderr.matches("No such file").count(), 1, "{said:#?}");
    }
}

/// Every command takes a split model by its first file, and names what is wrong with another.
#[test]
fn a_split_model() {
    let folder = Folder::new();
    let shards = split(&base_model(), folder.root(), "m", 3);
    let (data, out) = (
        repository("examples/routing/test.jsonl"),
        folder.path("out"),
    );
    let edit = sidecars::golden();
    let commands = |model: &Path| {
        let mut all = vec![
            llama_jola_on("run", model).args(["-p", "Hello", "-n", "2"]),
            llama_jola_on("logits", model).args(["--tokens", "1,2", "-o", text(&out)]),
            llama_jola("inspect").args([text(&edit), "-m", text(model)]),
            llama_jola("inspect").args([text(model)]),
            jola_train_logits(model).args(["--tokens", "1,2", "-o", text(&out)]),
            train(model, &data, &out).args(["--dry-run"]),
        ];
        let eval = ["--limit", "1", "-n", "1", "--data", text(&data)];
        all.push(llama_jola_on("eval", model).args(eval));
        all
    };
    for cli in commands(&shards[0]) {
        cli.succeed();
    }
    let refused = |model: &Path, texts: &[&str]| {
        std::fs::remove_file(&out).ok();
        let bake = llama_jola_on("bake", model).args(["--jola", text(&edit), "-o", text(&out)]);
        let with = llama_jola("with").args([text(&edit), "--", "true", "-m", text(model)]);
        for cli in commands(model).into_iter().chain([bake, with]) {
            cli.fail(1, texts);
            assert!(!out.exists());
        }
    };
    refused(&shards[1], &["it is file 2 of 3", "m-00001-of-00003.gguf"]);
    std::fs::remove_file(&shards[2]).unwrap();
    refused(
        &shards[0],
        &[
            "m-00003-of-00003.gguf: cannot open it",
            "one of the 3 files",
        ],
    );
}
