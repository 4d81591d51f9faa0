use proptest::prelude::*;

use super::Dialect::{Oslo, Paste2, Paste3};
use super::*;

fn doc(text: &str) -> Document {
    Document::parse(text.as_bytes(), "t.conf").unwrap()
}

fn text(document: &Document) -> String {
    String::from_utf8(document.to_bytes()).unwrap()
}

fn get(document: &Document, dialect: Dialect, key: &str) -> Option<String> {
    document.get(dialect, "s", key).unwrap()
}

fn refused(bytes: &[u8]) -> String {
    Document::parse(bytes, "t.conf").unwrap_err().to_string()
}

#[test]
fn what_no_reader_understands_is_an_error_with_its_line() {
    let cases: [(&[u8], &str); 11] = [
        (b"[s]\nword\n", "t.conf:2: neither comment, section, key"),
        (b"a = 1\n[s]\n", "t.conf:1: stands before any section"),
        (b"# c\n  a = 1\n[s]\n", "t.conf:2: stands before any section"),
        (b"[s]\n= 1\n", "t.conf:2: nothing before the = or :"),
        (b"[s\na = 1\n", "t.conf:1: section header without ]"),
        (b"[]\n", "t.conf:1: section without a name"),
        (b"[s] ; see [1]\n", "t.conf:1: second ]"),
        (b"[s]\na = 1\r# b\n", "t.conf:2: carriage return inside the line"),
        (b"[s]\n\x0ca = 1\n", "t.conf:2: starts with white space"),
        (b"[s]\n\xc2\xa0a = 1\n", "t.conf:2: starts with white space"),
        (b"[s]\n\xff = 1\n", "t.conf:2: key is not UTF-8"),
    ];
    for (bytes, want) in cases {
        let got = refused(bytes);
        assert!(got.starts_with(want), "{got}");
    }
}

#[test]
fn debug_and_errors_hold_no_value() {
    let mut d = doc("[s]\npassword = hunter2\n");
    assert!(!format!("{d:?}").contains("hunter2"));
    let error = d.set(Paste3, "s", "password", " hunter3").unwrap_err();
    assert_eq!(error.to_string(), "t.conf:2: PasteDeploy on Python 3 has no way to read this value of password");
    assert_eq!(text(&d), "[s]\npassword = hunter2\n");
}

/// Each line: a document, and what the three readers make of key `k` in it;
/// `!` stands for a reader that refuses the file. The column of Python 2 was
/// taken from ConfigParser of Python 2.7.18, the other two are compared with
/// their Python originals in tests/it/python_readers.rs.
#[test]
fn each_dialect_reads_as_its_program() {
    let cases = [
        ("k = v ; note\n", "v ; note", "v", "v ; note"),
        ("k = v;w\n", "v;w", "v;w", "v;w"),
        ("k = v;w ; note\n", "v;w ; note", "v;w ; note", "v;w ; note"),
        ("k = ;v\n", ";v", ";v", ";v"),
        ("k = ;v \n", ";v", "", ";v"),
        ("k = ;v\r\n", ";v", "", ";v"),
        ("k = v # note\n", "v # note", "v # note", "v # note"),
        ("k = \"v\"\n", "v", "\"v\"", "\"v\""),
        ("k = 'v\"\n", "'v\"", "'v\"", "'v\""),
        ("k = \"\"\n", "", "", "\"\""),
        ("k = \"\n", "", "\"", "\""),
        ("k : a = b\n", "a = b", "a = b", "a = b"),
        ("k\t=\tv\t\n", "v", "v", "v"),
        ("k = %(here)s/x\n", "%(here)s/x", "%(here)s/x", "%(here)s/x"),
        ("k =\n  a\n  b\n", "\na\nb", "\na\nb", "\na\nb"),
        ("k = a\n  # c\n  b\n", "a\n# c\nb", "a\n# c\nb", "a\nb"),
        ("k = a\n\n  b\n", "!", "a\nb", "a\n\nb"),
        ("k = a\n# c\n  b\n", "!", "a\nb", "a\nb"),
        ("k = a\n\n  # c\n", "!", "a\n# c", "a"),
        ("k = a\n \t\n", "a", "a", "a"),
        ("k = a\nk = b\n", "b", "b", "!"),
        ("k = a\n[s]\nk = b\n", "b", "b", "!"),
        ("k = a\n[o]\n[s] # again\n", "!", "a", "!"),
        ("  k = a\n  l = b\n", "!", "!", "a"),
        ("k = a\nrem = b\n", "a", "!", "a"),
        ("k = a\nrem=b\n", "a", "a", "a"),
    ];
    for (body, oslo, paste2, paste3) in cases {
        let d = doc(&format!("[s]\n{body}"));
        for (dialect, want) in [(Oslo, oslo), (Paste2, paste2), (Paste3, paste3)] {
            let got = match d.get(dialect, "s", "k") {
                Ok(value) => value.unwrap(),
                Err(error) => {
                    assert_eq!(d.accepts(dialect), Err(error));
                    "!".to_owned()
                }
            };
            assert_eq!(got, want, "{dialect} of {body:?}");
        }
    }
}

