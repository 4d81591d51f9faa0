//! Who else works with the database: the sessions on it that are not ours, and whether they come from this host.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, ToSocketAddrs as _},
    time::Duration,
};

use super::{
    Dialect, Error, Result, Url,
    direct::{is_galera, text},
    lock::{READER, WRITER, is_marked},
    wire::{Row, Wire},
};

/// Where a session comes from, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    /// A unix socket on the server's host.
    Socket,
    /// An address.
    Address(IpAddr),
    /// A name, which the server looked up (MySQL without `skip_name_resolve`).
    Name(String),
    /// The server does not tell us.
    Hidden,
}

/// Where a session comes from, as it matters to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This host.
    Here,
    /// Another one.
    Host(String),
    /// Whatever is in between us and the server: this host, or any other.
    Proxy(String),
    /// It cannot be told.
    Hidden,
}

impl Origin {
    /// The other host, where it is known.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Host(name) => Some(name),
            Self::Here | Self::Proxy(_) | Self::Hidden => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("this host"),
            Self::Host(name) => f.write_str(name),
            Self::Proxy(address) => write!(f, "{address}, as we do"),
            Self::Hidden => f.write_str("a host that we may not see"),
        }
    }
}

/// A session that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The server's number of it.
    pub id: u64,
    /// Its user.
    pub user: String,
    /// Where it comes from.
    pub from: Origin,
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} of {} from {}", self.id, self.user, self.from)
    }
}

/// The sessions on the database that are not ours, as far as they can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visitors {
    /// All that are seen.
    pub all: Vec<Visitor>,
    /// What cannot be looked at, where a session may be that matters: nodes of the cluster.
    pub unseen: Vec<String>,
    /// Whose sessions are not shown to us, and what to grant.
    pub hidden: Option<String>,
}

impl Visitors {
    /// Those that are not from this host for sure.
    pub fn foreign(&self) -> impl Iterator<Item = &Visitor> {
        self.all.iter().filter(|v| v.from != Origin::Here)
    }

    /// `10.0.0.12 (3), 10.0.0.13 (2)`.
    #[must_use]
    pub fn places<'a>(visitors: impl Iterator<Item = &'a Visitor>) -> String {
        let mut counts: BTreeMap<&Origin, usize> = BTreeMap::new();
        for visitor in visitors {
            *counts.entry(&visitor.from).or_default() += 1;
        }
        let words: Vec<String> = counts.iter().map(|(from, n)| format!("{from} ({n})")).collect();
        words.join(", ")
    }
}

/// The addresses of this host.
pub type Addresses = BTreeSet<IpAddr>;

/// Looks at the sessions, and where there are any that `goes` says have to go, once more and again, up to `looks` times in all, five in a second:
/// those that are about to end, our own that were closed just now among them, are not meant.
pub fn visitors(
    url: &Url,
    addresses: &Addresses,
    goes: impl Fn(&Visitor) -> bool,
    looks: usize,
    wait: Duration,
) -> Result<Visitors> {
    let wire = Wire::connect(url, READER, wait)?;
    let mut looked = 0;
    loop {
        let found = look(&wire, url, addresses, wait)?;
        looked += 1;
        if !found.all.iter().any(&goes) || looked >= looks {
            return Ok(found);
        }
        wire.query(if wire.dialect() == Dialect::Postgresql { "SELECT pg_sleep(0.2)" } else { "SELECT SLEEP(0.2)" })?;
    }
}

fn look(wire: &Wire, url: &Url, addresses: &Addresses, wait: Duration) -> Result<Visitors> {
    if wire.dialect() == Dialect::Postgresql {
        return postgresql(wire, url, addresses);
    }
    let mut found = Visitors { hidden: process_privilege(wire)?, ..Visitors::default() };
    found.all = mysql(wire, url, addresses)?;
    if is_galera(wire)? {
        other_nodes(wire, url, addresses, wait, &mut found)?;
    }
    Ok(found)
}

