//! The table at the end.

use std::time::Instant;

use anyhow::Result;

/// Collects results and prints each as it comes.
pub struct Report {
    rows: Vec<Row>,
    filter: Option<String>,
}

struct Row {
    build: String,
    backend: String,
    check: String,
    passed: bool,
    detail: String,
    seconds: f64,
}

impl Report {
    /// An empty table; with a filter, only checks whose row contains it are run.
    pub fn new(filter: Option<String>) -> Self {
        Self {
            rows: Vec::new(),
            filter,
        }
    }

    /// Runs one check and keeps its result. What it returns is shown beside it.
    pub fn check(
        &mut self,
        build: &str,
        backend: &str,
        check: &str,
        run: impl FnOnce() -> Result<String>,
    ) {
        let title = format!("{build} × {backend}: {check}");
        if self
            .filter
            .as_ref()
            .is_some_and(|filter| !title.contains(filter.as_str()))
        {
            return;
        }
        let start = Instant::now();
        // A panic in one check must not hide the results of the others.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let (passed, detail) = match result {
            Ok(Ok(detail)) => (true, detail),
            Ok(Err(error)) => (false, format!("{error:#}")),
            Err(_) => (false, "panicked, see above".to_owned()),
        };
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{} {title} [{seconds:.0} s]: {detail}",
            if passed { "ok  " } else { "FAIL" }
        );
        self.rows.push(Row {
            build: build.into(),
            backend: backend.into(),
            check: check.into(),
            passed,
            // One line in the table; all of it is printed above.
            detail: detail.lines().next().unwrap_or("").to_owned(),
            seconds,
        });
    }

    /// Prints the table and says whether all passed.
    pub fn finish(self) -> bool {
        let width = |column: fn(&Row) -> &str, head: &str| {
            let longest = self
                .rows
                .iter()
                .map(|row| column(row).chars().count())
                .max();
            longest.unwrap_or(0).max(head.chars().count())
        };
        let (a, b, c) = (
            width(|row| &row.build, "build"),
            width(|row| &row.backend, "backend"),
            width(|row| &row.check, "check"),
        );
        println!(
            "\n{:a$}  {:b$}  {:c$}  result     s  detail",
            "build", "backend", "check"
        );
        for row in &self.rows {
            let result = if row.passed { "ok" } else { "FAILED" };
            println!(
                "{:a$}  {:b$}  {:c$}  {result:6}  {:4.0}  {}",
                row.build, row.backend, row.check, row.seconds, row.detail
            );
        }
        let failed = self.rows.iter().filter(|row| !row.passed).count();
        println!("\n{} passed, {failed} failed", self.rows.len() - failed);
        // A filter that matches nothing is no success.
        failed == 0 && !self.rows.is_empty()
    }
}
