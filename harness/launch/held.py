"""What a job starts first: `python -I -S held.py ARGUMENTS` becomes `python ARGUMENTS` with stop signals held back.

Python, torch and this package take seconds to load, in which a signal would end the process, unsaved and not queued
again. Blocked signals stay pending over exec until `StopFlag` has its handlers in place. Imports nothing, to be there
within milliseconds.
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGTERM))
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
