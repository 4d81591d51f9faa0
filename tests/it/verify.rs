//! The end of an upgrade: services that stay up, an API that answers, a secret read through it; and what runs Barbican beside the known units.
//! In the container the API is a stand-in of a few lines, since there is no Python in it; one test asks a real Barbican.

use std::time::Duration;

use keymgr_upgrade::http::{self, Address, Headers};
use secrecy::SecretString;

use crate::live::Live;
use crate::real_barbican::Deployment;
use crate::systemd::{API, LISTENER, WORKER};

/// Answers as Barbican does: its versions with 300, and to a token the payload of a secret.
const STAND_IN: &str = r#"#!/usr/bin/perl
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1:9311", Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) {
    my ($path, $token) = ("", "");
    while (my $line = <$client>) {
        $path = $1 if $line =~ m{^GET (\S+)};
        $token = $1 if $line =~ m{^x-auth-token: (\S+)}i;
        last if $line =~ m{^\r?$};
    }
    my ($status, $type, $body) = ("404 Not Found", "text/plain", "");
    ($status, $type, $body) = ("300 Multiple Choices", "application/json", "{}") if $path eq "/";
    if ($path eq "/v1/secrets/1/payload") {
        open my $file, "<", "/var/lib/barbican/payload" or die;
        ($status, $type, $body) = $token eq "hush" ? ("200 OK", "application/octet-stream", <$file>)
            : ("401 Unauthorized", "text/plain", "no");
    }
    print $client "HTTP/1.1 $status\r\nContent-Type: $type\r\nConnection: close\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
    close $client;
}
"#;

const SECRET: &str =
    "[verify]\nsecret = http://127.0.0.1:9311/v1/secrets/1/payload\nheaders_file = /etc/keymgr-upgrade/headers\n";
const UPGRADE: [&str; 4] = ["upgrade", "--to", "mitaka", "--yes"];

/// A controller whose API answers.
fn serving(code: &str) -> Live {
    let live = Live::boot();
    live.machine.write("/usr/bin/barbican-api", STAND_IN);
    live.machine.write("/var/lib/barbican/payload", "an old payload");
    live.machine.write("/etc/keymgr-upgrade/headers", "X-Auth-Token: hush\n");
    live.run("rm -r /etc/keymgr-upgrade/keymgr-upgrade.conf.d");
    live.run("chmod 755 /usr/bin/barbican-api; chown barbican: /var/lib/barbican/payload; chmod 600 /etc/keymgr-upgrade/headers");
    let code = format!(
        "{SECRET}[code]\nupgrade_command = install-barbican 2.0.0; {code}\nrollback_command = install-barbican 1.0.0\n"
    );
    live.machine.write("/etc/keymgr-upgrade/keymgr-upgrade.conf", &code);
    live.machine.write(
        "/etc/systemd/system/barbican-api.service.d/api.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/barbican-api\n",
    );
    live.run("systemctl daemon-reload && systemctl restart barbican-api");
    live
}

#[test]
fn what_does_not_serve_stops_it_at_the_end_until_it_does() {
    let live = serving("touch /broken; echo another payload >/var/lib/barbican/payload");
    // A worker that dies two seconds after each start, and is restarted.
    live.machine.write(
        "/etc/systemd/system/barbican-worker.service.d/dies.conf",
        "[Service]\nType=simple\nExecStart=\nRestart=always\nRestartSec=100ms\n\
         ExecStart=/bin/sh -c 'test -e /broken && sleep 2 && exit 1; exec sleep infinity'\n",
    );
    live.run("systemctl daemon-reload && systemctl restart barbican-worker");
    let said = live.tool(&UPGRADE).expect(4);
    said.says("STOPPED AT THE END. Data and files are done; the services do not serve yet.");
    assert!(
        said.error().contains("another payload for the secret")
            || said.error().contains("barbican-worker.service does not stay up"),
        "{}",
        said.all()
    );
    let status = live.tool(&["status"]).expect(4);
    assert!(status.out.starts_with("INTERRUPTED") && status.out.contains("verify service"), "{}", status.out);

    live.run("printf 'an old payload' >/var/lib/barbican/payload");
    let said = live.tool(&["resume"]).expect(4);
    assert!(said.error().contains("barbican-worker.service does not stay up"), "{}", said.all());
    live.run("rm /broken; systemctl restart barbican-worker; echo other >/var/lib/barbican/payload");
    let said = live.tool(&["resume"]).expect(4);
    assert!(said.error().contains("gives another payload for the secret than before"), "{}", said.all());
    live.run(
        "printf 'an old payload' >/var/lib/barbican/payload; echo 'X-Auth-Token: stale' >/etc/keymgr-upgrade/headers",
    );
    let said = live.tool(&["resume"]).expect(4);
    assert!(
        said.error().contains("status 401: put a token that is valid into [verify] headers_file"),
        "{}",
        said.all()
    );
    live.run("echo 'X-Auth-Token: hush' >/etc/keymgr-upgrade/headers");
    let said = live.tool(&["resume"]).expect(0);
    said.says("Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted; 2 units stay up, the API answers, 1 secret read through it as before.");
    assert!(!said.out.contains("Not proved"), "{}", said.out);
    // Neither what was read nor what it was asked with is anywhere.
    let found = "grep -rlE 'hush|stale|old payload' /var/lib/keymgr-upgrade /var/log /etc/barbican | sort || true";
    assert_eq!(live.run(found), "");
}

