# Builds, checks and shows keymgr-upgrade. `make help` lists what there is.

CARGO ?= cargo
LAB ?= $(CURDIR)/target/lab
DESTDIR ?=
prefix ?= /usr
sbindir ?= $(prefix)/sbin
sysconfdir ?= /etc
unitdir ?= $(prefix)/lib/systemd/system
catalogdir ?= $(prefix)/lib/systemd/catalog

target := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
binary := $(target)/release/keymgr-upgrade
lab := KEYMGR_LAB='$(LAB)'
# nextest where it is installed, cargo's own runner elsewhere; what follows a
# `--` means the same to both.
nextest := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
# Much of their time tests wait for a container or a server: more at once than there are cores.
threads := $(shell n=$$(nproc) && echo $$((n + n / 2)))
run_tests := . '$(LAB)/env' && NEXTEST_TEST_THREADS=$(threads) \
    $(CARGO) $(if $(nextest),nextest run,test --no-fail-fast) --locked

.DEFAULT_GOAL := help
.PHONY: help setup packages built build manual deb rpm portable lint check test test-slow crash crash-power fuzz demo bench install install-built rpm-built clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## install what the tests run against, once
	@$(lab) tests/lab/setup.sh

build: ## build the release binary
	$(CARGO) build --locked --release

# With PROFILE=dev the manual and the rpm are made of what the tests use.
PROFILE ?= release
pages := $(CURDIR)/target/manual
manual: ## write the manual pages and the completions, target/manual/
	rm -rf '$(pages)'
	$(CARGO) run --locked --quiet --profile $(PROFILE) --example manual -- '$(pages)'

deb: manual ## build the Debian package, target/debian/*.deb
	tools=$$($(lab) tests/lab/cargo_deb.sh) && PATH="$$tools:$$PATH" $(CARGO) deb --locked

