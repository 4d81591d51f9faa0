//! What a run of the binary did to the files of its image, as strace(1) saw it.

use std::path::{Path, PathBuf};

use crate::common::said;
use crate::crash::Host;
use crate::crash::matrix::traced;

/// One change; paths are those inside the image.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A file that may be new.
    Create { path: PathBuf, mode: u32, truncate: bool },
    /// Bytes at this place, or at the end.
    Write { path: PathBuf, at: Option<usize>, bytes: Vec<u8> },
    /// Another length.
    Truncate { path: PathBuf, length: usize },
    /// Owner and group.
    Owner { path: PathBuf, uid: u32, gid: u32 },
    /// Permission bits.
    Mode { path: PathBuf, mode: u32 },
    /// An extended attribute.
    Attribute { path: PathBuf, name: String, value: Vec<u8> },
    /// A new directory.
    Directory { path: PathBuf, mode: u32 },
    /// A new symbolic link.
    Link { path: PathBuf, target: Vec<u8> },
    /// A new name for something, in place of what had it.
    Rename { from: PathBuf, to: PathBuf },
    /// A name less.
    Remove { path: PathBuf },
    /// fsync(2) or fdatasync(2) of a file or a directory.
    Sync { path: PathBuf },
}

/// All calls that may change something: one that is not understood below is an error, not an oversight.
const CALLS: &str = "openat,openat2,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fchown,chown,fchownat,\
                     lchown,fchmod,chmod,fchmodat,?fchmodat2,setxattr,lsetxattr,fsetxattr,removexattr,fremovexattr,mkdir,mkdirat,mknod,mknodat,\
                     symlink,symlinkat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync,sync_file_range,syncfs,\
                     sync,copy_file_range,sendfile,splice,msync";

/// Runs `command` to its end, and tells what it changed in the image. The token is the module's own affair.
pub(super) fn changes(sandbox: &Host, command: &[&str]) -> Vec<Change> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let trace = format!("trace={CALLS}");
    // Names and bytes in hexadecimal: neither a comma nor a quote is in them.
    let options = ["-y", "-xx", "-s", "100000000", "-o", log.path().to_str().unwrap(), "-e", &trace];
    let _ = said(&mut traced(sandbox, command, &options)).expect(0);
    let root = sandbox.root().canonicalize().unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    text.lines().filter_map(|line| change(line, &root)).collect()
}

/// The bytes of `\x2f\x74`.
fn bytes(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|hex| u8::from_str_radix(&hex[..2], 16).unwrap()).collect()
}

fn name(text: &str) -> PathBuf {
    PathBuf::from(String::from_utf8(bytes(text)).unwrap())
}

/// What stands between quotes.
fn quoted(argument: &str) -> &str {
    argument.split('"').nth(1).unwrap_or_else(|| panic!("no text: {argument}"))
}

/// The path that a descriptor stands for.
fn of_descriptor(argument: &str) -> PathBuf {
    name(argument.split_once('<').unwrap_or_else(|| panic!("no path: {argument}")).1)
}

fn octal(text: &str) -> u32 {
    u32::from_str_radix(text.trim_end_matches('}').trim_start_matches("mode="), 8).unwrap()
}

/// One line of the record; none if nothing inside the image was changed.
fn change(line: &str, root: &Path) -> Option<Change> {
    let (call, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let arguments: Vec<&str> = arguments.trim_end().strip_suffix(')')?.split(", ").collect();
    let inside =
        |path: PathBuf| path.strip_prefix(root).ok().map(Path::to_owned).filter(|p| !p.starts_with("var/lib/softhsm"));
    let file = |n: usize| inside(of_descriptor(arguments[n]));
    let absolute = |n: usize| inside(name(quoted(arguments[n])));
    // A directory's descriptor and a name in it.
    let beside = |n: usize| inside(of_descriptor(arguments[n]).join(name(quoted(arguments[n + 1]))));
    let number = |n: usize| arguments[n].parse::<usize>().unwrap();
    match call {
        "openat" | "openat2" | "open" => {
            let made = arguments.iter().any(|a| a.contains("O_CREAT"));
            let truncate = arguments.iter().any(|a| a.contains("O_TRUNC"));
            let mode = arguments.iter().skip(1).rfind(|a| a.starts_with('0') || a.starts_with("mode=0"));
            let path = inside(of_descriptor(result)).filter(|_| made || truncate)?;
            Some(Change::Create { path, mode: mode.map_or(0, |m| octal(m)), truncate })
        }
        "write" | "pwrite64" => {
            if !arguments[0].contains('<') {
                return None;
            }
            let written: usize = result.parse().unwrap();
            let mut bytes = bytes(quoted(arguments[1]));
            bytes.truncate(written);
            Some(Change::Write { path: file(0)?, at: (call == "pwrite64").then(|| number(3)), bytes })
        }
        "ftruncate" => Some(Change::Truncate { path: file(0)?, length: number(1) }),
        "fchown" => Some(Change::Owner {
            path: file(0)?,
            uid: arguments[1].parse().unwrap(),
            gid: arguments[2].parse().unwrap(),
        }),
        "fchmod" => Some(Change::Mode { path: file(0)?, mode: octal(arguments[1]) }),
        "fchmodat" => Some(Change::Mode { path: beside(0)?, mode: octal(arguments[2]) }),
        "fsetxattr" => Some(Change::Attribute {
            path: file(0)?,
            name: name(quoted(arguments[1])).to_str().unwrap().to_owned(),
            value: bytes(quoted(arguments[2])),
        }),
        "mkdirat" => Some(Change::Directory { path: beside(0)?, mode: octal(arguments[2]) }),
        "symlinkat" => Some(Change::Link { path: beside(1)?, target: bytes(quoted(arguments[0])) }),
        "renameat" => Some(Change::Rename { from: beside(0)?, to: beside(2)? }),
        "rename" => Some(Change::Rename { from: absolute(0)?, to: absolute(1)? }),
        "unlinkat" => Some(Change::Remove { path: beside(0)? }),
        "unlink" | "rmdir" => Some(Change::Remove { path: absolute(0)? }),
        "fsync" | "fdatasync" => Some(Change::Sync { path: file(0)? }),
        _ if line.contains(&hexadecimal(root)) => panic!("a call that the record does not understand: {line}"),
        _ => None,
    }
}

fn hexadecimal(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect()
}
