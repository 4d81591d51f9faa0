#!/usr/bin/env python3
"""Runs a command as if the kernel were Linux 3.10 (CentOS 7), as far as which system calls there are goes: every later one
gives ENOSYS. With a number N before the command, every call above N does: 325 is Linux 4.4 (Ubuntu 16.04). The kernel gives
its version as some 2.6, since OpenSSL relies on the late calls where it is that of a late kernel.

    old_kernel.py [N] COMMAND ARGUMENT...
"""

import ctypes
import errno
import os
import struct
import sys

LAST_OF_3_10 = 313  # finit_module; on x86_64 numbers were given in the order of time
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
UNAME26 = 0x0020000
AUDIT_ARCH_X86_64 = 0xC000003E
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, IF_EQUAL, IF_GREATER, RETURN = 0x20, 0x15, 0x25, 0x06


def refuse_above(last):
    """Has the kernel judge each call of this process and of all that come from it."""
    program = [
        (LOAD, 0, 0, 4),  # the architecture
        (IF_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # the number
        (IF_GREATER, 0, 1, last),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.personality(UNAME26) == -1:
        raise OSError(ctypes.get_errno(), "personality")
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def main(argv):
    last = LAST_OF_3_10
    if argv and argv[0].isdigit():
        last = int(argv.pop(0))
    if not argv:
        sys.exit(__doc__)
    if os.uname().machine != "x86_64":
        sys.exit("the numbers of system calls are known for x86_64 only")
    refuse_above(last)
    os.execvp(argv[0], argv)


main(sys.argv[1:])
