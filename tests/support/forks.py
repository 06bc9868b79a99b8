"""Python programs that start at once: forks of a process that has imported what they import.

A program has arguments, environment, directory and streams of its own, begins as `__main__` does and ends as Python
ends: with its traceback, `atexit` and exit code. The process that is forked only imports, and builds the embedded data,
so nothing of one program is in another. What all share is the seed of hashes and what libraries take from the
environment when they are imported; what depends on that, or kills, starts a process by itself.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Fork", "Forks"]

READ_LATE = ("COLUMNS", "COMP_", "FUSION_EVAL", "HYDRA", "MINILM", "PYTEST", "PYTHONPATH", "SMOLLM2")
"""How those variables of the environment begin that no library reads when it is imported."""

IMPORTED = (
    *("fusion_eval.cli", "fusion_eval.report_cli", "fusion_eval.report.page", "fusion_eval.taskpool"),
    *("fusion_eval.zoo", "lightning.pytorch", "pandas", "pyarrow.parquet"),
)
"""What an evaluation of the embedded pool imports."""


class Fork:
    """A program that runs.

    Args:
        answers: What its parent says of it: its process id and, once it has ended, its exit code.
    """

    def __init__(self, answers: FileIO) -> None:
        self._answers = answers
        self.pid = int(answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that killed it; None while the program runs."""
        return self._answered(0)

    def wait(self, timeout: float) -> int:
        """The exit code; a program that still runs after `timeout` seconds is killed."""
        code = self._answered(timeout)
        if code is None:
            self.kill()
            raise TimeoutError(f"process {self.pid} was killed after {timeout} s")
        return code

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended, and wait for its end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._answered(None)

    def _answered(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
        return self.returncode


class Forks:
    """Starts programs; the process that is forked starts with the first of them.

    Args:
        environment: Of the process that is forked.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**environment}
        self._server: subprocess.Popen[str] | None = None

    def start(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path) -> Fork:
        """Start `python -m module ...` or `python -c code ...` in the background; what it says goes to files."""
        changed = {name for name, _ in env.items() ^ self._environment.items() if not name.startswith(READ_LATE)}
        if changed:
            raise ValueError(f"a program with other {sorted(changed)} than the process that is forked must not be one")
        if self._server is None:
            command = [sys.executable, __file__]
            self._server = subprocess.Popen(command, env=self._environment, stdin=subprocess.PIPE, text=True)
        with tempfile.TemporaryDirectory() as folder:
            os.mkfifo(f"{folder}/answers")
            request = {"arguments": [*arguments], "cwd": str(cwd), "env": {**env}, "answers": f"{folder}/answers"}
            print(json.dumps({**request, "streams": [str(stdout), str(stderr)]}), file=self._server.stdin, flush=True)
            return Fork(FileIO(f"{folder}/answers"))

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`subprocess.run([sys.executable, *arguments], capture_output=True, text=True)`."""
        with tempfile.TemporaryDirectory() as folder:
            streams = Path(folder, "stdout"), Path(folder, "stderr")
            code = self.start(arguments, cwd, env, *streams).wait(timeout)
            said = (stream.read_text(encoding="utf-8") for stream in streams)
            return subprocess.CompletedProcess([sys.executable, *arguments], code, *said)

    def close(self) -> None:
        """End the process that is forked."""
        if self._server is not None:
            self._server.communicate()


def serve() -> dict[str, Any]:
    """Import, then fork at every request on the standard input; returns in the fork, with what is requested."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # those of a pool would be missing in a fork
    for module in IMPORTED:
        import_module(module)
    for name in ("scripts", "textures"):
        import_module("fusion_eval.data").Embedded(name).load()
    torch.set_num_threads(threads)
    for line in iter(sys.stdin.readline, ""):
        if os.fork() == 0:
            return json.loads(line)  # type: ignore[no-any-return]
        with suppress(ChildProcessError):  # forget those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    sys.exit()


def fork(answers: str) -> None:
    """Fork once more and answer with process id and exit code; returns in the fork."""
    with Path(answers).open("w", encoding="utf-8") as file:
        pid = os.fork()
        if pid:
            print(pid, file=file, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=file, flush=True)
            os._exit(0)


def become(arguments: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """Run a program as Python does that is started with `arguments`."""
    for number, path in enumerate([os.devnull, *streams]):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    kind, program, *rest = arguments
    sys.path[0] = cwd if kind == "-m" else ""
    sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = ModuleType("__main__")
        exec(program, vars(sys.modules["__main__"]))


if __name__ == "__main__":
    request = serve()
    fork(request.pop("answers"))
    become(**request)
