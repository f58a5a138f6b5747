//! The table of `tests/README.md` names tests; names that are gone would promise what no test
//! keeps.

use std::path::Path;

#[test]
fn the_tests_of_the_table_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("tests/README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with('|')).skip(2);
    let mut named = 0;
    for row in rows {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for file in cell.split("; ") {
            let (path, names) = file.trim().split_once(": ").expect(row);
            let path = path.trim_matches('`');
            let text = std::fs::read_to_string(root.join(path)).expect(path);
            for name in names.split(", ").map(|name| name.trim_matches('`')) {
                let test = format!("fn {name}()");
                assert!(text.contains(&test), "{path} has no test {name}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named} tests in the table");
}
