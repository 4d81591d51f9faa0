//! The databases as SQLAlchemy sees them (tests/lab/compare_schema.py), and Barbican's own tool.
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use super::content::Content;
use crate::common::{Said, lab, said};

/// A Python that answers questions about databases for as long as this lives.
pub(crate) struct Look {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Look {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(Path::new(&lab("KEYMGR_TEST_VENV_BARBICAN")).join("bin/python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/compare_schema.py"))
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, questions, answers: BufReader::new(answers) }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{question}: {e}: {line:?}"))
    }

    /// Statements that put rows into every table that is there.
    pub(crate) fn inserts(&mut self, url: &str) -> String {
        self.ask(&json!(["inserts", url])).as_str().unwrap().to_owned()
    }

    /// Every row of every table.
    pub(crate) fn rows(&mut self, url: &str) -> Content {
        serde_json::from_value(self.ask(&json!(["rows", url]))).unwrap()
    }

    /// Fills the empty tables of one database with the rows of the other.
    pub(crate) fn copy(&mut self, from: &str, to: &str) {
        self.ask(&json!(["copy", from, to]));
    }

    /// What the two schemas have different.
    pub(crate) fn schema(&mut self, ours: &str, theirs: &str) -> Vec<String> {
        serde_json::from_value(self.ask(&json!(["schema", ours, theirs]))).unwrap()
    }

    /// What the two databases have different, schema and rows.
    pub(crate) fn all(&mut self, ours: &str, theirs: &str) -> Vec<String> {
        serde_json::from_value(self.ask(&json!(["all", ours, theirs]))).unwrap()
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Barbican that has its own migrations.
#[derive(Clone, Copy)]
pub(crate) enum Upstream {
    /// The last one with the whole chain; its head is 0f8c192a061f.
    Old,
    /// The newest.
    New,
}

/// `barbican-db-manage` of that Barbican on a database.
pub(crate) fn db_manage(upstream: Upstream, url: &str, arguments: &[&str]) -> Said {
    let venv = lab(match upstream {
        Upstream::Old => "KEYMGR_TEST_VENV_BARBICAN_10",
        Upstream::New => "KEYMGR_TEST_VENV_BARBICAN",
    });
    let home = tempfile::tempdir().unwrap();
    said(
        Command::new(Path::new(&venv).join("bin/barbican-db-manage"))
            .env("HOME", home.path())
            .args(["--dburl", url])
            .args(arguments)
            .stdin(Stdio::null()),
    )
}

/// Takes a database from one revision to another as Barbican's releases do: by 10.0.0 as far as it goes.
pub(crate) fn migrate_by_upstream(url: &str, from: &str, to: &str) -> Result<(), String> {
    let mut steps = Vec::new();
    if from != "0f8c192a061f" {
        steps.push((Upstream::Old, if to == "8c74e2d7f1ff" { "0f8c192a061f" } else { to }));
    }
    if to == "8c74e2d7f1ff" {
        steps.push((Upstream::New, to));
    }
    for (upstream, revision) in steps {
        let run = db_manage(upstream, url, &["upgrade", "-v", revision]);
        if run.code != 0 {
            return Err(run.all());
        }
    }
    Ok(())
}
