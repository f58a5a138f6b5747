//! Keeps the crate a staircase: a folder imports only from those before it, and no two files
//! import each other, so that each can be read with nothing but what lies below it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files and folders at the top of the crate, in the order in which they may use each other.
const ORDER: [&str; 12] = [
    "error",
    "rng",
    "gpu",
    "readings",
    "architectures",
    "base",
    "model",
    "data",
    "method",
    "train",
    "report",
    "cli",
];

/// `model/batch.rs` is the module [model, batch], `model/mod.rs` is [model].
type Module = Vec<String>;

/// All modules with their code, without tests and comments.
fn modules(folder: &Path, path: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let file: PathBuf = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let inner = [path.clone(), vec![name.to_owned()]].concat();
        if file.is_dir() {
            modules(&file, &inner, found);
        } else if !["lib", "staircase"].contains(&name) {
            let code = fs::read_to_string(&file).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap().lines();
            let code: Vec<&str> = code.filter_map(|line| line.split("//").next()).collect();
            let module = if name == "mod" { path.clone() } else { inner };
            found.insert(module, code.join("\n"));
        }
    }
}

/// What `code` in `module` names as `crate::…` or `super::…`, from the root of the crate.
fn imports(module: &Module, code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for (root, parent) in [("crate::", 0), ("super::", module.len() - 1)] {
        for (at, _) in code.match_indices(root) {
            let name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let path = &code[at + root.len()..];
            assert!(
                !path.starts_with('{') && !path.starts_with("super::"),
                "{module:?}: give each module a `use` of its own, by its name"
            );
            let path = &path[..path.find(|c| !name(c)).unwrap_or(path.len())];
            let own = module[..parent].iter().cloned();
            let path = path.split("::").filter(|part| !part.is_empty());
            found.push(own.chain(path.map(str::to_owned)).collect());
        }
    }
    found
}

#[test]
fn every_import_leads_downwards() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut code = BTreeMap::new();
    modules(&source, &Vec::new(), &mut code);
    code.retain(|module, _| module[0] != "bin");
    let step = |module: &Module| {
        let step = ORDER.iter().position(|name| *name == module[0]);
        step.unwrap_or_else(|| panic!("{} has no place in the order", module[0]))
    };
    let mut uses: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (module, text) in &code {
        let targets = uses.entry(module).or_default();
        for path in imports(module, text) {
            // A name of the crate's root, such as `crate::Error`, belongs to the first step.
            let longest = (1..=path.len()).rev().map(|n| path[..n].to_vec());
            let target = longest.filter_map(|path| Some(code.get_key_value(&path)?.0));
            let Some(target) = target.take(1).find(|target| *target != module) else {
                continue;
            };
            assert!(
                step(target) <= step(module),
                "{module:?} uses {target:?}, which comes later"
            );
            assert!(
                !module.starts_with(target),
                "{module:?} goes by what its folder hands out: name the file instead"
            );
            targets.insert(target);
        }
    }
    // What uses nothing that is left is taken away, until only circles are.
    while !uses.is_empty() {
        let left: BTreeSet<&Module> = uses.keys().copied().collect();
        uses.retain(|_, targets| targets.iter().any(|target| left.contains(target)));
        assert!(uses.len() < left.len(), "these use each other: {uses:#?}");
    }
}
