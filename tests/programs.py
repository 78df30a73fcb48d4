"""Python programs of tests, in processes that start quickly: see zygote.py.

`Popen` and `run` have the names and arguments of `subprocess`. They start other programs, and those with arguments that
a forked child cannot have, as `subprocess` does. A test about the start of the interpreter itself uses `subprocess`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from types import FunctionType
from typing import Any

from zygote import REQUEST_BYTES_MAX

_ATLASCTL = str(Path(sys.executable).with_name("atlasctl"))


class _Zygote:
    """The process that forks the programs of this test process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: socket.socket | None = None

    def start(self, request: dict[str, Any], files: list[int]) -> int:
        """Start a program; return its process id."""
        with self._lock:
            if self._requests is None:
                self._requests = self._launch()
            socket.send_fds(self._requests, [json.dumps(request).encode()], files)
            return int(self._requests.recv(64))

    @staticmethod
    def _launch() -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, str(Path(__file__).with_name("zygote.py")), str(number)]
            process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL, cwd="/")
        atexit.register(process.wait)
        # It ends when the socket is closed.
        atexit.register(ours.close)
        return ours


_zygote = _Zygote()


class Popen(subprocess.Popen[Any]):
    """A process, forked from one that has imported the package, if it is one of the package's Python programs."""

    #: The file from which the status of a forked process can be read.
    _status: int | None = None

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *more: Any) -> None:
        close_fds, pass_fds, cwd, env, *_, shell = more[:7]
        standard, others = more[7:13], more[13:]
        restore_signals, gid, gids, uid, umask, start_new_session, *groups = others
        words = [os.fspath(word) for word in args] if isinstance(args, (list, tuple)) else []
        is_plain = close_fds and restore_signals and umask == -1 and groups in ([], [-1])
        if any((executable, preexec_fn, pass_fds, shell, gid, gids, uid)) or not is_plain or not _is_ours(words):
            super()._execute_child(args, executable, preexec_fn, *more)  # type: ignore[misc]
            return
        p2cread, _, _, c2pwrite, _, errwrite = standard
        request = {
            "arguments": words[1:] if words[0] == sys.executable else words,
            "environment": dict(os.environ if env is None else env),
            "folder": str(Path(cwd or ".").absolute()),
            "new_session": start_new_session,
        }
        assert len(json.dumps(request)) < REQUEST_BYTES_MAX
        self._status, told = os.pipe()
        given = [own if file == -1 else file for own, file in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _zygote.start(request, [*given, told])
        os.close(told)
        self._child_created = True
        self._close_pipe_fds(*standard)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for the end of the program. After a failure of the test, kill it, because nobody else will end it."""
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)  # type: ignore[arg-type]

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(_deadstate)  # type: ignore[misc,no-any-return]
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        if self._status is None:
            return super()._wait(timeout)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._ended()
        return self.returncode

    def _ended(self) -> None:
        assert self._status is not None
        told = os.read(self._status, 16)
        assert told, "the process that forks the programs has ended"
        self.returncode = int(told)
        os.close(self._status)


def _is_ours(words: list[str]) -> bool:
    """Return whether a command is a Python program without options of the interpreter, or the command line."""
    if not words or words[0] == _ATLASCTL:
        return bool(words)
    return words[0] == sys.executable and len(words) > 1 and (words[1] in {"-c", "-m"} or words[1].endswith(".py"))


#: `subprocess.run`, with the `Popen` of this module.
run: Callable[..., subprocess.CompletedProcess[Any]] = FunctionType(
    subprocess.run.__code__, {**vars(subprocess), "Popen": Popen}, "run"
)
run.__kwdefaults__ = subprocess.run.__kwdefaults__
