//! Links and images lead to files and headings that are there.

use std::path::{Component, Path, PathBuf};

use testkit::repository;

use super::markdown::{pages, Page};

#[test]
fn every_relative_link_resolves() {
    let pages = pages();
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in &pages {
        for link in &page.links {
            if link.what.contains("://") || link.what.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            if let Err(why) = resolve(page, &link.what, &pages) {
                broken.push(format!("{}: {}: {why}", page.place(link.line), link.what));
            }
        }
    }
    assert!(checked > 20, "only {checked} links were seen");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A path in the text, such as `src/model.rs`, is no link, but readers follow it all the same.
#[test]
fn every_path_of_the_repository_exists() {
    let mut broken = Vec::new();
    let mut checked = 0;
    let pages = pages();
    let now = |page: &&Page| !page.is_record() && page.path != Path::new("CHANGELOG.md");
    for page in pages.iter().filter(now) {
        for code in page.code.iter().filter(|code| is_path(&code.what)) {
            checked += 1;
            // From the root, or from where the page lies.
            let folder = page.path.parent().unwrap_or(Path::new(""));
            let places = [Path::new(&code.what).to_owned(), folder.join(&code.what)];
            if !places.iter().any(|path| repository("").join(path).exists()) {
                let place = page.place(code.line);
                broken.push(format!("{place}: {}: no such file", code.what));
            }
        }
    }
    assert!(checked > 20, "only {checked} paths were seen");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Whether the code starts as a path of this repository does.
fn is_path(code: &str) -> bool {
    let Some(Component::Normal(folder)) = Path::new(code).components().next() else {
        return false;
    };
    let ours = folder != "target" && repository("").join(folder).is_dir();
    ours && code.contains('/') && !code.contains([' ', '*', '<', '…', '{', '$'])
}

fn resolve(page: &Page, link: &str, pages: &[Page]) -> Result<(), &'static str> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.path.clone(),
        file => {
            let folder = page.path.parent().unwrap_or(Path::new(""));
            normal(&folder.join(file)).ok_or("leads out of the repository")?
        }
    };
    if !repository("").join(&target).exists() {
        return Err("no such file");
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let target = pages.iter().find(|page| page.path == target);
    let anchors = &target.ok_or("an anchor in what is no Markdown")?.anchors;
    match anchors.iter().any(|known| known == anchor) {
        true => Ok(()),
        false => Err("no such heading"),
    }
}

/// The path without `.` and `..`; none where it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => normal.pop().then_some(())?,
            Component::Normal(name) => normal.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}
