//! TLS for MySQL, outside of the driver.
//!
//! The driver adds the authority of a URL to those of the operating system and takes a client's key from PKCS#12
//! files only. So it talks in clear to a socket in a directory of ours, and a thread carries that to the server with a
//! TLS of our own making. The protocol starts in clear: the server greets, the client asks for TLS with the first 32
//! bytes of its answer, and answers in full once TLS stands. The packets of a dialogue are numbered, and this request
//! is one more than the driver knows of: numbers are put right until the server has let the client in; every later
//! command starts at 0. (MySQL internals manual, "Connection Phase".)
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::mpsc,
    thread,
};

use native_tls::{HandshakeError, TlsStream};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::target::{Encrypt, Tls};
use super::tls;

/// `CLIENT_SSL` of the capabilities.
const CAPABLE_OF_TLS: u16 = 0x0800;

/// What the client sends of its answer to ask for TLS: capabilities, packet size, character set, 23 bytes of filler.
const REQUEST: usize = 32;

/// The local end of a tunnel.
pub(super) struct Tunnel {
    /// Only its owner can open what is in it. Gone once the driver is connected.
    directory: TempDir,
    outcome: mpsc::Receiver<String>,
}

impl Tunnel {
    /// Starts a thread that waits for the driver and connects it through `server`, as `tls` says. `host` is what the
    /// server's certificate must name.
    pub(super) fn start(server: OwnedFd, tls: &Tls, host: &str) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("keymgr-").tempdir()?;
        let listener = UnixListener::bind(directory.path().join("s"))?;
        let (failed, outcome) = mpsc::channel();
        let (tls, host) = (tls.clone(), host.to_owned());
        thread::Builder::new().name("tls".to_owned()).spawn(move || {
            let carried = listener.accept().map_err(|why| why.to_string()).and_then(|(client, _)| {
                drop(listener);
                let ends = Ends { client, server: File::from(server) };
                ends.carry(&tls, &host)
            });
            // Whoever waited may be gone.
            carried.unwrap_or_else(|why| failed.send(why).unwrap_or_default());
        })?;
        Ok(Self { directory, outcome })
    }

    /// The socket that the driver is to connect to.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// Why there is no TLS, if that is why the driver failed.
    pub(super) fn failure(self) -> Option<String> {
        // The thread drops its end when it is done, which the driver has seen: this does not wait for long.
        self.outcome.recv().ok()
    }
}

struct Ends {
    client: UnixStream,
    server: File,
}

impl Ends {
    /// Carries until one end closes. The error is why no TLS came about; later ones are the driver's to see, as an
    /// end that closes.
    fn carry(mut self, tls: &Tls, host: &str) -> Result<(), String> {
        let Ok(greeting) = receive(&mut self.server) else { return Ok(()) };
        if send(&mut self.client, &greeting, 0).is_err() {
            return Ok(());
        }
        // An error instead of a greeting goes through as it is.
        let Some(capabilities) = capabilities(&greeting) else { return Ok(()) };
        if capabilities & CAPABLE_OF_TLS == 0 {
            if tls.encrypt == Encrypt::Always {
                return Err("the server does not offer it".to_owned());
            }
            pump(self.client, self.server).ok();
            return Ok(());
        }
        let Ok(mut answer) = receive(&mut self.client) else { return Ok(()) };
        let [_, _, _, _, _, high, ..] = answer.as_mut_slice() else { return Ok(()) };
        *high |= CAPABLE_OF_TLS.to_be_bytes()[0];
        if ask(&mut self.server, &answer).is_err() {
            return Ok(());
        }
        let mut server = tls::connector(tls)?.connect(host, self.server).map_err(|why| match why {
            HandshakeError::Failure(why) => tls::reason(&why),
            HandshakeError::WouldBlock(_) => "the server stopped in the middle".to_owned(),
        })?;
        match log_in(&mut self.client, &mut server, &answer) {
            Ok(true) => pump(self.client, server).unwrap_or_default(),
            Ok(false) => {}
            // What the server says of our certificate comes only now, if TLS is 1.3.
            Err(why) => return tls::alert(&why).map_or(Ok(()), Err),
        }
        Ok(())
    }
}

/// One packet: three bytes of length, its number, the body.
fn receive(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet)?;
    let length = match packet.as_slice() {
        &[low, middle, high, _] => u32::from_le_bytes([low, middle, high, 0]),
        _ => 0,
    };
    // Packets of this phase are small; one that is not is no MySQL.
    from.take(u64::from(length)).read_to_end(&mut packet)?;
    if packet.len() < 4 + usize::try_from(length).unwrap_or(usize::MAX) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(packet)
}

/// Sends a packet with its number changed by so much.
fn send(to: &mut impl Write, packet: &[u8], change: u8) -> io::Result<()> {
    let mut packet = packet.to_vec();
    if let Some(number) = packet.get_mut(3) {
        *number = number.wrapping_add(change);
    }
    to.write_all(&packet)?;
    to.flush()
}

/// The lower capabilities in a greeting: protocol version 10, the server's version up to a NUL, four bytes of
/// connection number, eight of salt, one of filler. `None` if it is something else.
fn capabilities(greeting: &[u8]) -> Option<u16> {
    let body = greeting.get(4..)?.strip_prefix(&[10])?;
    let version = body.iter().position(|byte| *byte == 0)?;
    let bytes = body.get(version + 1 + 4 + 8 + 1..)?;
    Some(u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]))
}

