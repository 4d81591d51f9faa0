//! The catalogue as a whole: every folder of `migrations/`, and every item it has to cover.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keymgr_upgrade::release::{Catalogue, FILES};

fn catalogue() -> &'static Catalogue {
    Catalogue::embedded().expect("every release.toml parses")
}

#[test]
fn every_folder_is_one_release() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(base).expect("migrations/") {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            folders.insert(entry.file_name().into_string().expect("UTF-8"));
        }
    }
    let ids: BTreeSet<String> = catalogue().releases().iter().map(|r| r.id.clone()).collect();
    assert_eq!(folders, ids);
    assert_eq!(ids.len(), 25);
    let embedded = FILES.iter().filter(|(path, _)| path.ends_with("/release.toml")).count();
    assert_eq!(embedded, 25);
}
