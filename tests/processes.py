"""Processes of tests that do not import the slow modules again, which takes seconds.

They are forked from a server that has imported them. Otherwise they are processes as any other:
with a working directory, an environment, streams, signals and an end of their own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO

SCRIPTS = Path(__file__).resolve().parents[1] / "dataset_scripts"
COMMAND = "import sys; from recbole_qbert.cli import main; sys.exit(main())"
RUN_PATH = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
NUMBER = struct.Struct("q")


class Process:
    """A forked process."""

    def __init__(self, report: int):
        self._report = report  # where the server writes the process's number and its exit status
        self._status: int | None = None
        self.pid = self._read()

    def _read(self) -> int:
        answer = os.read(self._report, NUMBER.size)
        assert answer, "the server of processes has ended"
        return int(NUMBER.unpack(answer)[0])

    def wait(self, timeout: float = 200) -> int:
        """Its exit status, or the number of the signal that ended it, negative."""
        if self._status is None:
            in_time, _, _ = select.select([self._report], [], [], timeout)
            if not in_time:
                self.kill()
            self._status = self._read()
            os.close(self._report)
            assert in_time, f"process {self.pid} did not end within {timeout:g} s"
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless its end is known."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Server:
    """Forks processes that have imported these modules."""

    def __init__(self, *modules: str):
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def start(
        self,
        code: str,
        *arguments: str,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        program: str = "-c",
    ) -> Process:
        """A process that runs this code; file descriptors, other arguments as of `Popen`.

        PyTorch has one thread there, whatever OMP_NUM_THREADS says.
        """
        if self._connection is None:
            self._connection = self._served()
        request = {
            "code": code,
            "argv": [program, *arguments],
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
        }
        report, writer = os.pipe()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        streams = [nowhere if each == subprocess.DEVNULL else each for each in (stdout, stderr)]
        socket.send_fds(self._connection, [b"x"], [writer, *streams])
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        os.close(writer)
        os.close(nowhere)
        return Process(report)

    def run(
        self,
        code: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        program: str = "-c",
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end, with what it printed."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            streams = {"stdout": out.fileno(), "stderr": err.fileno()}
            process = self.start(code, *arguments, **streams, env=env, cwd=cwd, program=program)
            status = process.wait()
            return subprocess.CompletedProcess(arguments, status, _text(out), _text(err))

    def _served(self) -> socket.socket:
        """The connection with a new server, which ends when this process ends."""
        own, other = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(other.fileno()), *self._modules],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # no Ctrl-C
        )
        other.close()
        return own


# What RecBole and this package import of others; all of this package, and what training imports.
LIBRARIES = Server("numpy", "torch", "pandas", "scipy.stats", "sklearn.metrics")
PACKAGE = Server("recbole_qbert.cli", "recbole_qbert.experiments.parallel", "torch._dynamo")


def run_command(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`recbole-qbert WORDS` in a process of its own."""
    return PACKAGE.run(COMMAND, *words, env=env, cwd=cwd, program="recbole-qbert")


def run_script(name: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A script of `dataset_scripts/` in a process of its own."""
    return PACKAGE.run(RUN_PATH, str(SCRIPTS / name), *words, cwd=cwd)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _serve(connection: socket.socket) -> str:
    """Fork for every request; return in the new process alone, with the code that it runs."""
    while True:
        mark, files, *_ = socket.recv_fds(connection, 1, 3)
        if not mark:  # whoever started this server has ended
            sys.exit()
        with connection.makefile("rb") as lines:
            request = json.loads(lines.readline())
        if not _fork():
            break
        for file in files:
            os.close(file)
    connection.close()
    report, *streams = files
    if process := _fork():  # here is who waits for the process
        for file in streams:
            os.close(file)
        os.write(report, NUMBER.pack(process))
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(BrokenPipeError):  # nobody asks any more
            os.write(report, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    os.close(report)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv, sys.path[0] = request["argv"], ""
    return str(request["code"])


def _fork() -> int:
    """Fork; Python 3.12 warns of it if libraries have started threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv.pop(1)))
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # the processes need not go through what is there
    exec(compile(_serve(connection), "<code>", "exec"), {"__name__": "__main__"})
