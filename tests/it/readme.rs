//! README.md: every command that can be run is run, and what is shown of an answer is what is answered.
//!
//! Comments, which are not shown, stand in front of a block: `not run: REASON`, `exit N...` (of each command, 0 where none is given), and what
//! `manual.rs` knows too, `setup: STATE` and `code VERSION`. `shown by NAME` is for the answers in a block that another test gets.

use crate::common::Sandbox;
use crate::manual::Stage;
use crate::proof::masked;

const TEXT: &str = include_str!("../../README.md");

/// A fenced block: what it is, what the comment before it asks for, and its lines.
struct Block {
    kind: &'static str,
    asked: Vec<&'static str>,
    lines: Vec<&'static str>,
}

fn blocks() -> Vec<Block> {
    let mut all = Vec::new();
    let mut asked = Vec::new();
    let mut lines = TEXT.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let lines = lines.by_ref().take_while(|l| *l != "```").collect();
            all.push(Block { kind, asked: std::mem::take(&mut asked), lines });
        } else if let Some(comment) = line.strip_prefix("<!-- ") {
            let comment = comment.strip_suffix(" -->").expect("a comment of one line");
            let split = if comment.starts_with("not run: ") { usize::MAX } else { 1 };
            asked.extend(if split == 1 { comment.split("; ").collect() } else { vec![comment] });
        } else {
            assert!(line.is_empty() || asked.is_empty(), "a comment is for the block behind it: {line}");
        }
    }
    all
}

/// A command, and what is shown of its answer.
fn commands(block: &Block) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in &block.lines {
        match (line.strip_prefix("# "), all.last_mut()) {
            (Some(command), _) => all.push((command, Vec::new())),
            (None, Some((_, answer))) => answer.push(line),
            (None, None) => panic!("an answer to nothing: {line}"),
        }
    }
    all
}

/// Text as any machine at any time says it, in one line: where lines break depends on the length of names, and how long a step took on the day.
fn plain(text: &str, root: &str) -> String {
    let text = masked(&text.replace(root, "ROOT").replace("/tmp/keymgr-demo/root", "ROOT"));
    let words: Vec<&str> = text.split_whitespace().filter(|word| word.trim_end_matches('.') != "SPAN").collect();
    let is_span = |i: usize| {
        let number = words.get(i).is_some_and(|w| w.bytes().all(|b| b.is_ascii_digit()));
        number && words.get(i + 1).is_some_and(|w| matches!(w.trim_end_matches('.'), "s" | "min"))
    };
    let steady = (0..words.len()).filter(|i| !(is_span(*i) || *i > 0 && is_span(i - 1)));
    steady.map(|i| words[i]).collect::<Vec<_>>().join(" ")
}

/// Fails unless the lines are the answer, but for what `[...]` stands for.
#[track_caller]
fn expect_answer(lines: &[&str], answer: &str, root: &str) {
    let answer = plain(answer, root);
    let shown = plain(&lines.join("\n"), root);
    let mut rest = answer.as_str();
    for (index, piece) in shown.split("[...]").map(str::trim).enumerate() {
        let at = rest.find(piece).unwrap_or_else(|| panic!("README.md shows {piece:?}, but the answer is\n{answer}"));
        assert!(index > 0 || at == 0, "README.md leaves out {:?}", &rest[..at]);
        rest = &rest[at + piece.len()..];
    }
    assert!(rest.is_empty() || shown.ends_with("[...]"), "README.md leaves out {rest:?}");
}

/// Fails unless the answer that the README says is shown by `name` was given.
#[track_caller]
pub(crate) fn expect_shown(name: &str, answer: &str) {
    let wanted = format!("shown by {name}");
    let block = blocks().into_iter().find(|b| b.asked.iter().any(|a| a.ends_with(&wanted))).expect("a block");
    let commands = commands(&block);
    let (_, lines) = commands.iter().find(|(_, lines)| !lines.is_empty()).expect("an answer");
    expect_answer(lines, answer, "/no/image");
}

#[test]
fn the_commands_run_and_the_answers_are_those_shown() {
    let liberty = Sandbox::liberty();
    let moving = crate::moving::controller(&liberty, "sqlite:////var/lib/barbican/moved.sqlite");
    let yoga = liberty.copy();
    yoga.upgrade("yoga");
    let mut stage = Stage::new(&[("fresh", &yoga), ("liberty", &liberty), ("moving", &moving)]);
    let mut ran = 0;
    for block in blocks() {
        let mut exits = Vec::new();
        let mut not_run = false;
        for asked in &block.asked {
            match asked.split_once([' ', ':']).unwrap_or((asked, "")) {
                ("exit", codes) => exits = codes.split(' ').map(|c| c.parse().unwrap()).collect(),
                ("code", version) => stage.now.install(version),
                ("setup", state) => stage.set(state.trim()),
                ("not", reason) => not_run = reason.len() > "run: ".len(),
                _ => panic!("{asked:?} asks for nothing that is known"),
            }
        }
        if block.kind == "ini" {
            stage.expect_settings(&(block.lines.join("\n") + "\n"));
            continue;
        }
        assert_eq!(block.kind, "console", "a block of another kind: {:?}", block.lines);
        let mut behind = false;
        for (index, (command, answer)) in commands(&block).into_iter().enumerate() {
            if not_run {
                // What can be run is not left out for convenience: only behind what cannot be.
                assert!(behind || !command.starts_with("keymgr-upgrade check"), "{command}");
                behind = true;
                continue;
            }
            let said = stage.run(command);
            let wanted = exits.get(index).copied().unwrap_or(0);
            assert_eq!(said.code, wanted, "{command}\n{}", said.all());
            if !answer.is_empty() {
                expect_answer(&answer, &said.all(), &stage.now.root().display().to_string());
            }
            ran += 1;
        }
        assert!(exits.len() <= commands(&block).len(), "{:?}", block.asked);
    }
    assert!(ran > 12, "only {ran} commands");
}

#[test]
fn what_is_named_is_there() {
    // Links to files, and within the page.
    for link in TEXT.split("](").skip(1).filter_map(|l| l.split(')').next()) {
        if let Some(anchor) = link.strip_prefix('#') {
            let heading = |l: &str| {
                let title = l.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                title.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
            };
            assert!(TEXT.lines().any(|l| l.starts_with('#') && heading(l) == anchor), "#{anchor}");
        } else {
            let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
            assert!(file.is_file(), "{link}");
        }
    }
    for line in TEXT.lines().filter(|l| !l.starts_with('|') && !l.starts_with("# keymgr-upgrade")) {
        assert!(line.is_ascii() && line.len() <= 100, "{line}");
    }
}