#[test]
fn oslo_compares_groups_in_lower_case_and_options_exactly() {
    let d = doc("[Database]\nconnection = a\n[database]\nConnection = b\nmax-retries = 3\n");
    let read = |group: &str, key: &str| d.get(Oslo, group, key).unwrap();
    assert_eq!(read("DATABASE", "connection").as_deref(), Some("a"));
    assert_eq!(read("database", "Connection").as_deref(), Some("b"));
    assert_eq!(read("database", "max_retries"), None);
    assert_eq!(d.get(Paste3, "database", "connection").unwrap(), None);
    let d = doc("[default]\na = 1\n[DEFAULT]\na = 2\n");
    assert_eq!(d.get(Oslo, "DEFAULT", "a").unwrap().as_deref(), Some("2"));
    assert_eq!(d.get_all(Oslo, "Default", "a").unwrap(), ["1"]);
}

#[test]
fn a_byte_order_mark_is_kept_and_told() {
    let mut d = Document::parse(b"\xef\xbb\xbf[s]\nk = a\n", "t.conf").unwrap();
    assert_eq!(get(&d, Oslo, "k").as_deref(), Some("a"));
    assert!(d.set(Oslo, "s", "k", "b").unwrap());
    assert_eq!(d.to_bytes(), b"\xef\xbb\xbf[s]\nk = b\n");
    let error = d.accepts(Oslo).unwrap_err();
    assert_eq!((error.line, error.name.as_str()), (1, "t.conf"));
}

#[test]
fn latin_1_in_a_comment_survives_and_in_a_value_is_an_error() {
    let bytes = b"[s]\n# caf\xe9\nk = a\nl = \xe9\n";
    let mut d = Document::parse(bytes, "t.conf").unwrap();
    assert_eq!(d.not_utf8(), [2, 4]);
    assert!(d.set(Oslo, "s", "k", "b").unwrap());
    assert_eq!(d.to_bytes(), b"[s]\n# caf\xe9\nk = b\nl = \xe9\n");
    assert_eq!(d.get(Oslo, "s", "l").unwrap_err().line, 4);
}

/// A document, an edit, the document wanted.
#[test]
fn set_touches_the_value_only() {
    let cases = [
        (Oslo, "[s]\nk    = a  \r\nl=b", "k", "c", "[s]\nk    = c  \r\nl=b"),
        (Oslo, "[s]\nk = 'a'\n", "k", "c", "[s]\nk = 'c'\n"),
        (Oslo, "[s]\nk = a\n", "k", " c", "[s]\nk = \" c\"\n"),
        (Oslo, "[s]\nk = a\n", "k", "\"c\"", "[s]\nk = \"\"c\"\"\n"),
        (Oslo, "[s]\nk = a\n  b\n  c\nl = d\n", "k", "e", "[s]\nk = e\nl = d\n"),
        (Oslo, "[s]\nk = a\n\tb\n", "k", "x\ny\nz", "[s]\nk = x\n\ty\n\tz\n"),
        (Oslo, "[s]\nk = a\nk = b\n", "k", "c", "[s]\nk = a\nk = c\n"),
        (Oslo, "[s]\nk =\n", "k", "c", "[s]\nk = c\n"),
        (Oslo, "[s]\nk=\n", "k", "c", "[s]\nk=c\n"),
        (Oslo, "[s]\nk = a\n", "k", "", "[s]\nk = \n"),
        (Paste2, "[s]\nk = a ; note\n", "k", "c", "[s]\nk = c ; note\n"),
        (Paste3, "[s]\nk = a ; note\n", "k", "c", "[s]\nk = c\n"),
        (Paste3, "[s]\nk: a\n  # why\n  b\n\n[t]\n", "k", "c", "[s]\nk: c\n  # why\n\n[t]\n"),
        (Paste3, "[s]\nlong : a\n# end\n", "k", "c", "[s]\nlong : a\nk : c\n# end\n"),
        (Paste3, "[s]\nlong  = a\n", "k", "c", "[s]\nlong  = a\nk     = c\n"),
        (Paste3, "[s]\nl = a\n  b\n\n[t]\n", "k", "c", "[s]\nl = a\n  b\nk = c\n\n[t]\n"),
        (Paste3, "[s]\n  l = a\n", "k", "c", "[s]\n  l = a\n  k = c\n"),
        (Paste3, "[s]\n# x\n", "k", "c", "[s]\nk = c\n# x\n"),
        (Oslo, "[s]\nl = a\n[t]\n[s]\nm=b\n", "k", "c", "[s]\nl = a\n[t]\n[s]\nm=b\nk=c\n"),
        (Oslo, "[t]\r\nl = a", "k", "c", "[t]\r\nl = a\r\n\r\n[s]\r\nk = c"),
        (Oslo, "", "k", "c", "[s]\nk = c\n"),
    ];
    for (dialect, before, key, value, after) in cases {
        let mut d = doc(before);
        assert!(d.set(dialect, "s", key, value).unwrap(), "{before:?}");
        assert_eq!(text(&d), after);
        assert!(!d.set(dialect, "s", key, value).unwrap(), "{before:?} twice");
        assert_eq!(text(&d), after);
    }
}

