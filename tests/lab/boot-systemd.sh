#!/bin/sh
# Boots a real systemd in a container, for as long as its standard input is
# open, and throws everything that was changed in it away afterwards.
#
#   tests/lab/boot-systemd.sh [--unified] [--rpm] [--tree TREE] [--in-place]
#                               [--chroot SCRIPT] [--size SIZE] [DIRECTORY]
#
# When it is up, one line is printed: the address of its bus, the process id
# of its systemd as seen from here, and the path of its root directory here.
# What is in DIRECTORY is laid over the root before it boots. --unified boots
# it with cgroups of version 2 only. --rpm boots a tree that has rpm and dnf
# besides, --tree another one than the plain Debian tree; --in-place changes
# it. SCRIPT, a path inside, is run in a chroot before; what it says is in
# /var/log/in-chroot.log. SIZE is what its changes may take of memory, 1g.
#
# Lines on standard input:
#   reboot     shuts it down as a power button does and boots the same tree
#              again; the line that is printed then is the new one
#   power-cut  the same without the shutting down: everything in it is killed
#   off        shuts it down, and ends
#
# Needs root. debootstrap and systemd-nspawn are installed by apt where they
# are missing, and the Debian tree is made once, in $KEYMGR_LAB (target/lab).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
lab=${KEYMGR_LAB:-$here/../../target/lab}
mkdir -p "$lab"
lab=$(cd "$lab" && pwd)
tree=$lab/systemd-tree
unified=
rpm=
in_place=
script=
size=1g
over=
while [ $# -gt 0 ]; do
    case $1 in
        --unified) unified=1 ;;
        --rpm) rpm=1 ;;
        --in-place) in_place=1 ;;
        --chroot) script=$2; shift ;;
        --size) size=$2; shift ;;
        --tree) tree=$2; shift ;;
        *) over=$1 ;;
    esac
    shift
done

