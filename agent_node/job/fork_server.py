"""Preloaded into the fork server of the jobs, and of no use anywhere else.

Service managers such as systemd end a service by SIGTERM to each of its
processes. The node lets its calls finish then, and they need the fork server.
"""

from __future__ import annotations

import signal
import sys

FORK_SERVER = "multiprocessing.forkserver"

if any(FORK_SERVER in word for word in sys.orig_argv):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