#[test]
fn what_runs_beside_the_known_units_is_found() {
    let live = serving("true");
    let worker = "/opt/barbican/bin/barbican-worker";
    live.machine.write(worker, "#!/bin/sh\nwhile :; do sleep 1000; done\n");
    live.run(&format!("chmod 755 {worker}"));
    live.machine
        .install_and_start("keys.service", &format!("ExecStart={worker} --config-file /etc/barbican/keys.conf"));
    live.machine.install_and_start("apache2.service", "ExecStart=/bin/sleep infinity");
    live.machine.write(
        "/etc/apache2/sites-enabled/keys.conf",
        "<VirtualHost *:9311>\nWSGIScriptAlias / /usr/lib/barbican/app.wsgi\n</VirtualHost>\n",
    );
    live.run(&format!("setsid {worker} --password=hush >/dev/null 2>&1 &"));
    let said = live.tool(&["check", "--to", "mitaka", "--verbose"]).expect(2);
    said.says("/etc/apache2/sites-enabled/keys.conf:2 has apache2.service serve the API, which may serve others too");
    said.says("Barbican runs outside every known unit (1)");
    said.says("sh barbican-worker");
    said.says("keys.service: /etc/barbican/keys.conf");
    assert!(!said.all().contains("hush"), "{}", said.all());
    let before = ["keys.service", "apache2.service"].map(|u| live.property(u, "InvocationID"));
    live.run("kill $(grep -al password=hush /proc/[0-9]*/cmdline | cut -d / -f 3 | grep -vx $$) 2>/dev/null; true");
    let said = live.tool(&UPGRADE).expect(3);
    assert!(
        said.out.contains("REFUSED") && live.property("apache2.service", "InvocationID") == before[1],
        "{}",
        said.all()
    );

    live.machine.install("keys.service", &format!("ExecStart={worker}"));
    live.run("systemctl restart keys.service && systemctl enable barbican-keystone-listener");
    let before = ["keys.service", "apache2.service"].map(|u| live.property(u, "InvocationID"));
    let conf = live.run("cat /etc/keymgr-upgrade/keymgr-upgrade.conf");
    let conf = format!("[barbican]\nweb_server = stop\n[upgrade]\nstart = enabled\n{conf}\n");
    live.machine.write("/etc/keymgr-upgrade/keymgr-upgrade.conf", &conf);
    let said = live.tool(&UPGRADE).expect(0);
    said.says("5 units stay up, the API answers, 1 secret read through it as before");
    for (unit, was) in ["keys.service", "apache2.service"].iter().zip(before) {
        assert_eq!(live.machine.active(unit), "active");
        assert_ne!(live.property(unit, "InvocationID"), was, "{unit} was not stopped");
    }
    for unit in [API, WORKER, LISTENER] {
        assert_eq!(
            (live.machine.active(unit).as_str(), live.property(unit, "UnitFileState").as_str()),
            ("active", "enabled")
        );
    }
    // The notes know how the API is launched.
    let said = live.tool(&["--json", "notes", "--to", "newton"]).expect(0);
    assert!(!said.out.contains("cannot be told"), "{}", said.out);
}

#[test]
fn a_real_barbican_gives_the_payload_for_these_headers() {
    let deployment = Deployment::upgraded();
    let barbican = deployment.serve();
    let limit = Duration::from_secs(30);
    let get = |path: &str, headers: &Headers| {
        let address = Address::parse(&format!("http://127.0.0.1:{}{path}", barbican.port)).unwrap();
        http::get(&address, headers, limit).unwrap()
    };
    assert!(matches!(get("/", &Headers::new()).status, 200..=300));
    let mut headers = http::headers(
        "X-Identity-Status: Confirmed\nX-Project-Id: simple-alpha\nX-User-Id: reader\nX-Roles: admin,member,creator,reader\n",
    )
    .unwrap();
    headers.push(("Accept".to_owned(), SecretString::from("application/octet-stream")));
    // One that was stored as text and one that was stored as bytes.
    for id in ["1af484ef-4606-492e-b14d-d8cd81400973", "04351675-93e5-4330-b075-c734866b0242"] {
        let answer = get(&format!("/v1/secrets/{id}/payload"), &headers);
        assert_eq!((answer.status, answer.json, answer.body.is_empty()), (200, false, false), "{id}");
    }
    let described = get("/v1/secrets/1af484ef-4606-492e-b14d-d8cd81400973", &http::headers("Accept: application/json\nX-Identity-Status: Confirmed\nX-Project-Id: simple-alpha\nX-User-Id: reader\nX-Roles: admin,member,creator,reader\n").unwrap());
    assert_eq!((described.status, described.json), (200, true));
}
