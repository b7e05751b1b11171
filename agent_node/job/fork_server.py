"""Preloaded into the fork server of the jobs, and of no use anywhere else.

Service managers such as systemd end a service by SIGTERM to each of its
processes. The node lets its calls finish then, and they need the fork server.

And it must not outlive the node, nor the jobs it: the kernel sees to that, as a
job that hangs keeps the fork server from noticing by itself. The kernel takes
for the parent the thread that has started a process: one of the loop's, which
live as long as the loop.
"""

from __future__ import annotations

import ctypes
import signal
import sys

FORK_SERVER = "multiprocessing.forkserver"

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> bool:
    """Have this process killed when its parent dies, however that goes; whether
    the system can."""
    return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0


if any(FORK_SERVER in word for word in sys.orig_argv):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
