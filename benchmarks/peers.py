"""Other programs that keep versions of a text, as contenders."""

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.timing import Contender, elapsed

_AUTHOR = b"Bench <bench@bench.example>"


class MissingPeer(Exception):  # a result that the table reports, not an error
    """A peer is not installed. The message names the package to install."""


def needs_module(module: str, distribution: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        message = f"{distribution} is not installed: pip install '{distribution}', as `make bench` does"
        raise MissingPeer(message)


class _Appending:
    """The minimum for durability: append the bytes to a file, then fdatasync."""

    every = 1

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def put(self, _path: str, content: bytes, /) -> float:
        began = time.perf_counter()
        os.write(self._descriptor, content)
        # macOS has no fdatasync.
        getattr(os, "fdatasync", os.fsync)(self._descriptor)
        return time.perf_counter() - began


@contextmanager
def appending(bench: Bench) -> Iterator[Contender]:
    """Append to one file on the data directory's file system."""
    descriptor = os.open(bench.scratch / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield _Appending(descriptor)
    finally:
        os.close(descriptor)


class _Git:
    """`git add` and `git commit`, two processes, as a hook or a person would run them."""

    every = 4

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        nothing = os.devnull
        self._environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": nothing, "GIT_CONFIG_SYSTEM": nothing}
        self._run("init", "--quiet")
        self._run("config", "user.name", "Bench")
        self._run("config", "user.email", "bench@bench.example")

    def _run(self, *arguments: str) -> None:
        command = [self._program, *arguments]
        subprocess.run(command, cwd=self._folder, env=self._environment, check=True, stdout=subprocess.DEVNULL)

    def put(self, path: str, content: bytes) -> float:
        (self._folder / path).write_bytes(content)
        began = time.perf_counter()
        self._run("add", path)
        self._run("commit", "--quiet", "--message", "edit")
        return time.perf_counter() - began


@contextmanager
def git(bench: Bench) -> Iterator[Contender]:
    """Commit with the git program and its defaults. With them git does not wait until loose objects are on the disk."""
    program = shutil.which("git")
    if program is None:
        message = "the program git is not on the PATH"
        raise MissingPeer(message)
    folder = bench.scratch / "git"
    folder.mkdir()
    yield _Git(program, folder)


@contextmanager
def dulwich(bench: Bench) -> Iterator[Contender]:
    """Stage and commit with dulwich, in process."""
    needs_module("dulwich", "dulwich>=1.0")
    from dulwich.repo import Repo

    folder = bench.scratch / "dulwich"
    with Repo.init(str(folder), mkdir=True) as repository:
        tree = repository.get_worktree()

        class _Dulwich:
            every = 1

            def put(self, path: str, content: bytes) -> float:
                (folder / path).write_bytes(content)
                began = time.perf_counter()
                tree.stage([path])
                tree.commit(message=b"edit", committer=_AUTHOR, author=_AUTHOR)
                return time.perf_counter() - began

        yield _Dulwich()


@contextmanager
def langgraph(bench: Bench) -> Iterator[Contender]:
    """Put checkpoints whose state is the text, in another database on the same server."""
    needs_module("langgraph.checkpoint.postgres", "langgraph-checkpoint-postgres>=3.0")
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(bench.new_database("langgraph")) as saver:
        saver.setup()

        class _LangGraph:
            every = 1

            def __init__(self) -> None:
                self._steps: dict[str, int] = {}
                self._parents: dict[str, str] = {}

            def put(self, path: str, content: bytes) -> float:
                step = self._steps[path] = self._steps.get(path, 0) + 1
                versions = {"memory": f"{step:032}.0"}
                state = {"channel_values": {"memory": content.decode("utf-8", "replace")}, "channel_versions": versions}
                checkpoint = {**empty_checkpoint(), **state}
                configurable = {"thread_id": path, "checkpoint_ns": "", "checkpoint_id": self._parents.get(path)}
                metadata = {"source": "loop", "step": step, "parents": {}}
                took_s = elapsed(lambda: saver.put({"configurable": configurable}, checkpoint, metadata, versions))
                self._parents[path] = checkpoint["id"]
                return took_s

        yield _LangGraph()


#: Peers by their name in the table.
PEERS: dict[str, Callable[[Bench], object]] = {
    "append + fdatasync": appending,
    "langgraph-checkpoint-postgres put": langgraph,
    "git add + commit": git,
    "dulwich, in process": dulwich,
}