#[test]
fn set_refuses_what_the_reader_cannot_read_back() {
    for (dialect, value) in
        [(Paste2, "a ; b"), (Paste3, "a "), (Paste3, "a\n# b"), (Oslo, "a\n\nb"), (Oslo, "a\rb"), (Oslo, "a\n b")]
    {
        let mut d = doc("[s]\nk = v\n");
        let error = d.set(dialect, "s", "k", value).unwrap_err();
        assert_eq!(error.line, 2, "{error}");
        assert_eq!(text(&d), "[s]\nk = v\n");
    }
    for key in ["a=b", "#a", "", " a", "[a"] {
        let mut d = doc("[s]\nk = v\n");
        assert!(d.set(Oslo, "s", key, "v").is_err(), "{key}");
        assert_eq!(text(&d), "[s]\nk = v\n");
    }
}

#[test]
fn set_multi_rewrites_in_place() {
    let before = "[s]\nk = a\nl = x\n[t]\n[S]\nk = b\n  c\n";
    let mut d = doc(before);
    assert_eq!(d.get_all(Oslo, "s", "k").unwrap(), ["a", "b\nc"]);
    assert!(!d.set_multi(Oslo, "s", "k", &["a", "b\nc"]).unwrap());
    assert_eq!(text(&d), before);
    assert!(d.set_multi(Oslo, "s", "k", &["1", "2", "3"]).unwrap());
    assert_eq!(text(&d), "[s]\nk = 1\nl = x\n[t]\n[S]\nk = 2\nk = 3\n");
    assert!(d.set_multi(Oslo, "s", "k", &["1"]).unwrap());
    assert_eq!(text(&d), "[s]\nk = 1\nl = x\n[t]\n[S]\n");
    assert!(d.set_multi(Oslo, "n", "k", &["1", "2"]).unwrap());
    assert_eq!(text(&d), "[s]\nk = 1\nl = x\n[t]\n[S]\n\n[n]\nk = 1\nk = 2\n");
    assert!(d.set_multi(Oslo, "n", "k", &[]).unwrap());
    assert_eq!(d.get_all(Oslo, "n", "k").unwrap(), Vec::<String>::new());
    assert!(d.set_multi(Paste3, "t", "k", &["1", "2"]).is_err());
}

#[test]
fn insert_puts_a_comment_above_the_key() {
    let mut d = doc("[s]\na: 1\n\n[t]\nb=2");
    d.insert(Oslo, "s", "k", "v", "why\nhow").unwrap();
    d.insert(Oslo, "t", "k", "v", "why").unwrap();
    let want = "[s]\na: 1\n# why\n# how\nk: v\n\n[t]\nb=2\n# why\nk=v";
    assert_eq!(text(&d), want);
    assert_eq!(d.insert(Oslo, "s", "k", "w", "").unwrap_err().line, 5);
    assert_eq!(text(&d), want);
}