say() { echo "boot-systemd: $*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || die "a container can only be booted by root"

# Only one at a time makes the tree, the others wait for it.
exec 9>"$lab/.systemd.lock"
flock 9
if ! command -v debootstrap >/dev/null || ! command -v systemd-nspawn >/dev/null; then
    say "installing debootstrap and systemd-container"
    packages="debootstrap systemd-container debian-archive-keyring"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    # shellcheck disable=SC2086
    { apt-get -q update && apt-get -q install -y --no-install-recommends $packages; } \
        >"$lab/systemd-apt.log" 2>&1 || die "apt-get failed, see $lab/systemd-apt.log"
fi
if [ ! -d "$tree" ]; then
    [ "$tree" = "$lab/systemd-tree" ] || die "there is no tree $tree"
    say "making a Debian tree in $tree (a minute)"
    rm -rf "$tree.new"
    debootstrap --variant=minbase --include=systemd-sysv,dbus bookworm "$tree.new" \
        >"$lab/systemd-tree.log" 2>&1 || die "debootstrap failed, see $lab/systemd-tree.log"
    rm -rf "$tree.new"/var/cache/apt/archives/*.deb
    mv "$tree.new" "$tree"
fi
add_rpm() {
    rm -rf "$tree-rpm.new"
    cp -a "$tree" "$tree-rpm.new"
    tree=$tree-rpm.new
    cp /etc/resolv.conf "$tree/etc/resolv.conf"
    cp "$here/add-rpm.sh" "$tree/tmp/"
    chroot "$tree" /tmp/add-rpm.sh
    rm -f "$tree/tmp/add-rpm.sh"
    rm -rf "$lab/systemd-tree-rpm"
    mv "$tree" "$lab/systemd-tree-rpm"
    printf '%s\n' "$stamp" >"$lab/systemd-tree-rpm.stamp"
}
if [ -n "$rpm" ]; then
    stamp=$(sha256sum <"$here/add-rpm.sh")
    if [ "$(cat "$tree-rpm.stamp" 2>/dev/null)" != "$stamp" ]; then
        say "adding rpm and dnf in $tree-rpm (a minute)"
        add_rpm >"$lab/systemd-tree-rpm.log" 2>&1 || die "that failed, see $lab/systemd-tree-rpm.log"
    fi
    tree=$lab/systemd-tree-rpm
fi
exec 9>&-

# All changes go to a tmpfs over the tree. A root that is mounted here, unlike
# nspawn's own --volatile=overlay, can be seen from here.
name=keymgr-test-$$
run=$lab/run/$name
mkdir -p "$run"
leader=
pid1=
groups=
remove_groups() {
    for group in $groups; do
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
    groups=
}
clean_up() {
    trap - EXIT
    [ -z "$pid1" ] || kill -KILL "$pid1" 2>/dev/null || true
    [ -z "$leader" ] || wait "$leader" 2>/dev/null || true
    umount -l "$run/tmp/root" 2>/dev/null || true
    umount -l "$run/tmp" 2>/dev/null || true
    rm -rf "$run"
    remove_groups
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

mkdir "$run/tmp"
mount -t tmpfs -o size=$size,mode=755 tmpfs "$run/tmp"
cd "$run/tmp"
mkdir upper work root
if [ -n "$in_place" ]; then
    mount --bind "$tree" root
else
    mount -t overlay -o "lowerdir=$tree,upperdir=$run/tmp/upper,workdir=$run/tmp/work" overlay root
fi
[ -z "$over" ] || cp -a "$over/." root/
if [ -n "$script" ]; then
    # With a process tree of its own, so that nothing it starts is left.
    unshare --mount --pid --fork --kill-child --mount-proc="$run/tmp/root/proc" \
        chroot root /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh "$script" \
        </dev/null >root/var/log/in-chroot.log 2>&1 || { tail root/var/log/in-chroot.log >&2; die "$script failed"; }
fi

# The container says by itself when it is up, and its end is said here: no
# need to ask again and again.
mkfifo news
exec 8<>news
mkdir -p root/etc/systemd/system/multi-user.target.wants
cat >root/etc/systemd/system/tell-ready.service <<'UNIT'
[Unit]
Requires=dbus.service
After=dbus.service
[Service]
ExecStart=/bin/sh -c 'systemctl is-system-running --wait >/dev/null; \
    busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Peer Ping && echo up >/news'
UNIT
ln -sf ../tell-ready.service root/etc/systemd/system/multi-user.target.wants/

# Where systemd runs this machine, nspawn asks it for a scope. Where it does
# not, each container needs control groups of its own.
keep=
[ -d /run/systemd/system ] || keep=--keep-unit
[ -z "$unified" ] || export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1

children() { cat "/proc/$1/task/$1/children"; }
boot() {
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        { [ -n "$keep" ] && [ -e "$hierarchy/cgroup.procs" ]; } || continue
        mkdir -p "$hierarchy/$name"
        groups="$groups $hierarchy/$name"
    done
    (
        for group in $groups; do sh -c 'echo $PPID' >"$group/cgroup.procs"; done
        # nspawn of Debian 12 does not know openat2, which is not to be refused.
        systemd-nspawn --register=no $keep --quiet --system-call-filter=openat2 --private-network --machine="$name" \
            --console=pipe --bind="$run/tmp/news:/news" --directory="$run/tmp/root" --boot \
            </dev/null >"$run/tmp/console" 2>&1 || true
        echo ended >&8
    ) >/dev/null 2>&1 &
    leader=$!
    news=$(timeout 120 head -n 1 <&8) || news="not up after 120 s"
    if [ "$news" != up ]; then
        tail -n 20 console >&2
        die "the container: $news"
    fi
    pid1=$(children "$(children $leader | cut -d ' ' -f 1)" | cut -d ' ' -f 1)
    [ -n "$pid1" ] || die "the container's systemd is not to be found"
    echo "unix:path=/proc/$pid1/root/run/dbus/system_bus_socket $pid1 $run/tmp/root"
}
# SIGRTMIN+4 shuts down, see systemd(1).
end_by() {
    kill "-$1" "$pid1"
    news=$(timeout 60 head -n 1 <&8) || news="not down after 60 s"
    [ "$news" = ended ] || die "the container: $news"
    pid1=
    wait "$leader" || true
    leader=
    remove_groups
}

boot
while read -r word; do
    case $word in
        reboot) end_by 38; boot ;;
        power-cut) end_by KILL; boot ;;
        off) end_by 38; break ;;
        *) die "what is $word?" ;;
    esac
done
