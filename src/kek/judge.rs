//! KEKs judged many at a time: what can be told offline, what the token is asked, and how the two go on side by side.

use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};

use super::meta::KekMeta;
use super::{Keys, Offline, P11_CRYPTO, SimpleKeys, Verdict, hex, judge_offline, misfit};
use crate::db::{Cursor, Database, KekRow, Kind};
use crate::hsm::{Fit, Hsm, Signature};
use crate::progress::Pace;

/// How many pages are under way at most: one at the token, one made ready, one answered.
const AHEAD: usize = 3;

/// What was found out about a KEK.
#[derive(Debug)]
pub struct Judged {
    /// Its state.
    pub verdict: Verdict,
    /// The text of an [`Verdict::Old`] row with the signature that Mitaka and later make.
    renewed: Option<Result<String>>,
}

impl Judged {
    fn as_it_is(verdict: Verdict) -> Self {
        Self { verdict, renewed: None }
    }

    /// The `plugin_meta` of an [`Verdict::Old`] row with a signature as Mitaka and later make it. Nothing else of the text changes but its spaces.
    ///
    /// # Errors
    /// The row is not `Old`; the token does not let its key sign.
    pub fn renewed(self, row: &KekRow) -> Result<String> {
        match self.renewed {
            Some(renewed) => renewed.with_context(|| format!("KEK {}", row.id)),
            None => bail!("KEK {} is {}, only an old signature is made anew", row.id, self.verdict.name()),
        }
    }
}

/// `signature`: none where the token does not let the key sign.
fn renewed(meta: KekMeta, signature: Option<Vec<u8>>) -> Result<String> {
    let refused = || format!("the token does not let key {:?} sign; set its CKA_SIGN", meta.hmac_label);
    let signature = signature.with_context(refused)?;
    meta.with_hmac(&signature).context("writing its plugin_meta")
}

/// KEKs judged as far as that goes without the token, and what is to be asked of it. The signature rule: first over what Mitaka and later sign, and
/// where that is bad and there is an iv, over the wrapped key alone.
#[derive(Debug)]
pub struct Questions {
    judged: Vec<Judged>,
    /// Those of them that wait for an answer, with what their rows say.
    waiting: Vec<(usize, Box<KekMeta>)>,
    signatures: Vec<Signature>,
}

impl Questions {
    /// About these rows. `token`: there is one to be asked; `simple`: the simple_crypto keys, if the site has any.
    #[must_use]
    pub fn about(rows: &[KekRow], token: bool, simple: Option<&SimpleKeys>) -> Self {
        let mut judged = Vec::with_capacity(rows.len());
        let (mut waiting, mut signatures) = (Vec::new(), Vec::new());
        for row in rows {
            judged.push(match judge_offline(row, token, simple) {
                Offline::Verdict(verdict) => Judged::as_it_is(verdict),
                Offline::Signed(meta) => {
                    let mut over = vec![meta.signed_data()];
                    if meta.kek.iv.as_ref().is_some_and(|iv| !iv.is_empty()) {
                        over.push(meta.kek.wrapped_key.clone());
                    }
                    let (hmac_label, signature) = (meta.hmac_label.clone(), meta.hmac.clone());
                    signatures.push(Signature { hmac_label, over, signature });
                    waiting.push((judged.len(), meta));
                    Judged::as_it_is(Verdict::Unreadable { why: "the token gave no answer".to_owned() })
                }
            });
        }
        Self { judged, waiting, signatures }
    }

    /// The states of all rows, in their order, ready to be signed anew; the token is asked in one batch.
    ///
    /// # Errors
    /// Trouble with the token that says nothing about a row.
    pub fn ask(self, hsm: Option<&mut Hsm>) -> Result<Vec<Judged>> {
        let Self { mut judged, waiting, signatures } = self;
        if waiting.is_empty() {
            return Ok(judged);
        }
        let hsm = hsm.context("no token is open")?;
        let mechanism = hsm.hmac_mechanism();
        for ((index, meta), fit) in waiting.into_iter().zip(hsm.fit_all(signatures)?) {
            let Some(judged) = judged.get_mut(index) else { continue };
            *judged = match fit {
                Fit::Over { index: 0, .. } => Judged::as_it_is(Verdict::Good),
                Fit::Over { first, .. } => Judged { verdict: Verdict::Old, renewed: Some(renewed(*meta, first)) },
                Fit::None => Judged::as_it_is(Verdict::Unreadable { why: misfit(&meta, mechanism) }),
                Fit::KeyMissing { label } => Judged::as_it_is(Verdict::KeyMissing { label }),
            };
        }
        Ok(judged)
    }
}

/// Which KEKs are gone through, and how their text is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Those of p11_crypto, as they are.
    P11,
    /// All; hexadecimal text as what it stands for.
    All,
}

impl Choice {
    /// The next of them; none at the end.
    fn page(self, database: &Database, cursor: &mut Cursor) -> Result<Vec<KekRow>> {
        loop {
            let mut rows = database.kek_page(cursor)?;
            if rows.is_empty() || self == Self::All {
                return Ok(rows);
            }
            rows.retain(|row| row.plugin_name == P11_CRYPTO);
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    fn questions(self, rows: &[KekRow], token: bool, simple: Option<&SimpleKeys>) -> Questions {
        match self {
            Self::P11 => Questions::about(rows, token, simple),
            Self::All => Questions::about(&hex::plain_keks(rows), token, simple),
        }
    }
}

/// Hands over KEKs page by page with what was found out about them, as long as `each` wants more. While the token is asked about a page, `each`
/// works on the one before, and what to ask about the next is made ready; only the first, which is short, is waited for.
///
/// # Errors
/// The database cannot be read; trouble with the token that says nothing about a row; the error of `each`.
pub fn each_judged(
    which: Choice,
    database: &mut Database,
    keys: &mut Keys,
    mut each: impl FnMut(&mut Database, Vec<(KekRow, Judged)>) -> Result<bool>,
) -> Result<()> {
    let Keys { hsm, simple, .. } = keys;
    let (token, simple) = (hsm.is_some(), simple.as_ref());
    let unasked = || anyhow!("the token could not be asked");
    thread::scope(|scope| {
        // What is under way is counted, so none of these grows. Each thread ends when it has nobody left to listen to, or to tell.
        let ((read, rows), (ready, questions), (answer, judged)) = (channel(), channel(), channel());
        scope.spawn(move || {
            let ask_about = |page: Vec<KekRow>| (which.questions(&page, token, simple), page);
            rows.into_iter().map(ask_about).try_for_each(|asked| ready.send(asked))
        });
        scope.spawn(move || {
            for (questions, page) in questions {
                let asked = questions.ask(hsm.as_mut());
                let over = asked.is_err();
                let page = asked.map(|judged| page.into_iter().zip(judged).collect::<Vec<_>>());
                if answer.send(page).is_err() || over {
                    break;
                }
            }
        });
        let (mut cursor, mut pace, mut under_way, mut ahead) = (Cursor::default(), Pace::begin(), 0, 1);
        loop {
            while under_way < ahead {
                let page = which.page(database, &mut cursor)?;
                if page.is_empty() {
                    break;
                }
                read.send(page).map_err(|_| unasked())?;
                under_way += 1;
            }
            if under_way == 0 {
                return Ok(());
            }
            let page = judged.recv().map_err(|_| unasked())??;
            pace.add(page.len(), || database.rows_of(Kind::Keks).ok());
            if !each(database, page)? {
                return Ok(());
            }
            under_way -= 1;
            ahead = AHEAD;
        }
    })
}