#[test]
fn insert_word_follows_the_shape_of_the_list() {
    let cases = [
        ("k = a b\n", 0, "k = x a b\n"),
        ("k = a b\n", 1, "k = a x b\n"),
        ("k = a b \n", 2, "k = a b x \n"),
        ("k =  a  b\n", 1, "k =  a  x  b\n"),
        ("k:\ta\tb\n", 2, "k:\ta\tb x\n"),
        ("k =\n  a\n  b\n", 0, "k =\n  x\n  a\n  b\n"),
        ("k =\n  a\n  # c\n  b", 2, "k =\n  a\n  # c\n  b\n  x"),
        ("k =\n  a\n  # c\n  b\n", 1, "k =\n  a\n  x\n  # c\n  b\n"),
        ("k = a\n    b\n", 1, "k = a\n    x\n    b\n"),
        ("k = a\n    b c\n", 1, "k = a x\n    b c\n"),
        ("k = a b\n    c d\n", 3, "k = a b\n    c x d\n"),
        ("k = a\n", 0, "k = x a\n"),
        ("k = a\n", 1, "k = a x\n"),
    ];
    for (before, nth, after) in cases {
        let mut d = doc(&format!("[s]\n{before}"));
        d.insert_word(Paste3, "s", "k", nth, "x").unwrap();
        assert_eq!(text(&d), format!("[s]\n{after}"), "{before:?} {nth}");
    }
    let mut d = doc("[s]\nk = a\nl =\n");
    assert!(d.insert_word(Paste3, "s", "k", 2, "x").is_err());
    assert!(d.insert_word(Paste3, "s", "l", 0, "x").is_err());
    assert!(d.insert_word(Paste3, "s", "m", 0, "x").is_err());
    assert!(d.insert_word(Paste3, "s", "k", 0, "x y").is_err());
    assert_eq!(text(&d), "[s]\nk = a\nl =\n");
    let mut d = doc("[s]\nk = a b ; note c\n");
    d.insert_word(Paste2, "s", "k", 2, "x").unwrap();
    assert_eq!(text(&d), "[s]\nk = a b x ; note c\n");
}

#[test]
fn rename_and_remove_take_every_occurrence() {
    let mut d = doc("[s]\n# k is\nk   = a\n  b\nl = c\nk: d\n");
    assert!(d.rename_key(Oslo, "s", "k", "l").is_err());
    assert!(d.rename_key(Oslo, "s", "k", "a=b").is_err());
    assert!(!d.rename_key(Oslo, "s", "x", "y").unwrap());
    assert!(d.rename_key(Oslo, "s", "k", "new").unwrap());
    assert_eq!(text(&d), "[s]\n# k is\nnew   = a\n  b\nl = c\nnew: d\n");
    assert!(d.remove_key(Oslo, "s", "new").unwrap());
    assert!(!d.remove_key(Oslo, "s", "new").unwrap());
    assert_eq!(text(&d), "[s]\n# k is\nl = c\n");
}

#[test]
fn a_last_line_that_gets_its_end_reads_as_before() {
    // For Python 2 the character before this `;` is the value's last one, and blank before it begins a comment.
    let mut d = Document::parse(b"[s]\r\nk = ;v", "x").unwrap();
    d.add_section(Paste2, "n", &[("a", "b")], Some("s")).unwrap();
    assert_eq!(d.get_all(Paste2, "s", "k").unwrap(), [";v"]);
    let mut d = Document::parse(b"[s]\r\nk = v", "x").unwrap();
    d.add_section(Paste2, "n", &[("a", "b")], Some("s")).unwrap();
    assert!(d.to_bytes().starts_with(b"[s]\r\nk = v\r\n"));
}

