//! Barbican's configuration as its process reads it (oslo.config): the main file, its `.conf.d`, the environment. Secrets stay wrapped.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use secrecy::{ExposeSecret, SecretString};

use crate::files::{Attributes, Root, digest};
use crate::ini::{Dialect, Document};

/// One configuration file.
#[derive(Debug)]
pub struct File {
    /// Its path inside the root.
    pub path: PathBuf,
    /// Its text.
    pub document: Document,
    /// Digest of its bytes.
    pub digest: String,
    /// Owner and mode.
    pub attributes: Attributes,
}

/// The files that together are the configuration; a later one overrides an earlier one.
#[derive(Debug, Default)]
pub struct Config {
    /// The main file first, then those of its `.conf.d`, by name.
    pub files: Vec<File>,
    /// `barbican-api.conf`, which code up to Kilo read after the main file (its program's name was barbican-api).
    pub legacy: Option<File>,
    /// Whether the running code reads it.
    pub reads_legacy: bool,
    /// The service's environment, where `OS_GROUP__OPTION` overrides every file.
    pub environment: Vec<(String, SecretString)>,
}

/// Reads and parses one file; `None` if there is none.
///
/// # Errors
/// If it cannot be read or parsed: with file and line.
pub fn read(root: &Root, path: &Path) -> Result<Option<File>> {
    let Some(contents) = root.read(path)? else { return Ok(None) };
    let document = Document::parse(&contents.bytes, &path.to_string_lossy())?;
    Ok(Some(File { path: path.to_owned(), document, digest: digest(&contents.bytes), attributes: contents.attributes }))
}

impl Config {
    /// Reads the configuration whose main file is `main`.
    ///
    /// # Errors
    /// If the main file is missing, or any of the files cannot be read the way oslo.config reads it.
    pub fn load(root: &Root, main: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let first = read(root, main)?
            .with_context(|| format!("{} is missing: where it is, --config-file says", root.shown(main).display()))?;
        files.push(first);
        let directory = PathBuf::from(format!("{}.d", main.display()));
        for name in root.list(&directory)?.iter().filter(|n| n.ends_with(".conf")) {
            files.extend(read(root, &directory.join(name))?);
        }
        let legacy = read(root, &main.with_file_name("barbican-api.conf"))?;
        for file in files.iter().chain(&legacy) {
            file.document.accepts(Dialect::Oslo)?;
        }
        Ok(Self { files, legacy, ..Self::default() })
    }

    fn read_files(&self) -> impl DoubleEndedIterator<Item = &File> {
        self.files.iter().chain(self.legacy.iter().filter(|_| self.reads_legacy))
    }

    /// The value that counts of an option, under exactly this name.
    ///
    /// # Errors
    /// If the value cannot be read (not UTF-8).
    pub fn secret(&self, group: &str, name: &str) -> Result<Option<SecretString>> {
        let wanted = format!("OS_{group}__{name}").to_uppercase();
        if let Some((_, value)) = self.environment.iter().find(|(key, _)| *key == wanted) {
            return Ok(Some(value.clone()));
        }
        for file in self.read_files().rev() {
            if let Some(value) = file.document.get(Dialect::Oslo, group, name)? {
                return Ok(Some(value.into()));
            }
        }
        Ok(None)
    }

    /// All values of a multi-valued option, over all files in order.
    ///
    /// # Errors
    /// As [`Config::secret`].
    pub fn secrets(&self, group: &str, name: &str) -> Result<Vec<SecretString>> {
        let mut all = Vec::new();
        for file in self.read_files() {
            all.extend(file.document.get_all(Dialect::Oslo, group, name)?.into_iter().map(SecretString::from));
        }
        Ok(all)
    }

    /// The value of an option that is not secret.
    ///
    /// # Errors
    /// As [`Config::secret`].
    pub fn text(&self, group: &str, name: &str) -> Result<Option<String>> {
        debug_assert!(!is_secret(name), "{name} is secret");
        Ok(self.secret(group, name)?.map(|v| v.expose_secret().to_owned()))
    }

