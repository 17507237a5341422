"""`recbole-qbert serve`: its process, the examples of the page, and the image."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from urllib.request import urlopen

import pytest
from command_lines import check_line
from conftest import Tiny
from processes import COMMAND, PACKAGE, Process

from recbole_qbert.cli import main
from recbole_qbert.commands.keys import keys_in
from recbole_qbert.commands.serve import EXPORT_ONNX, SERVE
from recbole_qbert.experiments.run import run_models

ROOT = Path(__file__).parents[2]
DATA = "--data_path=."


@pytest.fixture
def bundle(tiny: Tiny) -> str:
    (result,) = run_models(["QBERT4Rec"], "toy", settings=tiny.settings("QBERT4Rec", epochs=1))
    assert result.bundle
    return result.bundle


class Service(NamedTuple):
    """The command in a process."""

    process: Process
    address: str
    output: IO[str]
    errors: Path

    def end(self) -> tuple[int, str, str]:
        """Its exit status and what it printed since it serves, once it ends."""
        return self.process.wait(20), self.output.read(), self.errors.read_text()


@pytest.fixture
def service(tiny: Tiny, bundle: str) -> Iterator[Service]:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("prometheus_client")
    words = ["serve", bundle, "--port=0", "--threads=1"]
    reader, writer = os.pipe()
    errors = tiny.root / "errors"
    with open(reader, encoding="utf-8") as output, open(errors, "wb") as file:
        streams = {"stdout": writer, "stderr": file.fileno()}
        process = PACKAGE.start(COMMAND, *words, **streams, program="recbole-qbert")
        os.close(writer)
        try:
            line = output.readline()
            found = re.fullmatch(r"QBERT4Rec on (http://127\.0\.0\.1:\d+)\n", line)
            assert found, line
            yield Service(process, found[1], output, errors)
        finally:
            process.kill()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(service: Service, by: signal.Signals) -> None:
    assert json.load(urlopen(f"{service.address}/health"))["ready"]
    service.process.send_signal(by)
    assert service.end() == (0, "", "")


def test_the_examples_of_the_page_run(service: Service) -> None:
    """With the tokens of the toy items."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    page = (ROOT / "docs" / "serve.md").read_text("utf-8").replace("\\\n", " ")
    answers = []
    for line in re.findall(r"^curl .*$", page, re.MULTILINE):
        line = re.sub(r'"(\d\d)"', lambda token: f'"i{int(token[1]) - 50}"', line)
        line = line.replace("http://127.0.0.1:8000", service.address)
        done = subprocess.run(shlex.split(line), stdout=subprocess.PIPE, check=True, text=True)
        answers.append(done.stdout)
    one, batch, explained, health = map(json.loads, answers[:4])
    assert len(one["recommendations"]) == 3 and one["unknown"] == []
    assert [len(each["recommendations"]) for each in batch["results"]] == [2, 2]
    assert [each["item"] for each in explained["explanations"]] == ["i10"]
    assert health["n_items"] == 30
    assert 'requests_total{path="/recommend/batch",status="200"} 1.0' in answers[4]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--port=70000"], "--host=127.0.0.1 --port=70000: "),
        (["--host=256.0.0.1"], "--host=256.0.0.1 --port=8000: "),
        (["--max_k=0"], "--max_k: 0 is not a whole number of at least 1"),
        (["--max_queue="], "--max_queue=: has no value; leave it out for 256"),
        (["--threads=-1"], "--threads: -1 is not a whole number of at least 1"),
        (["--timeout_s=0"], "--timeout_s=0.0: give a number above 0"),
        (["--timeout_s=inf"], "--timeout_s=inf: give a number above 0"),
        (["--max_wait_ms=nan"], "--max_wait_ms=nan: give a number above 0"),
        (["--max_wait_ms=-1"], "--max_wait_ms=-1.0: give a number above 0"),
        (["--port=0", "--max_wait_ms=0"], "none: no such folder of a bundle"),
    ],
)
def test_wrong_flags_get_one_line(
    tiny: Tiny, flags: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    assert main(["serve", "none", *flags]) == 2
    said = capsys.readouterr().err
    assert error in said and said.count("\n") == 1


def test_titles_of_another_field(
    tiny: Tiny, bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    from recbole_qbert.service import server

    served = []
    monkeypatch.setattr(server, "serve", lambda recommender, *_: served.append(recommender))
    assert main(["serve", bundle, "--port=0", "--title_field=class", "--dataset=toy", DATA]) == 0
    (recommender,) = served
    titles = dict(zip(recommender.tokens, recommender.titles, strict=True))
    assert titles["i1"] == "red" and titles["i2"] == "green"
    assert main(["serve", bundle, "--port=0", "--title_field=no", "--dataset=toy", DATA]) == 2
    assert "no column 'no'" in capsys.readouterr().err


def test_a_port_in_use_gets_one_line(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", bundle, f"--port={port}"]) == 2
    assert "Address already in use; give another address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["serve", "none"], "fastapi", "serve"),
        (["export-onnx", "none", "--output=x"], "onnx", "onnx"),
    ],
)
def test_a_missing_package_is_named(
    words: list[str],
    package: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [*sys.modules]:
        if name.startswith(("recbole_qbert.service", "recbole_qbert.serving.onnx_export")):
            monkeypatch.delitem(sys.modules, name)
    assert main(words) == 2
    install = f"pip install 'recbole-qbert[{extra}]'"
    assert capsys.readouterr().err == f"recbole-qbert: {package} is not installed; run: {install}\n"


def test_the_help_names_the_extra() -> None:
    for command, extra in ((SERVE, "serve"), (EXPORT_ONNX, "onnx")):
        assert f"pip install 'recbole-qbert[{extra}]'" in command.details


# The image ---------------------------------------------------------------------------------------


def test_the_image_has_what_the_package_has() -> None:
    """Copied files exist and are not ignored, the command is taken, the port is the default."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    kept = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    ]
    steps = [line.split(maxsplit=1) for line in text.splitlines() if re.match("[A-Z]+ ", line)]
    for _, words in (step for step in steps if step[0] == "COPY"):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, source
    of = dict(steps)
    assert re.fullmatch(r"python:3\.13-slim", of["FROM"])
    command = json.loads(of["ENTRYPOINT"])
    check_line(command)
    (port,) = (key.default for key in keys_in(SERVE.flags) if key.name == "port")
    assert of["EXPOSE"] == port and f"--port={port}" in command
    assert f":{port}/health" in of["HEALTHCHECK"]
    install = next(words for step, words in steps if step == "RUN" and "pip" in words)
    assert "-c constraints/python3.13.txt '.[serve]'" in install
    assert "--no-deps recbole==1.2.1" in install
    assert of["USER"] == "recbole"
