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