#[test]
fn add_section_goes_behind_its_neighbour() {
    let keys = [("k", "v"), ("m", "a\nb")];
    let added = "[n]\nk = v\nm = a\n    b\n";
    let cases = [
        ("[s]\na = 1\n\n[t]\n", Some("s"), format!("[s]\na = 1\n\n{added}\n[t]\n")),
        ("[s]\na = 1\n\n# t\n[t]\n", Some("s"), format!("[s]\na = 1\n\n{added}\n# t\n[t]\n")),
        ("[s]\n#a = 1\n\n#b\n\n\n[t]\n", Some("s"), format!("[s]\n#a = 1\n\n#b\n\n{added}\n\n[t]\n")),
        ("[s]\na = 1\n[t]\n", Some("s"), format!("[s]\na = 1\n\n{added}\n[t]\n")),
        ("[s]\na = 1\n[t]\n\n", Some("t"), format!("[s]\na = 1\n[t]\n\n{added}\n")),
        ("[s]\n", Some("none"), format!("[s]\n\n{added}")),
        ("[s]\n\n", None, format!("[s]\n\n{added}")),
        ("", None, added.to_owned()),
    ];
    for (before, after, want) in cases {
        let mut d = doc(before);
        d.add_section(Paste3, "n", &keys, after).unwrap();
        assert_eq!(text(&d), want, "{before:?}");
    }
    let mut d = doc("[s]\na = 1\n");
    assert!(d.add_section(Paste3, "s", &[], None).is_err());
    assert!(d.add_section(Paste3, "a]b", &[], None).is_err());
    assert!(d.add_section(Paste3, "", &[], None).is_err());
    for name in ["a\n", "a]\n[b"] {
        assert!(d.add_section(Paste3, name, &[("k", "v")], None).is_err(), "{name:?} is no line");
    }
    assert_eq!(text(&d), "[s]\na = 1\n");
}

#[test]
fn remove_section_takes_what_is_its_own() {
    let cases = [
        ("[a]\nx = 1\n\n# s\n[s]\nk = 1\n  2\n\n[b]\n", "[a]\nx = 1\n\n[b]\n"),
        ("[a]\n\n[s]\nk = 1\n", "[a]\n"),
        ("# file\n[s]\nk = 1\n\n# b\n[b]\n", "# file\n\n# b\n[b]\n"),
        ("[a]\n\n[s]\nk = 1\n#l = 2\n\n# more\n\n[b]\n", "[a]\n\n# more\n\n[b]\n"),
        ("[a]\n\n[s]\nk = 1\n# b\n[b]\n", "[a]\n\n# b\n[b]\n"),
        ("[a]\nx = 1\n# of x\n[s]\n[b]\n[s]\n", "[a]\nx = 1\n# of x\n[b]\n"),
        ("[s]\nk = 1", ""),
    ];
    for (before, after) in cases {
        let mut d = doc(before);
        assert!(d.remove_section(Paste2, "s").unwrap());
        assert_eq!(text(&d), after, "{before:?}");
    }
    assert!(!doc("[a]\n").remove_section(Paste3, "s").unwrap());
}

#[test]
fn sections_keys_and_lines() {
    let d = doc("[s]\nk = a\n# c\nl = b\n[t]\n[s]\nk = c\n");
    let sections: Vec<_> = d.sections().into_iter().map(|s| (s.name, s.line)).collect();
    assert_eq!(sections, [("s".into(), 1), ("t".into(), 5), ("s".into(), 6)]);
    let keys: Vec<_> = d.keys(Oslo, "S").into_iter().map(|k| (k.name, k.line)).collect();
    assert_eq!(keys, [("k".into(), 2), ("l".into(), 4), ("k".into(), 7)]);
    assert_eq!(d.line_of(Paste2, "s", "k"), Some(7));
    assert_eq!(d.line_of(Paste2, "s", "x"), None);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(d.options(Paste2, "s").unwrap(), [pair("k", "c"), pair("l", "b")]);
    assert!(d.options(Paste3, "s").is_err());
    assert!(d.has_section(Oslo, "T") && !d.has_section(Paste2, "T"));
}

#[test]
fn differences_between_the_two_pastes() {
    let d = doc("[s]\na = x\nb = x ; y\nc = x\n  # y\n");
    let found = d.differences(Paste2, Paste3).unwrap();
    let found: Vec<_> = found.into_iter().map(|f| (f.key, f.line)).collect();
    assert_eq!(found, [("b".into(), 3), ("c".into(), 4)]);
    assert!(doc("[s]\na = x\na = y\n").differences(Paste2, Paste3).is_err());
}

/// Pieces that make a document more often than random bytes do.
fn piece() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        &b"[s]"[..],
        b"[t]",
        b"[S]",
        b"[DEFAULT]",
        b"k",
        b"l",
        b" ",
        b"  ",
        b"\t",
        b"=",
        b":",
        b" = ",
        b"v",
        b"w",
        b";",
        b" ; ",
        b"#",
        b"\"",
        b"'",
        b"\n",
        b"\n",
        b"\n",
        b"\r\n",
        b"\n  ",
        b"\nk = ",
        b"\nl: ",
        b"\n\n",
        b"\n[t]\n",
        b"\xff",
        b"\xc2\xa0",
        b"\xef\xbb\xbf",
        b"\r",
        b"\x0b",
        b"\x1c",
        b"rem ",
        b"%(here)s",
        b"]",
        b"\0",
    ])
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..40).prop_map(|pieces| pieces.concat())
}