/// Asks for TLS: a packet of the same number as the answer's.
fn ask(server: &mut File, answer: &[u8]) -> io::Result<()> {
    let head = answer.get(4..4 + REQUEST).ok_or(io::ErrorKind::InvalidData)?;
    let mut packet = vec![REQUEST.to_le_bytes()[0], 0, 0, *answer.get(3).unwrap_or(&1)];
    packet.extend_from_slice(head);
    server.write_all(&packet)
}

/// Hands the answer over, and then packet by packet until the server says yes or no; returns whether it was yes.
fn log_in(client: &mut UnixStream, server: &mut TlsStream<File>, answer: &[u8]) -> io::Result<bool> {
    send(server, answer, 1)?;
    loop {
        let said = receive(server)?;
        send(client, &said, u8::MAX)?;
        match said.get(4..).unwrap_or_default() {
            [0x00, ..] => return Ok(true),
            [0xff, ..] => return Ok(false),
            // caching_sha2_password: what was sent is enough, the yes follows.
            [0x01, 0x03] => {}
            _ => send(server, &receive(client)?, 1)?,
        }
    }
}

/// A stream to the server: with TLS or without.
trait Server: Read + Write {
    fn file(&self) -> &File;
}

impl Server for File {
    fn file(&self) -> &File {
        self
    }
}

impl Server for TlsStream<File> {
    fn file(&self) -> &File {
        self.get_ref()
    }
}

/// Carries bytes both ways until one end closes.
fn pump(mut client: UnixStream, mut server: impl Server) -> io::Result<()> {
    // A TLS record need not hold data, and a wait for some would be for ever.
    let flags = rustix::fs::fcntl_getfl(server.file())?;
    rustix::fs::fcntl_setfl(server.file(), flags | rustix::fs::OFlags::NONBLOCK)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let asked = {
            let mut ends =
                [PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(server.file().as_fd(), PollFlags::POLLIN)];
            wait(&mut ends)?;
            ends[0].any().unwrap_or(true)
        };
        if asked {
            match client.read(&mut buffer)? {
                0 => return Ok(()),
                length => write_all(&mut server, buffer.get(..length).unwrap_or_default())?,
            }
        }
        loop {
            match server.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => client.write_all(buffer.get(..length).unwrap_or_default())?,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
    }
}

fn write_all(server: &mut impl Server, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match server.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                wait(&mut [PollFd::new(server.file().as_fd(), PollFlags::POLLOUT)])?;
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    server.flush()
}

fn wait(ends: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(ends, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use native_tls::{Identity, TlsAcceptor};
    use secrecy::SecretString;

    use super::{super::Wire, *};
    use crate::{db::Url, servers};

    const PASSWORD: &[u8] = b"pass/word\0";

    /// MariaDB has no `caching_sha2_password`, so here is MySQL 8's side of it up to the first command: the greeting,
    /// the request, the answer, and either "that will do" or "send the password", which TLS lets the client do.
    fn mysql_8(listener: &TcpListener, acceptor: &TlsAcceptor, will_do: bool) -> Vec<u8> {
        let packet = |number: u8, body: &[u8]| [&[body.len().to_le_bytes()[0], 0, 0, number], body].concat();
        let (mut stream, _) = listener.accept().unwrap();
        let greeting = [
            &b"\x0a8.0.36\0\x07\0\0\0saltsalt\0\x09\xaa\x2d\x02\0\x18\0\x15"[..],
            &[0; 10],
            b"saltsaltsalt\0caching_sha2_password\0",
        ];
        stream.write_all(&packet(0, &greeting.concat())).unwrap();
        let request = receive(&mut stream).unwrap();
        assert_eq!((request.len(), request[3]), (4 + REQUEST, 1));
        let mut stream = acceptor.accept(stream).unwrap();
        let answer = receive(&mut stream).unwrap();
        // What it asked for is what it then says.
        assert_eq!((answer[3], &answer[4..36]), (2, &request[4..]));
        let yes = b"\0\0\0\x02\0\0\0";
        if will_do {
            stream.write_all(&packet(3, b"\x01\x03")).unwrap();
            stream.write_all(&packet(4, yes)).unwrap();
        } else {
            stream.write_all(&packet(3, b"\x01\x04")).unwrap();
            let password = receive(&mut stream).unwrap();
            assert_eq!((password[3], &password[4..]), (4, PASSWORD));
            stream.write_all(&packet(5, yes)).unwrap();
        }
        receive(&mut stream).unwrap()
    }

    #[test]
    fn caching_sha2_password() {
        let server = servers::mariadb();
        let read = |name: &str| std::fs::read(server.tls(name)).unwrap();
        let identity = Identity::from_pkcs8(&read("server.pem"), &read("server.key")).unwrap();
        let acceptor = TlsAcceptor::new(identity).unwrap();
        for will_do in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let acceptor = acceptor.clone();
            let seen = thread::spawn(move || mysql_8(&listener, &acceptor, will_do));
            let ca = server.tls("ca.pem");
            let url = format!("mysql+pymysql://u:pass%2Fword@localhost:{port}/d?ssl_ca={ca}");
            // It hangs up at the first command, which starts a new dialogue.
            let url = Url::parse(&SecretString::from(url)).unwrap();
            Wire::connect(&url, "keymgr-test", Duration::from_secs(20)).unwrap_err();
            let command = seen.join().unwrap();
            assert_eq!((command[3], command[4]), (0, 3), "{command:?}");
        }
    }
}