    /// The first of several names that is set, as code with aliases looks them up.
    ///
    /// # Errors
    /// As [`Config::secret`].
    pub fn first(&self, group: &str, names: &[&str]) -> Result<Option<String>> {
        for name in names {
            if let Some(value) = self.text(group, name)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Every option that the files set: group, name, how often, and its value as it may be shown.
    ///
    /// # Errors
    /// As [`Config::secret`].
    pub fn options(&self) -> Result<Vec<(String, String, usize, String)>> {
        let mut all: Vec<(String, String, usize, String)> = Vec::new();
        for file in self.read_files() {
            let mut sections: Vec<String> = file.document.sections().into_iter().map(|s| s.name).collect();
            sections.sort();
            sections.dedup();
            for section in sections {
                for key in file.document.keys(Dialect::Oslo, &section) {
                    let value = file.document.get(Dialect::Oslo, &section, &key.name)?.unwrap_or_default();
                    let value = shown(&key.name, &value);
                    match all.iter_mut().find(|(g, n, ..)| *g == section && *n == key.name) {
                        Some(found) => (found.2, found.3) = (found.2 + 1, value),
                        None => all.push((section.clone(), key.name, 1, value)),
                    }
                }
            }
        }
        Ok(all)
    }
}

/// Options that hold a URL with a user and a password in it.
const URLS: [&str; 4] = ["connection", "sql_connection", "slave_connection", "transport_url"];

/// Whether the values of an option called so are secret, in Barbican or in a library that reads the same file.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    const WHOLE: [&str; 2] = ["login", "kek"];
    const PART: [&str; 4] = ["password", "passwd", "passphrase", "secret_key"];
    const END: [&str; 5] = ["secret", "secret_id", "token_id", "_token", "hmac_keys"];
    WHOLE.contains(&name)
        || URLS.contains(&name)
        || PART.iter().any(|p| name.contains(p))
        || END.iter().any(|e| name.ends_with(e))
}

/// A value as it may be shown: `***` for a secret, and in place of the user and password of a URL.
#[must_use]
pub fn shown(name: &str, value: &str) -> String {
    let is_url = value.contains("://");
    if is_secret(name) && !(is_url && URLS.contains(&name)) {
        return "***".to_owned();
    }
    let lower = value.to_lowercase();
    if is_url && ["password=", "passwd=", "secret="].iter().any(|p| lower.contains(p)) {
        return "***".to_owned();
    }
    if let (Some(scheme), Some(at)) = (value.find("://"), value.rfind('@'))
        && scheme + 3 <= at
    {
        return format!("{}***{}", value.get(..scheme + 3).unwrap_or_default(), value.get(at..).unwrap_or_default());
    }
    value.to_owned()
}

/// The text of a document with every secret value replaced, for diffs.
///
/// # Errors
/// If a value cannot be replaced; then nothing may be shown.
pub fn masked(document: &Document, dialect: Dialect) -> Result<String> {
    let mut copy = document.clone();
    for section in document.sections() {
        for key in document.keys(dialect, &section.name) {
            let values = document.get_all(dialect, &section.name, &key.name)?;
            let shown: Vec<String> = values.iter().map(|v| shown(&key.name, v)).collect();
            if shown != values {
                let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
                // Of several each is masked, also where only the last one counts.
                match shown.as_slice() {
                    [one] => copy.set(dialect, &section.name, &key.name, one).map(drop)?,
                    many => copy.set_multi(dialect, &section.name, &key.name, many).map(drop)?,
                }
            }
        }
    }
    let text = String::from_utf8_lossy(&copy.to_bytes()).into_owned();
    Ok(text.split_inclusive('\n').map(masked_comment).collect())
}

/// A comment may hold an option that was put out of use, with its value, and a sentence several.
fn masked_comment(line: &str) -> String {
    if !line.trim_start().starts_with(['#', ';']) {
        return line.to_owned();
    }
    let body = line.trim_start().trim_start_matches(['#', ';', ' ', '\t']);
    // They stay: without them the rest would be no comment.
    let marks = line.strip_suffix(body).unwrap_or_default();
    for (at, sign) in body.match_indices(['=', ':']) {
        let (told, value) = body.split_at(at + sign.len());
        let name = told.trim_end_matches(sign).split_whitespace().last().unwrap_or_default();
        let shown = shown(&in_prose(name), value.trim());
        if !value.trim().is_empty() && shown != value.trim() {
            let before = told.trim_end_matches(|c: char| !c.is_whitespace());
            let word = told.strip_prefix(before).unwrap_or_default();
            // What was taken for a name may be a piece of a URL, with a password in it that goes on as the value.
            let word = if word.contains("://") { "***" } else { word };
            return format!("{marks}{}{word}{}", shown_sentence(before), value.replace(value.trim(), &shown));
        }
    }
    format!("{marks}{}", shown_sentence(body))
}

/// The name of an option as somebody wrote it in a sentence.
fn in_prose(name: &str) -> String {
    let bare = name.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    // `old_kek`, `hsm-login`
    let last = bare.rsplit(['_', '-']).next().unwrap_or_default();
    if matches!(last, "kek" | "login") { last.to_owned() } else { bare }
}

/// A line of prose, without the user and password of a URL in it.
fn shown_sentence(text: &str) -> String {
    let masked = |word: &str| {
        let bare = word.trim_end();
        if bare.contains("://") { word.replacen(bare, &shown("", bare), 1) } else { word.to_owned() }
    };
    text.split_inclusive(char::is_whitespace).map(masked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (name, value, wanted) in [
            ("login", "1234", "***"),
            ("login", "http://1234", "***"),
            ("kek", "YWJj", "***"),
            ("admin_password", "p", "***"),
            ("admin_token", "t", "***"),
            ("sql_connection", "mysql+pymysql://u:p@ss@h/b", "mysql+pymysql://***@h/b"),
            ("connection", "sqlite:////var/lib/b.sqlite", "sqlite:////var/lib/b.sqlite"),
            ("connection", "mysql:///b?user=u&password=p", "***"),
            ("transport_url", "rabbit://u:p@a:1,u:q@b:1/", "rabbit://***@b:1/"),
            ("identity_uri", "http://u:p@h:35357", "http://***@h:35357"),
            ("connection", "postgresql://u@h/b?password=p", "***"),
            ("mkek_label", "an_mkek", "an_mkek"),
            ("max_allowed_secret_in_bytes", "20000", "20000"),
            ("token_labels", "liberty", "liberty"),
        ] {
            assert_eq!(shown(name, value), wanted, "{name}");
        }
    }

    #[test]
    fn a_masked_document_keeps_everything_else() {
        for (line, wanted) in [
            ("# old kek = 'hush'\n", "# old kek = ***\n"),
            ("#sql_connection = mysql://barbican:hush@db/b\n", "#sql_connection = mysql://***@db/b\n"),
            ("; see http://u:hush@h/x for more\n", "; see http://***@h/x for more\n"),
            ("# debug = true\n", "# debug = true\n"),
            ("# DB Password: hush\n", "# DB Password: ***\n"),
            ("#(login=hush)\n", "#(login=***\n"),
            ("# old_kek = hush\n", "# old_kek = ***\n"),
            ("#mysql://u:xsecret:hush@h\n", "#******\n"),
            ("# password =\n", "# password =\n"),
            ("# as http://u:hush@h says: secret = hush hush\n", "# as http://***@h says: secret = ***\n"),
            ("#http://u:hush@h/?a_secret=hush x kek=hush\n", "#******\n"),
            ("#the password=hush:hush://\thush\x0b\n", "#the password=***\x0b\n"),
            ("#see http://h/?password=hush\n", "#see ******\n"),
            ("key = a # not a comment: b\n", "key = a # not a comment: b\n"),
        ] {
            assert_eq!(masked_comment(line), wanted);
        }
        let text = "# head\n[DEFAULT]\nsql_connection = mysql://u:hush@h/b\n[simple_crypto_plugin]\nkek = hush\nkek = 'hush2'\nx=1\n";
        let document = Document::parse(text.as_bytes(), "b.conf").unwrap();
        let masked = masked(&document, Dialect::Oslo).unwrap();
        assert!(!masked.contains("hush"), "{masked}");
        assert!(masked.starts_with("# head\n[DEFAULT]\nsql_connection = mysql://***@h/b\n"), "{masked}");
        assert!(masked.ends_with("x=1\n"), "{masked}");
    }

    #[test]
    fn every_value_of_a_key_is_masked_where_the_last_one_counts() {
        let text = "[filter:authtoken]\nadmin_password = hush\nadmin_user = b\nadmin_password = hush2\n";
        let document = Document::parse(text.as_bytes(), "p.ini").unwrap();
        let masked = masked(&document, Dialect::Paste2).unwrap();
        assert_eq!(masked, "[filter:authtoken]\nadmin_password = ***\nadmin_user = b\nadmin_password = ***\n");
        assert!(
            super::masked(&document, Dialect::Paste3).is_err(),
            "no reader of Python 3 takes it, so nothing is shown"
        );
    }
}