fn any_dialect() -> impl Strategy<Value = Dialect> {
    prop::sample::select(vec![Oslo, Paste2, Paste3])
}

/// Reads everything there is; nothing may panic.
fn read_all(d: &Document) {
    for dialect in [Oslo, Paste2, Paste3] {
        let _ = d.accepts(dialect);
        for section in d.sections() {
            for key in d.keys(dialect, &section.name) {
                let _ = d.get_all(dialect, &section.name, &key.name);
                let _ = d.words(dialect, &section.name, &key.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn printing_what_was_parsed_gives_the_same_bytes(
        bytes in prop_oneof![pieces(), prop::collection::vec(any::<u8>(), 0..200)],
    ) {
        if let Ok(d) = Document::parse(&bytes, "x") {
            prop_assert_eq!(d.to_bytes(), bytes);
            read_all(&d);
        }
    }

    #[test]
    fn what_was_set_is_read(
        body in pieces(), dialect in any_dialect(), key in "[kl]", value in "[ -~\n]{0,12}",
    ) {
        let Ok(before) = Document::parse(&[b"[s]\n", &body[..]].concat(), "x") else {
            return Ok(());
        };
        let mut d = before.clone();
        match d.set(dialect, "s", &key, &value) {
            Ok(changed) => {
                prop_assert_eq!(d.get(dialect, "s", &key).unwrap(), Some(value));
                prop_assert_eq!(changed, d.to_bytes() != before.to_bytes());
                let again = Document::parse(&d.to_bytes(), "x").unwrap();
                prop_assert!(again == d, "kinds are those of the text");
                others_unchanged(&before, &d, dialect, &key)?;
            }
            Err(_) => prop_assert!(d == before),
        }
    }

    #[test]
    fn setting_the_old_value_changes_nothing(body in pieces(), dialect in any_dialect()) {
        let Ok(mut d) = Document::parse(&[b"[s]\n", &body[..]].concat(), "x") else {
            return Ok(());
        };
        let before = d.to_bytes();
        for key in d.keys(dialect, "s") {
            if let Ok(Some(value)) = d.get(dialect, "s", &key.name) {
                prop_assert!(!d.set(dialect, "s", &key.name, &value).unwrap());
            }
            if let Ok(values) = d.get_all(dialect, "s", &key.name) {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                prop_assert!(!d.set_multi(dialect, "s", &key.name, &values).unwrap());
            }
        }
        prop_assert_eq!(d.to_bytes(), before);
    }

    #[test]
    fn edits_leave_the_rest_alone(body in pieces(), dialect in any_dialect(), nth in 0usize..4) {
        let Ok(before) = Document::parse(&[b"[s]\n", &body[..]].concat(), "x") else {
            return Ok(());
        };
        let mut d = before.clone();
        if d.remove_key(dialect, "s", "k").is_ok() {
            prop_assert_eq!(d.line_of(dialect, "s", "k"), None);
            if before.accepts(dialect).is_ok() {
                others_unchanged(&before, &d, dialect, "k")?;
            }
        }
        let mut d = before.clone();
        if let Ok(mut words) = d.words(dialect, "s", "k")
            && d.insert_word(dialect, "s", "k", nth, "new").is_ok()
        {
            words.insert(nth, "new".to_owned());
            prop_assert_eq!(d.words(dialect, "s", "k").unwrap(), words);
            others_unchanged(&before, &d, dialect, "k")?;
        }
        let mut d = before.clone();
        if d.add_section(dialect, "new", &[("a", "b")], Some("s")).is_ok() {
            others_unchanged(&before, &d, dialect, "")?;
            prop_assert!(d.remove_section(dialect, "new").unwrap());
            others_unchanged(&before, &d, dialect, "")?;
        }
    }
}

/// Every key but `key` of section `s` reads as before.
fn others_unchanged(before: &Document, after: &Document, dialect: Dialect, key: &str) -> Result<(), TestCaseError> {
    for section in before.sections() {
        for other in before.keys(dialect, &section.name) {
            if other.name == key && section.name.eq_ignore_ascii_case("s") {
                continue;
            }
            let read = |d: &Document| d.get_all(dialect, &section.name, &other.name).ok();
            prop_assert_eq!(read(before), read(after), "{} {}", section.name, other.name);
        }
    }
    Ok(())
}
