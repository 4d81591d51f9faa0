//! What every output and every refusal is held to: nothing changed, nothing leaked, one way on.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::common::{Said, Sandbox, lab};

/// Every file of the image: kind, mode, owner, contents or target. Our own lock is not part of it.
pub(crate) fn image(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else if meta.is_file() {
            Sha256::digest(std::fs::read(&path).unwrap()).iter().map(|b| format!("{b:02x}")).collect()
        } else {
            String::new()
        };
        // SoftHSM writes its own notes on the token at each login.
        let notes = name.ends_with("/token.object") || name.ends_with("/generation");
        if !notes && !matches!(name.as_str(), "var/lib/keymgr-upgrade" | "var/lib/keymgr-upgrade/lock") {
            found.insert(name, format!("{:o} {}:{} {what}", meta.permissions().mode(), meta.uid(), meta.gid()));
        }
        if meta.is_dir() {
            walk(root, &path, found);
        }
    }
}

/// Every value that must not leave: of the configuration, and what the secrets say.
pub(crate) fn secrets() -> Vec<String> {
    let mut all: Vec<String> =
        ["s3cr3t-of-rabbit", "s3cr3t-of-keystone", "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="]
            .map(str::to_owned)
            .into();
    // The PIN is four digits, which an honest number may contain: looked for as the file and a careless message write it.
    all.extend(
        ["'1234'", "\"1234\"", "login = 1234", "login=1234", "PIN 1234", "pin 1234", "31415926"].map(str::to_owned),
    );
    for name in ["refs-sqlite-simple.tsv", "refs-sqlite-p11.tsv"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/liberty").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        all.extend(text.lines().filter_map(|l| l.split('\t').nth(3)).filter(|p| p.len() > 3).map(str::to_owned));
    }
    all
}

/// Fails if `text` holds a secret.
#[allow(dead_code)]
#[track_caller]
pub(crate) fn no_secret(text: &str, whence: &str) {
    for secret in secrets() {
        assert!(!text.contains(&secret), "{whence} shows the secret {secret:?}:\n{text}");
    }
}

/// In what a text fails: 80 columns (a word without a blank, such as a path, may be longer), ASCII, no escape codes, one `Next:` line at the
/// end of what was said last, no secret. `raw` is for diffs, SQL and procedures, whose lines are as long as they are.
pub(crate) fn faults(said: &Said, raw: bool) -> Vec<String> {
    let all = said.all();
    let mut faults = Vec::new();
    let mut fault = |bad: bool, text: String| {
        if bad {
            faults.push(text);
        }
    };
    for secret in secrets() {
        fault(all.contains(&secret), format!("shows the secret {secret:?}"));
    }
    fault(all.contains('\x1b'), "has escape codes".to_owned());
    for line in all.lines() {
        fault(!line.is_ascii(), format!("is not ASCII: {line:?}"));
        let excused = raw || line.starts_with("Next: ") || line.split_whitespace().any(|w| w.len() > 40);
        fault(!excused && line.len() > 80, format!("has {} columns: {line:?}", line.len()));
    }
    let last = if said.err.is_empty() { &said.out } else { &said.err };
    let ends = last.lines().last().is_some_and(|l| l.starts_with("Next: "));
    fault(!ends, "does not end with Next:".to_owned());
    let count = all.lines().filter(|l| l.starts_with("Next: ")).count();
    fault(count != 1, format!("has {count} lines with Next:"));
    faults
}

/// Fails unless the text is as [`faults`] wants it.
#[allow(dead_code)]
#[track_caller]
pub(crate) fn well_said(said: &Said, raw: bool) {
    let faults = faults(said, raw);
    assert!(faults.is_empty(), "the output {}:\n{}", faults.join("; "), said.all());
}

