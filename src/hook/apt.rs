//! What apt gives to a command of `DPkg::Pre-Install-Pkgs` that asked for version 3 of the protocol (apt.conf(5)).

use anyhow::{Context as _, Result, bail};

use super::{Change, Manager, is_barbican};

/// What a package manager is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// What happens to Barbican's packages, each once; configuring what is unpacked already is no change.
    pub changes: Vec<Change>,
    /// How many packages are unpacked or removed, Barbican's and others.
    pub packages: usize,
    /// Its command line, as it tells it; empty where it does not.
    pub command: String,
    /// The packages go into another tree than that of this host (`-o Dir=`, `-o RootDir=`).
    pub elsewhere: bool,
    /// Who works.
    pub manager: Manager,
}

/// Reads what apt has written. Nothing at all is nothing to do.
///
/// # Errors
/// If it is not version 3 of the protocol, or a line has another form than apt.conf(5) says, and Barbican is mentioned in it: what happens to its
/// packages is not known then.
pub fn parse(text: &str) -> Result<Given> {
    match read(text) {
        // Where Barbican is not in it, it is none of our business.
        Err(_) if !text.contains("barbican") => Ok(Given::default()),
        other => other,
    }
}

fn read(text: &str) -> Result<Given> {
    let mut given = Given::default();
    let mut lines = text.lines();
    match lines.next() {
        None => return Ok(given),
        Some("VERSION 3") => {}
        Some(other) => bail!("apt speaks another protocol than VERSION 3: {other:?}"),
    }
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once('=').with_context(|| format!("apt's setting without a value: {line:?}"))?;
        let value = unescape(value);
        match name {
            "CommandLine::AsString" => given.command = value,
            "Dir" | "RootDir" | "DPkg::Chroot-Directory" => {
                given.elsewhere |= !value.is_empty() && value.chars().any(|c| c != '/');
            }
            _ => {}
        }
    }
    for line in lines {
        let Some(change) = change(line)? else { continue };
        given.packages += 1;
        if is_barbican(&change.package) {
            given.changes.push(change);
        }
    }
    Ok(given)
}

/// `NAME OLD ARCH MULTIARCH DIRECTION NEW ARCH MULTIARCH ACTION`; `None` where the package is only configured.
fn change(line: &str) -> Result<Option<Change>> {
    let fields: Vec<&str> = line.splitn(9, ' ').collect();
    let [package, old, _, _, direction, new, _, _, action] = fields.as_slice() else {
        bail!("a line of apt's has {} fields, not 9: {line:?}", fields.len());
    };
    if !matches!(*direction, "<" | ">" | "=") {
        bail!("a line of apt's goes neither up nor down: {line:?}");
    }
    let version = |text: &str| (text != "-").then(|| text.to_owned());
    let new = match *action {
        "**CONFIGURE**" => return Ok(None),
        "**REMOVE**" | "**PURGE**" => None,
        _ => version(new),
    };
    Ok(Some(Change { package: (*package).to_owned(), old: version(old), new }))
}

/// apt writes `%` and two hexadecimal digits for blanks and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match coded.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(package: &str, old: Option<&str>, new: Option<&str>) -> Change {
        Change { package: package.into(), old: old.map(str::to_owned), new: new.map(str::to_owned) }
    }

    /// As apt 2.6.1 writes it; most settings left out.
    const HEAD: &str = "VERSION 3\nAPT::Architecture=amd64\nDir=/\nRootDir=\nDir::Cache=var/cache/apt\nDPkg::Pre-Install-Pkgs::=/usr/sbin/dpkg-preconfigure%20--apt%20||%20true\nbinary::apt-get::x=\nCommandLine::AsString=apt-get%20dist-upgrade%20-y\n\n";

    #[test]
    fn upgrades_are_read_and_configuring_is_none() {
        let text = format!(
            "{HEAD}\
python3-barbican 1:15.0.1-2 all none < 1:20.0.0-3 all none /var/cache/apt/archives/python3-barbican_1%3a20.0.0-3_all.deb
libc6 2.36-9 amd64 same < 2.41-12 amd64 same /var/cache/apt/archives/libc6_2.41-12_amd64.deb
barbican-common 1:15.0.1-2 all none < 1:20.0.0-3 all none /var/cache/apt/archives/a b.deb
barbican-common 1:15.0.1-2 all none < 1:20.0.0-3 all none **CONFIGURE**
libc6 2.36-9 amd64 same < 2.41-12 amd64 same **CONFIGURE**
"
        );
        let given = parse(&text).unwrap();
        assert_eq!(given.command, "apt-get dist-upgrade -y");
        assert_eq!((given.packages, given.elsewhere), (3, false));
        let (old, new) = (Some("1:15.0.1-2"), Some("1:20.0.0-3"));
        assert_eq!(given.changes, [change("python3-barbican", old, new), change("barbican-common", old, new)]);
    }

    #[test]
    fn installing_removing_and_the_like_are_told_apart() {
        let text = format!(
            "{HEAD}\
barbican-worker - - none < 1:15.0.1-2.1 all none /w.deb
barbican-api 1:15.0.1-2 all none > - - none **REMOVE**
barbican-common 1:15.0.1-2.1 all none > 1:15.0.1-2 all none /c.deb
python3-barbican 1:15.0.1-2 all none = 1:15.0.1-2 all none /p.deb
python3-barbicanclient 5.4.0-2 all none < 7.0.0-1 all none /q.deb
"
        );
        let given = parse(&text).unwrap();
        let wanted = [
            change("barbican-worker", None, Some("1:15.0.1-2.1")),
            change("barbican-api", Some("1:15.0.1-2"), None),
            change("barbican-common", Some("1:15.0.1-2.1"), Some("1:15.0.1-2")),
            change("python3-barbican", Some("1:15.0.1-2"), Some("1:15.0.1-2")),
        ];
        assert_eq!(given.changes, wanted);
    }

    #[test]
    fn another_tree_is_not_this_host() {
        for (setting, elsewhere) in
            [("Dir=/mnt/image/", true), ("RootDir=/mnt", true), ("Dir=/", false), ("RootDir=/", false)]
        {
            let given = parse(&format!("VERSION 3\n{setting}\n\n")).unwrap();
            assert_eq!(given.elsewhere, elsewhere, "{setting}");
        }
    }

    #[test]
    fn what_is_not_understood_stops_barbican_only() {
        assert_eq!(parse("").unwrap(), Given::default());
        assert_eq!(parse("/var/cache/apt/archives/less_590_amd64.deb\n").unwrap(), Given::default());
        for text in [
            "/var/cache/apt/archives/barbican-api_1%3a16.0.0-1_all.deb\n",
            "VERSION 2\n\nbarbican-api 1 < 2 /x.deb\n",
            "VERSION 3\n\nbarbican-api 1 all none < 2 all\n",
            "VERSION 3\n\nbarbican-api 1 all none ? 2 all none /x.deb\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescape("a%20b%"), "a b%");
        assert_eq!(unescape("%zz%2"), "%zz%2");
    }
}
