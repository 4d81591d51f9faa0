# What dnf has resolved is shown to keymgr-upgrade before anything is fetched,
# and refused where it would take OpenStack Barbican a way that its data cannot
# go. What touches neither Barbican nor keymgr-upgrade itself, whose triggers ask
# what is being done, is passed over here; without the program this plugin is
# silent. [hooks] mode in /etc/keymgr-upgrade/keymgr-upgrade.conf
# switches it off.

import json
import os
import subprocess
import sys

import dnf
import dnf.exceptions

PROGRAM = '/usr/sbin/keymgr-upgrade'
OURSELVES = 'keymgr-upgrade'


def described(package):
    return {
        'name': package.name,
        'epoch': int(package.epoch),
        'version': package.version,
        'release': package.release,
    }


class KeymgrUpgrade(dnf.Plugin):

    name = 'keymgr_upgrade'

    def resolved(self):
        conf = self.base.conf
        if conf.downloadonly or not os.access(PROGRAM, os.X_OK):
            return
        transaction = self.base.transaction
        come, go = transaction.install_set, transaction.remove_set
        removed = [p for p in go if 'barbican' in p.name]
        installed = [p for p in come if 'barbican' in p.name]
        coming, going = {p.name for p in come}, {p.name for p in go}
        if removed or installed or OURSELVES in coming | going:
            self.ask('dnf-gate', json.dumps({
                'format': 1,
                'command': ' '.join(sys.argv),
                'installroot': conf.installroot,
                'packages': len(coming | going),
                'removed': [described(p) for p in removed],
                'installed': [described(p) for p in installed],
            }))
        if OURSELVES in going - coming and conf.installroot == '/':
            self.ask('removal', '')

    def ask(self, hook, text):
        # What there is to be read it writes itself.
        sys.stdout.flush()
        said = subprocess.run([PROGRAM, 'hook', hook], input=text.encode())
        if said.returncode != 0:
            raise dnf.exceptions.Error(
                'keymgr-upgrade refuses this transaction; nothing was changed')
