//! One controller whose packages come by dnf. No network is needed: Ansible's shell is one inside the container.

use std::process::{Command, Stdio};

use super::lab::{ansible, collection};
use super::recap;
use crate::common::{Said, said};
use crate::product::{Product, RDO, rpm_host};
use crate::rpm::packed;

const SHELL: &str = "shell-of-the-host";

/// The playbook, on this host.
fn play(host: &Product, place: &std::path::Path) -> Said {
    use std::os::unix::fs::PermissionsExt as _;
    collection(place);
    let shell = place.join(SHELL);
    std::fs::write(&shell, format!("#!/bin/sh\nexec {} /bin/sh \"$@\"\n", host.machine.enter().join(" "))).unwrap();
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Inside, Ansible calls it by the same name.
    host.ok(&format!("mkdir -p {} && ln -sf /bin/sh {}", place.display(), shell.display()));
    let settings = r#"{"keymgr_upgrade_hosts": "all", "keymgr_upgrade_to": "2023.1", "keymgr_upgrade_packages": "dnf",
        "ansible_python_interpreter": "/usr/bin/python3"}"#;
    let mut command = Command::new(ansible().join("venv/bin/ansible-playbook"));
    command
        .args(["-i", "ctl1,", "-c", "local", "keymgr.upgrade.upgrade", "-e", settings])
        .current_dir(place)
        .env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", place).env("LC_ALL", "C.UTF-8");
    command.env("ANSIBLE_COLLECTIONS_PATH", place).env("ANSIBLE_PIPELINING", "True").env("ANSIBLE_EXECUTABLE", shell);
    said(command.stdin(Stdio::null()))
}

#[test]
#[ignore = "minutes: make test-slow"]
fn a_playbook_has_dnf_install_what_the_run_waits_for() {
    let host = rpm_host();
    host.ok("/srv/lab/from-bullseye");
    host.ok(&format!("systemctl restart {}", RDO[0]));
    packed(&host.path("/opt/tool"), &[]);
    let _ = host.run("rpm -U /opt/tool/RPMS/*/*.rpm").expect(0);
    let repository = "[next]\nname = next\nbaseurl = file:///srv/lab/rpm/next\ngpgcheck = 0\n";
    host.put("/etc/yum.repos.d/next.repo", repository);
    host.put("/etc/dnf/vars/releasever", "9");
    let place = tempfile::tempdir().unwrap();

    let told = play(&host, place.path()).expect(0);
    assert!(recap(&told, "ctl1", "changed") > 0);
    assert_eq!((host.packages().as_str(), host.running()), ("16.0.2-1", RDO.to_vec()));
    host.expect_secrets();
    host.tool("status").expect(0).says("2023.1");
    let told = play(&host, place.path()).expect(0);
    assert_eq!(recap(&told, "ctl1", "changed"), 0);
}