# The binary is built here; the spec packs it. What every rpm can read is xz.
RPM_PAYLOAD ?= w6.xzdio
rpm_top := $(target)/rpm
built := $(target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/keymgr-upgrade
program_version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
rpm: manual ## build the rpm, target/rpm/RPMS/*/*.rpm
	$(CARGO) build --locked --profile $(PROFILE) --bin keymgr-upgrade
	@$(MAKE) --no-print-directory rpm-built

rpm-built:
	mkdir -p '$(rpm_top)'
	cp '$(built)' '$(rpm_top)/keymgr-upgrade'
	strip '$(rpm_top)/keymgr-upgrade'
	rpmbuild -bb --quiet --define '_topdir $(rpm_top)' --define 'repo $(CURDIR)' \
	    --define 'binary $(rpm_top)/keymgr-upgrade' --define 'pages $(pages)' \
	    --define 'packager keymgr-upgrade developers <keymgr-upgrade@example.org>' \
	    --define 'version_of_program $(program_version)' --define 'payload $(RPM_PAYLOAD)' \
	    packaging/rpm/keymgr-upgrade.spec

# One binary for hosts from CentOS 7 and Ubuntu 16.04 on: nothing newer of the C
# library than 2.17 has, OpenSSL and SQLite inside. zig has that library's names;
# pip brings it, below target/lab. The pages are the same whatever wrote them.
portable_arch := $(shell uname -m)
portable_for := $(portable_arch)-unknown-linux-gnu
portable_binary := $(target)/$(portable_for)/release/keymgr-upgrade
portable_top := $(target)/portable
portable: ## build the packages to publish, for old hosts too, target/portable/
	environment=$$($(lab) tests/lab/zig.sh) && eval "$$environment" && \
	    cargo-zigbuild zigbuild --locked --release --features vendored-openssl \
	        --target $(portable_for).2.17 --bin keymgr-upgrade
	@$(MAKE) --no-print-directory manual PROFILE=dev
	rm -rf '$(portable_top)'
	mkdir -p '$(portable_top)'
	tools=$$($(lab) tests/lab/cargo_deb.sh) && PATH="$$tools:$$PATH" $(CARGO) deb --locked --no-build --no-strip \
	    --variant portable --target $(portable_for) --compress-type xz --output '$(portable_top)/'
	@$(MAKE) --no-print-directory rpm-built built='$(portable_binary)' rpm_top='$(portable_top)/rpm'
	mv '$(portable_top)'/rpm/RPMS/*/*.rpm '$(portable_top)/'
	rm -rf '$(portable_top)/rpm'
	packaging/check-portable '$(portable_binary)' '$(portable_top)'

lint: ## formatting, clippy, licences: each where its tool is installed
	@if $(CARGO) fmt --version >/dev/null 2>&1; then $(CARGO) fmt --check; \
	    else echo 'lint: rustfmt is not installed: skipped'; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
	    $(CARGO) clippy --locked --all-targets -- -D warnings; \
	    else echo 'lint: clippy is not installed: skipped'; fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --offline check --hide-inclusion-graph bans licenses sources; \
	    else echo 'lint: cargo-deny is not installed: skipped'; fi

# What takes minutes: a real Barbican, matrices of starts, kills and clusters.
slow := real_barbican:: server_ crash::matrix crash::whole crash::power crash::faults lock::away dump::trouble lock::cluster lock::sessions product:: fleet:: hex::
check: setup lint ## the fast loop: lint, then the tests that take no minutes
	$(run_tests) -- $(addprefix --skip ,$(slow))

# What is fetched and what is compiled do not wait for one another, but for the
# compiler of C.
test: packages ## everything that must be green
	@$(MAKE) --no-print-directory -j2 setup built
	$(run_tests)

packages:
	@$(lab) tests/lab/setup.sh packages

built: lint
	$(CARGO) $(if $(nextest),nextest run,test) --locked --no-run

test-slow: setup ## also the tests that are too long for every run
	$(run_tests) $(if $(nextest),--run-ignored all,-- --include-ignored)

# Coverage of our code and the libraries', on the stable compiler; `cargo fuzz`
# works in the same folder. What is new goes to target/fuzz/found/, and what
# does not hold to target/fuzz/crash-*: keep it in fuzz/corpus/. A hang is a minute
# of the clock: on a busy machine ten seconds are none. For many executions of a
# corpus that has grown: `COMPARES=no MAX_LEN=256`, three times as fast.
RUNS ?= 1000000
MAX_LEN ?= 2048
COMPARES ?= yes
TARGET ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
sancov := -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,\
    level=4 inline-8bit-counters pc-table $(if $(filter yes,$(COMPARES)),trace-compares))
fuzz_built := $(target)/fuzz$(if $(filter yes,$(COMPARES)),,/uncompared)
fuzz: ## run the fuzzer: RUNS=1000000 executions of each TARGET
	host=$$(rustc -vV | sed -n 's/^host: //p') && \
	    RUSTFLAGS='--cfg fuzzing $(sancov)' CARGO_TARGET_DIR='$(fuzz_built)' $(CARGO) build --locked \
	    --release --manifest-path fuzz/Cargo.toml --target "$$host" $(addprefix --bin ,$(TARGET)) && \
	    for name in $(TARGET); do \
	        mkdir -p "$(target)/fuzz/found/$$name" && echo "fuzz: $$name" && \
	        "$(fuzz_built)/$$host/release/$$name" -runs=$(RUNS) -max_len=$(MAX_LEN) -timeout=60 -rss_limit_mb=1024 \
	            -print_final_stats=1 -verbosity=0 -artifact_prefix='$(target)/fuzz/' \
	            "$(target)/fuzz/found/$$name" "fuzz/corpus/$$name" || exit; \
	    done

# `make crash STEP=10 RANDOM=20 AGAIN=20 SEED=7 DATABASE=sqlite|postgresql|mysql`:
# each 10th crash point, so many random instants and kills of what takes a run up.
STEP ?= 1
RANDOM ?= 100
AGAIN ?= 100
SEED ?= 2026
crash: setup ## kill it at every crash point and at random instants, on each database
	@rm -f '$(target)/tmp/crash.txt'
	. '$(LAB)/env' && KEYMGR_CRASH_STEP='$(STEP)' KEYMGR_CRASH_RANDOM='$(RANDOM)' KEYMGR_CRASH_AGAIN='$(AGAIN)' \
	    KEYMGR_CRASH_SEED='$(SEED)' KEYMGR_CRASH_DATABASE='$(DATABASE)' \
	    $(CARGO) test --locked --test it -- --ignored --exact crash::whole::all_databases; \
	    status=$$?; cat '$(target)/tmp/crash.txt'; exit $$status

crash-power: setup ## take its power away at every sync, and leave out each sync
	. '$(LAB)/env' && $(CARGO) test --locked --test it -- --include-ignored --nocapture crash::power::

demo: ## take a genuine Liberty deployment to 2026.2 before your eyes
	@$(lab) tests/lab/setup.sh demo
	$(CARGO) build --locked --release
	@. '$(LAB)/env' && KEYMGR='$(binary)' tests/lab/demo.sh

# Sizes: TURNS; SECRETS for bench_scale.sh; SIZES, THEIRS, REMOTE for bench_kek.sh.
bench: setup ## start-up time, size, memory; schemas, secrets and KEKs side by side with Barbican's own tools
	@begin=$$(date +%s) && $(CARGO) build --locked --release && . '$(LAB)/env' && \
	    for part in bench bench_db bench_scale bench_kek; do \
	        KEYMGR='$(binary)' tests/lab/$$part.sh || exit; \
	        echo "$$part.sh: $$(($$(date +%s) - begin)) s since the beginning"; \
	    done && \
	    $(MAKE) --no-print-directory deb >/dev/null && \
	    KEYMGR_TEST_DEB="$$(echo '$(target)'/debian/*.deb)" \
	        $(CARGO) test --locked --test it -- --ignored --nocapture --test-threads 1 product::window:: && \
	    echo "make bench: $$(($$(date +%s) - begin)) s in all"

# The hooks of package managers come with packages only. Settings that are
# there already are kept.
install: build manual ## install all but package hooks below DESTDIR, prefix=/usr
	@$(MAKE) --no-print-directory install-built

install-built:
	install -D -m 0755 '$(binary)' '$(DESTDIR)$(sbindir)/keymgr-upgrade'
	install -d '$(DESTDIR)$(prefix)/share' '$(DESTDIR)$(unitdir)' '$(DESTDIR)$(catalogdir)'
	cp -R '$(pages)/.' '$(DESTDIR)$(prefix)/share/'
	for unit in systemd/*.service; do \
	    sed 's|/usr/sbin/keymgr-upgrade|$(sbindir)/keymgr-upgrade|' "$$unit" \
	        >'$(DESTDIR)$(unitdir)'/"$${unit##*/}" || exit; \
	done
	for catalog in systemd/*.catalog; do \
	    [ ! -e "$$catalog" ] || install -m 0644 "$$catalog" '$(DESTDIR)$(catalogdir)/' || exit; \
	done
	[ -e '$(DESTDIR)$(sysconfdir)/keymgr-upgrade/keymgr-upgrade.conf' ] || \
	    install -D -m 0644 packaging/keymgr-upgrade.conf -t '$(DESTDIR)$(sysconfdir)/keymgr-upgrade'

clean: ## remove all that was built and installed here
	$(CARGO) clean
	rm -rf '$(LAB)'
