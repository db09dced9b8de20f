"""Become a command that ends with the process that asked for it: what ``processes.start`` runs.

A script, not for import: ``python -I -S attached.py PARENT BY COMMAND...``. It does what would be done
between fork and exec if a parent with threads could do anything there (``preexec_fn`` can lock up).
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, by_kernel, command = int(sys.argv[1]), sys.argv[2] == "kernel", sys.argv[3:]
    if by_kernel:
        import ctypes

        # The death signal stays over exec.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)
    # Python ignores it at its start, and that would be inherited.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)
