"""A process that has imported the package, and forks a child for each program that a test starts.

A new interpreter takes 0.4 s of CPU time to import the package; a child of this process takes a tenth of that. The
children are like new processes otherwise: each has its own session, folder, environment, arguments and standard files,
and runs until the end of the interpreter, with all that it does at exit.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from atlas_sdk._embedded import places

#: The largest request: arguments, environment and folder.
REQUEST_BYTES_MAX = 150_000
#: Packages of the repository, and parts of them that only some programs import.
_PACKAGES = ("atlas_sdk", "watcher")
_LEFT_OUT = ("atlas_sdk.integrations", "atlas_sdk.pytest_plugin", "watcher.__main__")


def _import_all() -> None:
    for package in _PACKAGES:
        (folder,) = importlib.import_module(package).__path__
        for file in sorted(Path(folder).rglob("*.py")):
            name = ".".join((package, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
            if not name.startswith(_LEFT_OUT):
                importlib.import_module(name)


def serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork a child for each request until the test process ends; return in each child, with its request."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    #: Where to tell the status of each child.
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _reap(children)
        if requests not in ready:
            continue
        data, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, 4)
        if not data:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            requests.close()
            for file in (woken, wake, files.pop(), *children.values()):
                os.close(file)
            return json.loads(data), files
        children[pid] = files.pop()
        for file in files:
            os.close(file)
        requests.send(str(pid).encode())


def _reap(children: dict[int, int]) -> None:
    """Tell the status of each child that has ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = children.pop(pid)
        # The test may have ended before its child.
        with contextlib.suppress(BrokenPipeError):
            os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(told)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Take over the session, standard files, folder and environment of the request."""
    if request["new_session"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    if machine := os.environ.get("TESTS_MACHINE_DIR"):
        places.MACHINE_DIR = Path(machine)
    time.tzset()
    tempfile.tempdir = None
    os.chdir(request["folder"])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        raw: Any = open(number, "rb" if number == 0 else "wb", closefd=False)  # noqa: SIM115
        is_line_buffered = number == 2 or os.isatty(number)
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=is_line_buffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(arguments: list[str]) -> None:
    """Run what `python ARGUMENTS` or a script of the package would run."""
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif first == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif Path(first).name == "atlasctl":
        from atlas_sdk.cli import main

        sys.argv = arguments
        sys.exit(main())
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def _end(program: Callable[[], None]) -> NoReturn:
    """Run a program and end as the interpreter does, but without the time that it takes to free all modules."""
    code: Any = 0
    is_interrupted = False
    try:
        program()
    except SystemExit as exc:
        code = exc.code or 0
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:  # noqa: BLE001  # as the interpreter does
        kind, error, trace = sys.exc_info()
        assert kind is not None
        # The frames of this file are not the program's.
        sys.excepthook(kind, error, trace.tb_next.tb_next if trace and trace.tb_next else trace)
        code, is_interrupted = 1, kind is KeyboardInterrupt
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    if is_interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _import_all()
    from quick_clusters import copy_new_clusters

    copy_new_clusters()
    assert threading.active_count() == 1, "a fork needs a process with one thread"
    gc.collect()
    gc.freeze()
    given, standard_files = serve(socket.socket(fileno=int(sys.argv[1])))
    _become(given, standard_files)
    _end(lambda: _run(given["arguments"]))
