"""Runs one command and never outlives its parent, nor lets the command outlive it.

    python -I -S tether.py [--grace SECONDS] [--pid-file FILE] -- COMMAND ARGS…

Standard input is the read end of a pipe that the parent holds. When it closes, however the parent ended, the command
gets SIGTERM and, after the grace, SIGKILL. On Linux the command also dies with the tether itself. Standard library
only: it starts in 20 ms and runs in the background of everything.
"""

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    return before_exec


def main() -> int:
    """Run the command; the exit code is its own, or 128 and the signal that ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, default=8.0)
    parser.add_argument("--pid-file", type=Path)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()

    # a byte in this pipe says that a signal came: the loop below sleeps in select
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - this process has one thread
        )
    except OSError as error:
        print(f"{options.command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - goes to the command's log
        return 127
    if options.pid_file:
        partial = options.pid_file.with_suffix(".partial")
        partial.write_text(str(child.pid))
        partial.rename(options.pid_file)
    return _watch(child, woken, options.grace)


def _watch(child: "subprocess.Popen[bytes]", woken: int, grace: float) -> int:
    while child.poll() is None:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            signals = set(os.read(woken, 64))
            if signals & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
                break
        if 0 in readable and os.read(0, 1) == b"":
            break
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    code = child.returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())
