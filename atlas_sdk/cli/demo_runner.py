"""Run the demo in a temporary folder with its own server and watcher, and remove them afterwards."""

import contextlib
import io
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from atlas_sdk import Atlas, AtlasError, NotFound
from atlas_sdk.cli.command import Flags
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.output import Output
from atlas_sdk.cli.program import run
from watcher.status import read_status

if TYPE_CHECKING:
    from atlas_sdk import Project

#: Time limit of one wait; only a failure reaches it. Beside eight busy loops on two cores the whole demo takes 70 s.
_PATIENCE_S = 120.0
#: Time between two looks at another process.
_LOOK_S = 0.02
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class StepFailed(Exception):
    """A failed step of the demo."""


class DemoRunner:
    """The runner of the demo: carries out steps, prints what they do, and records results."""

    #: The good content of the file that the demo breaks.
    good: bytes
    atlas: Atlas

    def __init__(self, flags: Flags, *, keep: bool) -> None:
        self._flags = flags
        self._keep = keep
        self._out = Output(json=flags.json, color="never" if flags.no_color else "auto")
        # `run_steps` makes this folder, and not `__init__`: `__exit__`, which removes the folder, runs only after
        # `__enter__`.
        self._root = Path(os.path.realpath(tempfile.gettempdir())) / f"atlas-demo-{secrets.token_hex(4)}"
        self._home = self._root / "home"
        self.app = self._root / "app"
        self._watcher: subprocess.Popen[bytes] | None = None
        self._results: list[tuple[str, bool, float]] = []
        self._failure: str | None = None
        self._before: dict[int, Any] = {}

    # Start and end.

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
        # Nobody else uses the server, so let it stop with the demo.
        os.environ.setdefault("ATLAS_EMBEDDED_LINGER_S", "0.2")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second ^C must not interrupt the clean-up.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._end_watcher()
            if hasattr(self, "atlas"):
                self.atlas.close()
            if not self._keep:
                self._remove()
        finally:
            signal.signal(signal.SIGINT, before)
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _remove(self) -> None:
        data = (self._home / "postgres").resolve()
        with contextlib.suppress(StepFailed):
            self._until(lambda: not (data / "postmaster.pid").exists(), "the server stops")
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(self._root, ignore_errors=True)

    def run_steps(self, steps: Iterable[tuple[str, Callable[[Self], None]]]) -> None:
        """Carry out the steps in order, and stop at the first that fails."""
        self._root.mkdir(mode=0o700)
        self.app.mkdir()
        if not self._flags.json:
            self._out.line(self._bold(f"AtlasEngine at work, in {self._root}"))
        for title, step in steps:
            self.say()
            began = time.monotonic()
            try:
                step(self)
            except (StepFailed, AtlasError, OSError, subprocess.SubprocessError) as problem:
                self._results.append((title, False, time.monotonic() - began))
                self._failure = str(problem)
                return
            self._results.append((title, True, time.monotonic() - began))

    def report(self) -> int:
        """Print a line for every step and return the exit code."""
        if self._flags.json:
            steps = [{"step": title, "ok": ok, "seconds": round(took, 3)} for title, ok, took in self._results]
            kept = str(self._root) if self._keep else None
            self._out.record({"ok": self._failure is None, "steps": steps, "problem": self._failure, "folder": kept})
            return FAILED if self._failure else 0
        self._out.line()
        for title, ok, took in self._results:
            mark = self._out.style("ok    ", fg="green") if ok else self._out.style("FAILED", fg="red")
            self._out.line(f"{mark}  {title:<46} {took:5.1f} s")
        if self._failure is not None:
            self._out.warn(self._failure)
        if self._failure is None:
            program = Path(sys.executable).with_name("atlasctl") if shutil.which("atlasctl") is None else "atlasctl"
            self.say("\nNext, in a project of yours:")
            self.say(f"$ {program} init")
            self.say(f"$ {program} watch")
        if self._keep:
            self._out.note(f"kept; look around with: atlasctl --home {self._home} --project {self.app} log")
        return FAILED if self._failure else 0

    # Actions for steps.

    def say(self, text: str = "") -> None:
        """Print a line, except with `--json`."""
        if not self._flags.json:
            self._out.line(self._bold(text) if text.startswith("$") else text)

    def open(self) -> None:
        """Start the server, and keep it up until the end."""
        with _signals_later():
            # After ^C the pool would warn of the broken connection; the demo reports the interruption itself.
            logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
            self.atlas = Atlas.open(home=self._home)

    @cached_property
    def project(self) -> "Project":
        """The project that `init` registered."""
        return self.atlas.projects.by_path(self.app)

    def write(self, name: str, text: str) -> None:
        """Write a file in place, as agents do."""
        (self.app / name).write_text(text, encoding="utf-8")

    def shell(self, command: str) -> None:
        """Run a line in a shell."""
        self.say(f"$ {command}")
        subprocess.run(("sh", "-c", command), cwd=self.app, check=True)

    def atlasctl(self, *arguments: str, path: bool = False, shown: int | None = None) -> None:
        """Run a real command with its output; print only the first `shown` arguments."""
        self.say(f"$ atlasctl {' '.join(arguments[:shown])}")
        given = [str(self.app) if path and word == "app" else word for word in arguments]
        before = ["--home", str(self._home), "--project", str(self.app)]
        before += ["--no-color"] * self._flags.no_color
        silence = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stderr(silence))
            if self._flags.json:
                stack.enter_context(contextlib.redirect_stdout(silence))
            try:
                code = run([*before, *given])
            except click.ClickException as exc:
                raise StepFailed(exc.format_message()) from exc
        self.expect(code == 0, f"atlasctl {arguments[0]} to exit with 0, not {code}")

    def start_watcher(self) -> None:
        """Start the daemon as a process of its own and wait until it watches."""
        hidden = {"ATLAS_DATABASE_URL", "ATLAS_HOME"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        command = (sys.executable, "-m", "watcher", "--home", str(self._home))
        with (self._root / "watcher.log").open("wb") as log:
            self._watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

        def is_ready() -> bool:
            found = read_status(self._home)
            return found is not None and found.ready

        self._until(is_ready, "the watcher is ready")
        self.say(f"watching, process {self._watcher.pid}")

    def stop_watcher(self) -> None:
        """Stop the daemon and expect exit code 0."""
        watcher = self._watcher
        self._end_watcher()
        self.expect(watcher is not None and watcher.returncode == 0, "the watcher to exit with 0")
        self.say("stored what was left and ended")

    def wait_for(self, name: str) -> None:
        """Wait until the newest version has the content of the file."""
        began = time.monotonic()
        wanted = (self.app / name).read_bytes()

        def is_captured() -> bool:
            try:
                return self.atlas.memory.read(self.project, name) == wanted
            except NotFound:
                return False

        self._until(is_captured, f"the watcher captures {name}")
        self.say(f"captured after {time.monotonic() - began:.2f} s")

    def expect(self, holds: bool, what: str) -> None:  # noqa: FBT001  # an assertion
        """Fail the step unless `holds` is true."""
        if not holds:
            raise StepFailed(f"expected {what}")

    def expect_content(self, name: str, wanted: bytes) -> None:
        """Fail the step unless a file has this content."""
        self.expect((self.app / name).read_bytes() == wanted, f"{name} to be as it was")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if self._watcher is not None and self._watcher.poll() is not None:
                raise StepFailed(f"the watcher ended with {self._watcher.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise StepFailed(f"waited {_PATIENCE_S:.0f} s in vain until {what}")
            pause.wait(_LOOK_S)

    def _last_words(self) -> str:
        lines = (self._root / "watcher.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def _end_watcher(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        watcher.terminate()
        try:
            watcher.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()

    def _bold(self, text: str) -> str:
        return self._out.style(text, bold=True)


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Delay signals until the block has ended: a new database must not stop half-way."""
    seen: list[int] = []
    numbers = (signal.SIGINT, *_SIGNALS)
    before = {number: signal.signal(number, lambda number, _: seen.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if seen:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
