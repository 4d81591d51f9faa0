//! `barbican-api-paste.ini`: what a pipeline is, and what each release of
//! Barbican asks of it.
//!
//! A site's file is edited, never replaced: see [`Rule`]. Filters are known
//! by their factory and not by the name of their section, pipelines by the
//! app they end in; targets of a composite are never changed. PasteDeploy
//! loads only what is reachable from `main`, and so [`check`] judges no more.
//!
//! The dialect is that of the Python which runs the code installed at the
//! time: [`Dialect::Paste2`] or [`Dialect::Paste3`].

mod check;
mod model;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ini::{Dialect, Document, Error};

pub use check::{Problem, ProblemKind, Severity, V1, check, facts, v1_access};

/// An edit of the paste file that a release of Barbican asks for. Every rule
/// leaves alone what is there already, so it can be applied any number of
/// times, and several at once give the text that one after the other gives,
/// in the order of the releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// 2014.2: the authtoken factory moves from keystoneclient to
    /// keystonemiddleware.
    AuthtokenFactory,
    /// 2015.1: `auth_protocol`, `auth_host` and `auth_port` of the authtoken
    /// filter become `identity_uri`. Left alone unless all three are there:
    /// the rest could come from barbican.conf.
    IdentityUri,
    /// 2.0.0: cors first in every pipeline.
    Cors,
    /// 4.0.0: `http_proxy_to_wsgi` behind cors.
    HttpProxyToWsgi,
    /// 12.0.0: an app for `/healthcheck` beside `/v1`.
    Healthcheck,
    /// 15.0.0: microversion behind the context filter, or before the version
    /// app.
    Microversion,
    /// 22.0.0: `request_id` behind cors.
    RequestId,
    /// 22.0.0: the profile pipeline and filter go, where they are as shipped.
    DropProfile,
}

/// The rules in the order of the releases that brought them.
pub const RULES: [Rule; 8] = [
    Rule::AuthtokenFactory,
    Rule::IdentityUri,
    Rule::Cors,
    Rule::HttpProxyToWsgi,
    Rule::Healthcheck,
    Rule::Microversion,
    Rule::RequestId,
    Rule::DropProfile,
];

/// What a rule did, in words. Holds names of sections, filters and options,
/// never the value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The section that was changed, added or removed.
    pub section: String,
    /// What was done to it.
    pub text: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.section, self.text)
    }
}

impl Rule {
    /// Edits the document as the release asks and tells what was done; an
    /// empty answer means that nothing was to do.
    ///
    /// # Errors
    /// The reader refuses the file. The document is then unchanged.
    pub fn apply(self, document: &mut Document, dialect: Dialect) -> Result<Vec<Change>, Error> {
        let mut next = document.clone();
        let changes = match self {
            Rule::AuthtokenFactory => rules::authtoken_factory(&mut next, dialect),
            Rule::IdentityUri => rules::identity_uri(&mut next, dialect),
            Rule::Cors => rules::add_filter(&mut next, dialect, &rules::CORS),
            Rule::HttpProxyToWsgi => rules::add_filter(&mut next, dialect, &rules::HTTP_PROXY),
            Rule::Healthcheck => rules::healthcheck(&mut next, dialect),
            Rule::Microversion => rules::add_filter(&mut next, dialect, &rules::MICROVERSION),
            Rule::RequestId => rules::add_filter(&mut next, dialect, &rules::REQUEST_ID),
            Rule::DropProfile => rules::drop_profile(&mut next, dialect),
        }?;
        *document = next;
        Ok(changes)
    }
}
