//! A sandbox: the genuine Liberty deployment as an image, and the true binary run on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// The value of a variable that `tests/lab/setup.sh` writes for us.
pub(crate) fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make setup`, then source target/lab/env"))
}

/// What a run of the binary said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Exit code; 137 for SIGKILL.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Said {
    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Whether it says this somewhere, wherever lines break.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        let words = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
        let all = self.all();
        // A hook's paragraph says at each of its lines who speaks.
        let unspoken: Vec<&str> = all.lines().map(|l| l.strip_prefix("keymgr-upgrade: ").unwrap_or(l)).collect();
        let there = [all.clone(), unspoken.join("\n")].iter().any(|said| words(said).contains(&words(text)));
        assert!(there, "{text:?} is not in\n{all}");
    }

    /// Both outputs, one after the other.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Standard error in one line: where a line is broken depends on the length of temporary names.
    pub(crate) fn error(&self) -> String {
        self.err.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The JSON object on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON: {e}\n{}\n{}", self.out, self.err))
    }
}

/// SoftHSM's own configuration, inside the image.
pub(crate) const SOFTHSM_CONF: &str = "etc/softhsm/softhsm2.conf";

/// The genuine Liberty deployment below a temporary directory.
#[derive(Debug)]
pub(crate) struct Sandbox {
    base: TempDir,
}

impl Sandbox {
    /// Unpacks it.
    pub(crate) fn liberty() -> Self {
        let base = tempfile::Builder::new().prefix("keymgr-it-").tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/sandbox.sh");
        let status = Command::new(script).arg(base.path().join("root")).status().unwrap();
        assert!(status.success());
        Self { base }
    }

    /// A copy of it as it stands, in memory where that is to be had.
    pub(crate) fn copy(&self) -> Self {
        let memory = Path::new("/dev/shm");
        self.copy_in(&if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() })
    }

    /// A copy of it as it stands, below a directory.
    pub(crate) fn copy_in(&self, place: &Path) -> Self {
        let base = tempfile::Builder::new().prefix("keymgr-it-").tempdir_in(place).unwrap();
        let copy = Self { base };
        let status = Command::new("cp").arg("-a").arg(self.root()).arg(copy.root()).status().unwrap();
        assert!(status.success());
        // It names the tokens by their whole path.
        let conf = copy.read(SOFTHSM_CONF).replace(&*self.root().to_string_lossy(), &copy.root().to_string_lossy());
        copy.write(SOFTHSM_CONF, &conf);
        copy
    }

    /// The image's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    /// A file beside the image, for what the PKCS#11 module logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.base.path().join("p11.log")
    }

    /// A path inside the image, as seen from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    /// The binary, ready to run on the image with the token.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        command.arg("--root").arg(self.root());
        let on_server = |conf| std::fs::read_to_string(self.path(conf)).is_ok_and(|text| text.contains("@127.0.0.1"));
        if ["etc/barbican/barbican.conf", "srv/moving/barbican.conf"].into_iter().any(on_server) {
            command.arg("--allow-network-db");
        }
        command
            .args(["--pkcs11-module", &lab("KEYMGR_TEST_P11SHIM")])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SOFTHSM2_CONF", self.path(SOFTHSM_CONF))
            .env("P11SHIM_LIBERTY", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary on the image.
    #[must_use = "look at the exit code, or at what was said"]
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    /// Approves and upgrades to `release`, which must work.
    pub(crate) fn upgrade(&self, release: &str) {
        let arguments = ["--to", release, "--fast-forward"];
        self.run(&[&["approve"], &arguments[..]].concat()).expect(0);
        self.run(&[&["upgrade", "--yes"], &arguments[..]].concat()).expect(0);
    }

    /// Writes a file of the image, with its directories.
    pub(crate) fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file of the image.
    pub(crate) fn read(&self, inside: &str) -> String {
        std::fs::read_to_string(self.path(inside)).unwrap()
    }

    /// Says what code is installed: metadata of a Barbican of this version, as pip leaves it.
    pub(crate) fn install(&self, version: &str) {
        let packages = self.path("usr/lib/python3.11/site-packages");
        std::fs::remove_dir_all(&packages).ok();
        let directory = format!("usr/lib/python3.11/site-packages/barbican-{version}.dist-info/METADATA");
        self.write(&directory, &format!("Metadata-Version: 2.1\nName: barbican\nVersion: {version}\n\n"));
    }
}

/// Runs a command to its end.
#[must_use = "look at the exit code, or at what was said"]
pub(crate) fn said(command: &mut Command) -> Said {
    of(&command.output().unwrap())
}

/// The end of what was started with its outputs in pipes.
#[must_use = "look at the exit code, or at what was said"]
pub(crate) fn end(child: Child) -> Said {
    of(&child.wait_with_output().unwrap())
}

fn of(output: &Output) -> Said {
    use std::os::unix::process::ExitStatusExt as _;
    Said {
        code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
