"""What a job starts first: `python -I -S held.py ARGUMENTS` becomes `python -P ARGUMENTS` with stop signals held back.

Python, torch and this package take seconds to load, in which a signal would end the process, unsaved and not queued
again. Blocked signals stay pending over exec until `StopFlag` has its handlers in place. Imports nothing, to be there
within milliseconds.

-P leaves the working folder out of Python's path, so that a user's own methods.py there is not imported.

The last argument is the folder of submitit's pickles, which are executed when they are read: refused where others could
have written them while the job waited.
"""

import os
import signal
import stat
import sys

OTHERS = stat.S_IWGRP | stat.S_IWOTH


def foreign(folder: str) -> str | None:
    """A file in a folder of pickles that somebody else could have written; None if there is none.

    Results of other jobs are not checked: nothing reads them, and folders that a group shares set their rights.
    """
    names = [name for name in os.listdir(folder) if name.endswith(".pkl") and not name.endswith("_result.pkl")]
    pickles = [os.path.join(folder, name) for name in names]
    for path in [folder, *pickles]:
        found = os.stat(path)
        if found.st_uid != os.geteuid() or found.st_mode & OTHERS:
            return path
    return None


if __name__ == "__main__":
    if os.path.isdir(sys.argv[-1]) and (path := foreign(sys.argv[-1])):
        sys.exit(
            f"{path} does not belong to its submitter, or others can write to it, so it is not executed; submit again"
        )
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGTERM))
    os.execv(sys.executable, [sys.executable, "-P", *sys.argv[1:]])
