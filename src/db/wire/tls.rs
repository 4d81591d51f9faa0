//! One TLS for both drivers: native-tls, set up to trust exactly what the URL says.
use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use native_tls::{Certificate, Identity, TlsConnector};
use openssl::{error::ErrorStack, pkey::PKey};

use super::target::{Check, Tls};

/// Made connectors: OpenSSL reads all authorities of the system for each, whether they are trusted or not, which takes longer than all else
/// about a connection.
static MADE: Mutex<Vec<(Tls, TlsConnector)>> = Mutex::new(Vec::new());

/// What connects as `tls` says; the error is why not, naming the file.
pub(super) fn connector(tls: &Tls) -> Result<TlsConnector, String> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, connector)) = made.iter().find(|(of, _)| of == tls) {
        return Ok(connector.clone());
    }
    let connector = make(tls)?;
    made.push((tls.clone(), connector.clone()));
    Ok(connector)
}

fn make(tls: &Tls) -> Result<TlsConnector, String> {
    let mut builder = TlsConnector::builder();
    builder.disable_built_in_roots(!tls.system);
    for path in &tls.authorities {
        for certificate in authorities(path)? {
            builder.add_root_certificate(certificate);
        }
    }
    if let Some((certificate, key)) = &tls.identity {
        builder.identity(identity(certificate, key)?);
    }
    builder.danger_accept_invalid_hostnames(tls.check < Check::Name);
    builder.danger_accept_invalid_certs(tls.check < Check::Authority);
    builder.build().map_err(|why| reason(&why))
}

/// The certificates in a file, or in the files of a directory.
fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|why| format!("{}: {why}", path.display()))?;
        files = entries.iter().map(fs::DirEntry::path).filter(|file| file.is_file()).collect();
    }
    let mut certificates = Vec::new();
    for file in files {
        // What else lies in such a directory is no certificate, and no fault.
        certificates.extend(Certificate::stack_from_pem(&read(&file)?).unwrap_or_default());
    }
    if certificates.is_empty() {
        return Err(format!("{}: no certificate in PEM", path.display()));
    }
    Ok(certificates)
}

/// native-tls takes keys in PKCS#8 only; `openssl rsa` and old tools write others.
fn identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let bad = |what: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", what.display());
    // Without a callback OpenSSL would ask for a password on the terminal.
    let parsed = PKey::private_key_from_pem_callback(&read(key)?, |_| Err(ErrorStack::get()));
    let parsed = parsed.map_err(|_| bad(key, &"no private key in PEM, or one with a password"))?;
    let pem = parsed.private_key_to_pem_pkcs8().map(zeroize::Zeroizing::new).map_err(|why| bad(key, &why))?;
    Identity::from_pkcs8(&read(certificate)?, &pem).map_err(|why| bad(certificate, &reason(&why)))
}

/// More than all authorities of an operating system have in one file, in bytes.
const LARGEST: u64 = 16 << 20;

/// Whoever wrote the URL names the file: what is no file may do anything when it is opened, or never end.
fn read(file: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let bad = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let about = fs::metadata(file).map_err(|why| bad(&why))?;
    if !about.is_file() {
        return Err(bad(&"it is no file"));
    }
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = fs::File::options().read(true).custom_flags(flags).open(file).map_err(|why| bad(&why))?;
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    opened.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|why| bad(&why))?;
    if bytes.len() as u64 > LARGEST {
        return Err(bad(&"it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// What OpenSSL says, in words: the result of the verification if that is what failed, else its own reason.
pub(super) fn reason(why: &native_tls::Error) -> String {
    let text = why.to_string();
    match text.strip_suffix(')').and_then(|text| text.rsplit_once('(')) {
        Some((_, "hostname mismatch" | "IP address mismatch")) => {
            "the server's certificate names another host".to_owned()
        }
        Some((_, other)) => format!("the server's certificate is not trusted: {other}"),
        None => openssl_reason(&text).unwrap_or(text),
    }
}

/// The server's word against our certificate, which with TLS 1.3 comes only when something is read.
pub(super) fn alert(why: &io::Error) -> Option<String> {
    openssl_reason(&why.to_string())
}

/// The reason in `error:NUMBER:LIBRARY:FUNCTION:REASON:FILE:LINE:DETAIL`, which is how OpenSSL prints its errors.
fn openssl_reason(text: &str) -> Option<String> {
    let (_, fields) = text.split_once("error:")?;
    fields.split(':').nth(3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_alone() {
        let text = "error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../ssl/record/x.c:354:";
        assert_eq!(openssl_reason(text).unwrap(), "wrong version number");
        assert_eq!(alert(&io::Error::other("connection reset")), None);
        let none = Tls {
            encrypt: super::super::target::Encrypt::Always,
            check: Check::Name,
            authorities: vec!["/dev/null".into()],
            system: false,
            identity: None,
        };
        assert_eq!(connector(&none).err().unwrap(), "/dev/null: it is no file");
    }
}
