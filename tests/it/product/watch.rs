//! What systemd and dpkg did, as systemd's journal has it.

use serde_json::Value;

use super::{RDO, UNITS};

/// What the journal says of a unit or a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// systemd begins to start the unit, or has started it.
    Starting,
    Started,
    /// systemd begins to stop it, or it has ended, also by itself.
    Stopping,
    Stopped,
    /// A process of the unit wrote a line.
    Wrote,
    /// A status line of dpkg: `processing: upgrade: barbican-api`, `status: barbican-api: installed`; scriptlets of the rpms write such lines too.
    Dpkg,
}

/// One entry of the journal.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Microseconds since the epoch.
    pub(crate) at: u64,
    pub(crate) what: What,
    /// The unit; for dpkg the package.
    pub(crate) of: String,
    pub(crate) message: String,
}

/// The entries of the journal that are of interest here, in their order.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) events: Vec<Event>,
}

/// The `MESSAGE_ID`s of systemd-messages.h, and what they say.
const MESSAGES: [(&str, What); 6] = [
    ("7d4958e842da4a758f6c1cdc7b36dcc5", What::Starting),
    ("39f53479d3a045ac8e11786248231fbf", What::Started),
    ("de5b426a63be47a7b6ac3eaac82e2f6f", What::Stopping),
    ("9d1aaa27d60140bd96365438aad20286", What::Stopped),
    // Failed to start; entered the failed state.
    ("be02cf6855d2428ba40df7e9d022f03d", What::Stopped),
    ("d9b373ed55a64feb8242e02dbe79a49c", What::Stopped),
];

impl Watch {
    /// Reads what `journalctl -o json` printed.
    pub(crate) fn of(journal: &str) -> Self {
        let mut events: Vec<Event> =
            journal.lines().filter_map(|line| event(&serde_json::from_str(line).unwrap())).collect();
        events.sort_by_key(|event| event.at);
        Self { events }
    }

    /// Those of this kind that concern this unit or package, whose message contains this.
    pub(crate) fn all<'a>(&'a self, what: &'a What, of: &'a str, text: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |e| e.what == *what && e.of == of && e.message.contains(text))
    }

    /// When dpkg began to unpack the first of Barbican's packages that it unpacked after `since`.
    #[track_caller]
    pub(crate) fn first_unpack(&self, since: u64) -> u64 {
        let mut found = self.events.iter().filter(|e| {
            e.what == What::Dpkg && e.at >= since && e.of.contains("barbican") && e.message.ends_with("half-installed")
        });
        found.next().unwrap_or_else(|| panic!("nothing was unpacked:\n{self}")).at
    }

    /// When dpkg said the last thing about Barbican's packages.
    #[track_caller]
    pub(crate) fn packages_done(&self) -> u64 {
        let mut found = self.events.iter().rev().filter(|e| e.what == What::Dpkg && e.of.contains("barbican"));
        found.next().unwrap_or_else(|| panic!("dpkg did nothing:\n{self}")).at
    }

    /// Nothing of Barbican ran from the first unpacking after `began` until the packages were done.
    #[track_caller]
    pub(crate) fn expect_down_in_package_work(&self, began: u64) {
        let ran = self.ran_between(self.first_unpack(began), self.packages_done());
        assert!(ran.is_empty(), "{ran:#?}\n{self}");
    }

    /// What shows that a unit of Barbican ran at any time from `from` to `to`.
    pub(crate) fn ran_between(&self, from: u64, to: u64) -> Vec<String> {
        watched().flat_map(|unit| self.unit_ran(unit, from, to)).collect()
    }

    fn unit_ran(&self, unit: &str, from: u64, to: u64) -> Vec<String> {
        let of_unit = || self.events.iter().filter(|e| e.of == unit && e.what != What::Dpkg);
        let mut found = Vec::new();
        // As it was when the time began.
        if let Some(last) = of_unit().rfind(|e| e.at < from && e.what != What::Wrote)
            && last.what != What::Stopped
        {
            found.push(format!("{unit} was not stopped before: {last:?}"));
        }
        let within = of_unit().filter(|e| e.at >= from && e.at < to);
        found.extend(within.filter(|e| e.what != What::Stopped).map(|e| format!("{e:?}")));
        found
    }
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.events.iter().try_for_each(|e| writeln!(f, "{} {:?} {} {}", e.at, e.what, e.of, e.message))
    }
}

/// Barbican's units under both of their names.
fn watched() -> impl Iterator<Item = &'static str> {
    UNITS.into_iter().chain(RDO)
}

fn event(entry: &Value) -> Option<Event> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let at = text("__REALTIME_TIMESTAMP").parse().unwrap();
    let message = text("MESSAGE").to_owned();
    if ["dpkg", "rpm"].contains(&text("SYSLOG_IDENTIFIER")) && text("_SYSTEMD_UNIT") != "init.scope" {
        // "status: PACKAGE: STATE", "status: PACKAGE:ARCHITECTURE: STATE", "processing: ACTION: PACKAGE"
        let mut words = message.split(": ");
        let of = if words.next() == Some("processing") { words.nth(1) } else { words.next() }?.to_owned();
        return Some(Event { at, what: What::Dpkg, of, message });
    }
    if let Some((_, what)) = MESSAGES.iter().find(|(id, _)| text("MESSAGE_ID") == *id)
        && watched().any(|unit| unit == text("UNIT"))
        && text("_PID") == "1"
    {
        // What is passed over for a condition has the same id as a start, and starts nothing; the words are those of systemd 252 and 257.
        if ["was skipped because of an unmet condition", " skipped, unmet condition check"]
            .iter()
            .any(|w| message.contains(w))
        {
            return None;
        }
        return Some(Event { at, what: what.clone(), of: text("UNIT").to_owned(), message });
    }
    let of = watched().find(|unit| *unit == text("_SYSTEMD_UNIT"))?.to_owned();
    Some(Event { at, what: What::Wrote, of, message })
}