/// Each node shows its own sessions only.
fn other_nodes(wire: &Wire, url: &Url, addresses: &Addresses, wait: Duration, found: &mut Visitors) -> Result<()> {
    let status = |name: &str| -> Result<String> {
        let rows = wire.query(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        Ok(text(&rows, 1).unwrap_or_default().to_owned())
    };
    let size: usize = status("wsrep_cluster_size")?.parse().unwrap_or(usize::MAX);
    let list = status("wsrep_incoming_addresses")?;
    let me = status("wsrep_cluster_state_uuid")?;
    let nodes: Vec<&str> = list.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    if nodes.len() != size {
        found.unseen.push(format!("{size} nodes are in the cluster, and {} addresses are told", nodes.len()));
    }
    let own = status("wsrep_local_index")?;
    for (_, node) in nodes.into_iter().enumerate().filter(|(index, _)| index.to_string() != own) {
        let look = || -> Result<Vec<Visitor>> {
            let other = url.at(node).ok_or_else(|| Error::Url(format!("{node} is no address")))?;
            let wire = Wire::connect(&other, READER, wait)?;
            let rows = wire.query("SHOW GLOBAL STATUS LIKE 'wsrep_cluster_state_uuid'")?;
            if text(&rows, 1) != Some(me.as_str()) {
                return Err(Error::Url(format!("{node} is of another cluster")));
            }
            mysql(&wire, &other, addresses)
        };
        match look() {
            Ok(more) => found.all.extend(more),
            Err(why) => found.unseen.push(format!("Galera node {node}: {why}")),
        }
    }
    Ok(())
}

fn postgresql(wire: &Wire, url: &Url, addresses: &Addresses) -> Result<Visitors> {
    // Before PostgreSQL 10 there is no backend_type, and only clients are listed. Rows of users that we may not look at
    // have neither that nor an address, but process, user and name.
    let rows = wire.query(
        "SELECT pid, usename, coalesce(application_name, ''), host(client_addr), client_port, pid = pg_backend_pid() \
         FROM pg_stat_activity AS a WHERE datname = current_database() \
         AND coalesce(to_jsonb(a) ->> 'backend_type', 'client backend') = 'client backend' ORDER BY pid",
    )?;
    let mut own = Peer::Hidden;
    let mut others = Vec::new();
    for row in &rows {
        let [Some(pid), user, Some(name), address, port, Some(me)] = row.as_slice() else { continue };
        let peer = match (address.as_deref().and_then(|a| a.parse().ok()), port.as_deref()) {
            (Some(address), _) => Peer::Address(address),
            (None, Some("-1")) => Peer::Socket,
            _ => Peer::Hidden,
        };
        let id = pid.parse().unwrap_or_default();
        if me == "t" {
            own = peer;
        } else if name == WRITER || !name.starts_with(READER) {
            others.push((id, user.clone().unwrap_or_else(|| "an unknown user".to_owned()), peer));
        }
    }
    let hidden = others
        .iter()
        .any(|(_, _, peer)| *peer == Peer::Hidden)
        .then(|| "where the sessions of other users come from; GRANT pg_read_all_stats to ours shows it".to_owned());
    let all = others.into_iter().map(|(id, user, peer)| {
        let from = place(&peer, &own, &server_name(url), addresses);
        Visitor { id, user, from }
    });
    Ok(Visitors { all: all.collect(), unseen: Vec::new(), hidden })
}

fn mysql(wire: &Wire, url: &Url, addresses: &Addresses) -> Result<Vec<Visitor>> {
    let me = wire.session_id()?;
    let database = wire.query("SELECT DATABASE()")?;
    // MariaDB tells no database of a session that it finds busy with itself. In a moment it does.
    let busy = |row: &Row| row.get(3).is_some_and(|db| db.as_deref() == Some(""));
    let mut rows = wire.query("SHOW FULL PROCESSLIST")?;
    for _ in 0..20 {
        if !rows.iter().any(busy) {
            break;
        }
        wire.query("SELECT SLEEP(0.02)")?;
        rows = wire.query("SHOW FULL PROCESSLIST")?;
    }
    let mut own = Peer::Hidden;
    let mut others = Vec::new();
    for row in &rows {
        let [Some(id), user, host, db, ..] = row.as_slice() else { continue };
        let id = id.parse().unwrap_or_default();
        let peer = mysql_peer(host.as_deref().unwrap_or_default());
        if id == me {
            own = peer;
        } else if (busy(row) || db.as_deref() == text(&database, 0)) && !is_marked(wire, id)? {
            others.push((id, user.clone().unwrap_or_default(), peer));
        }
    }
    let server = server_name(url);
    let all = others.into_iter().map(|(id, user, peer)| {
        let from = place(&peer, &own, &server, addresses);
        Visitor { id, user, from }
    });
    Ok(all.collect())
}

/// `10.0.0.12:4711`, `ctl2:4711`, `::1:4711` without brackets, or `localhost` for a unix socket.
fn mysql_peer(host: &str) -> Peer {
    let Some((name, port)) = host.rsplit_once(':') else {
        return if host == "localhost" { Peer::Socket } else { Peer::Hidden };
    };
    if port.parse::<u16>().is_err() {
        return Peer::Hidden;
    }
    match name.parse() {
        Ok(address) => Peer::Address(address),
        Err(_) => Peer::Name(name.to_owned()),
    }
}

/// The server's host, for sessions that come from there.
fn server_name(url: &Url) -> String {
    url.host().unwrap_or("localhost").to_owned()
}

/// Where `peer` is, seen from us, whom the server sees as `own`.
///
/// A unix socket and a loopback address are on the server's host; that is ours if we come that way too.
fn place(peer: &Peer, own: &Peer, server: &str, addresses: &Addresses) -> Origin {
    let ours = |all: &[IpAddr]| all.iter().any(|a| addresses.contains(a));
    match peer {
        Peer::Hidden => Origin::Hidden,
        _ if peer.is_local() && (own.is_local() || ours(&resolved(server))) => Origin::Here,
        _ if peer.is_local() => Origin::Host(server.to_owned()),
        _ if ours(&peer.addresses()) => Origin::Here,
        // We do not have this address either: somebody in between does.
        _ if peer == own => Origin::Proxy(peer.to_string()),
        _ => Origin::Host(peer.to_string()),
    }
}

/// Where a session of MySQL is from, by the host that the process list tells: what is local there need not be so for us.
pub(super) fn mysql_place(host: &str) -> String {
    let peer = mysql_peer(host);
    if peer.is_local() { "the server's own host".to_owned() } else { peer.to_string() }
}

impl Peer {
    /// On the server's own host.
    fn is_local(&self) -> bool {
        *self == Self::Socket || self.addresses().iter().any(IpAddr::is_loopback)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Address(address) => vec![*address],
            Self::Name(name) => resolved(name),
            Self::Socket | Self::Hidden => Vec::new(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Socket => f.write_str("a unix socket"),
            Self::Hidden => f.write_str("unknown"),
        }
    }
}

fn resolved(name: &str) -> Vec<IpAddr> {
    (name, 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default()
}

/// Without PROCESS only the sessions of our own user are shown.
fn process_privilege(wire: &Wire) -> Result<Option<String>> {
    let grants = wire.query("SHOW GRANTS")?;
    let all = grants.iter().flatten().flatten().any(|line| {
        line.split_once(" ON *.* ").is_some_and(|(what, _)| {
            what.trim_start_matches("GRANT ").split(", ").any(|one| matches!(one, "PROCESS" | "ALL PRIVILEGES"))
        })
    });
    Ok((!all).then(|| "the sessions of other users than ours; GRANT PROCESS ON *.* shows them".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> Addresses {
        all.iter().map(|a| a.parse().unwrap()).collect()
    }

    fn peer(text: &str) -> Peer {
        mysql_peer(text)
    }

    #[test]
    fn a_local_session_is_from_where_the_server_is() {
        for host in ["localhost", "127.0.0.1:4711"] {
            assert_eq!(mysql_place(host), "the server's own host");
        }
        assert_eq!(mysql_place("10.0.0.12:4711"), "10.0.0.12");
    }

    #[test]
    fn peers_as_mysql_shows_them() {
        assert_eq!(peer("10.0.0.12:4711"), Peer::Address("10.0.0.12".parse().unwrap()));
        assert_eq!(peer("fd00::12:4711"), Peer::Address("fd00::12".parse().unwrap()));
        assert_eq!(peer("ctl2.example:4711"), Peer::Name("ctl2.example".to_owned()));
        assert_eq!(peer("localhost"), Peer::Socket);
        assert_eq!(peer(""), Peer::Hidden);
    }

    #[test]
    fn places() {
        let here = addresses(&["127.0.0.1", "10.0.0.11"]);
        let at = |text: &str, own: &str, server: &str| place(&peer(text), &peer(own), server, &here);
        let host = |name: &str| Origin::Host(name.to_owned());
        // The server is elsewhere, and sees us as we are.
        assert_eq!(at("10.0.0.11:1", "10.0.0.11:2", "10.0.0.9"), Origin::Here);
        assert_eq!(at("10.0.0.12:1", "10.0.0.11:2", "10.0.0.9"), host("10.0.0.12"));
        assert_eq!(at("localhost", "10.0.0.11:2", "10.0.0.9"), host("10.0.0.9"));
        assert_eq!(at("127.0.0.1:1", "10.0.0.11:2", "10.0.0.9"), host("10.0.0.9"));
        // It is here.
        assert_eq!(at("127.0.0.1:1", "localhost", "localhost"), Origin::Here);
        assert_eq!(at("localhost", "127.0.0.1:2", "127.0.0.1"), Origin::Here);
        assert_eq!(at("localhost", "10.0.0.11:2", "10.0.0.11"), Origin::Here);
        assert_eq!(at("10.0.0.12:1", "localhost", "localhost"), host("10.0.0.12"));
        // A proxy is in between: what comes from it may be anybody's.
        assert_eq!(at("10.0.0.5:1", "10.0.0.5:2", "10.0.0.5"), Origin::Proxy("10.0.0.5".to_owned()));
        assert_eq!(at("", "10.0.0.11:2", "10.0.0.9"), Origin::Hidden);
    }
}