/// The text as any machine at any time would say it. Where a line breaks depends on the length of the sandbox's path: lines that hold it are
/// joined with what goes on below them. How long a step took decides how it is laid out: blanks are counted as one there.
pub(crate) fn normal(text: &str, sandbox: &Sandbox) -> String {
    let root = sandbox.root().display().to_string();
    let module = lab("KEYMGR_TEST_P11SHIM");
    let mut paragraphs: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match paragraphs.last_mut() {
            Some(last) if line.starts_with("      ") && !line.trim().is_empty() => last.push(line),
            _ => paragraphs.push(vec![line]),
        }
    }
    let mut lines = Vec::new();
    for paragraph in paragraphs {
        let step = paragraph.first().and_then(|l| l.get(..9)).is_some_and(|l| masked(l) == "CLOCK");
        let breaks = paragraph.iter().any(|l| l.contains(&root) || l.contains(&module)) || step;
        let shown = if breaks {
            let words: Vec<&str> = paragraph.iter().map(|l| l.trim()).collect();
            vec![words.join(" ")]
        } else {
            paragraph.iter().map(|l| (*l).to_owned()).collect()
        };
        for line in shown {
            let line = masked(&line.replace(&root, "$ROOT").replace(&module, "$MODULE"));
            let words: Vec<&str> = line.split_whitespace().filter(|w| !step || *w != "SPAN").collect();
            lines.push(if step || line.contains("SPAN") { words.join(" ") } else { line });
        }
    }
    lines.join("\n")
}

/// Times, ids, digests, sizes and process numbers replaced by their names.
pub(crate) fn masked(text: &str) -> String {
    const PATTERNS: [(&str, &str); 12] = [
        ("dddddddd'T'dddddd'Z'", "RUN"),
        ("dddd-dd-dd dd:dd:dd'Z'", "TIME"),
        ("dddd-dd-dd'T'dd:dd:dd'Z'", "TIME"),
        ("dd:dd:dd'Z'", "CLOCK"),
        ("'plan 'xxxx", "plan HASH"),
        ("'process 'N", "process PID"),
        ("N.N' 'A'iB free'", "FREE free"),
        ("N' 'A'iB free'", "FREE free"),
        ("'last word 'N' s ago'", "last word AGO"),
        ("'last word 'N' ms ago'", "last word AGO"),
        ("N.N' s'", "SPAN"),
        ("N' ms'", "SPAN"),
    ];
    let mut out = String::new();
    let mut rest = text;
    'text: while let Some(first) = rest.chars().next() {
        let begins = out.chars().last().is_none_or(|c| !c.is_ascii_alphanumeric());
        if begins {
            let hex = rest.chars().take_while(char::is_ascii_hexdigit).count();
            if hex == 64 {
                out.push_str("DIGEST");
                rest = &rest[64..];
                continue;
            }
            for (pattern, name) in PATTERNS {
                let ends = |length: &usize| rest[*length..].chars().next().is_none_or(|c| !c.is_ascii_alphanumeric());
                if let Some(length) = fits(pattern, rest).filter(ends) {
                    out.push_str(name);
                    rest = &rest[length..];
                    continue 'text;
                }
            }
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// `d` is a digit, `x` a hexadecimal one, `N` digits, `A` a letter, '...' and anything else itself. How much of the text fits, if it does.
fn fits(pattern: &str, text: &str) -> Option<usize> {
    let mut rest = text;
    let mut literal = false;
    for want in pattern.chars() {
        if want == '\'' {
            literal = !literal;
            continue;
        }
        if want == 'N' && !literal {
            let digits = rest.chars().take_while(char::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            rest = &rest[digits..];
            continue;
        }
        let got = rest.chars().next()?;
        let good = match want {
            _ if literal => got == want,
            'd' => got.is_ascii_digit(),
            'x' => got.is_ascii_hexdigit(),
            'A' => got.is_ascii_alphabetic(),
            other => got == other,
        };
        if !good {
            return None;
        }
        rest = &rest[got.len_utf8()..];
    }
    Some(text.len() - rest.len())
}

#[test]
fn what_changes_from_day_to_day_is_masked() {
    let text = "20261122T0158Z 20261122T015801Z at 2026-11-22 01:58:04Z, 01:58:04Z  1/9; plan 84ef, process 12, 54.8 GiB free, 1.5 s";
    assert_eq!(masked(text), "20261122T0158Z RUN at TIME, CLOCK  1/9; plan HASH, process PID, FREE free, SPAN");
    assert_eq!(masked(&"a1".repeat(32)), "DIGEST");
}
