"""The HTTP service: its answers are the Recommender's, and bad or slow clients harm no other."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bundles import bundled
from conftest import N_ITEMS, Tiny

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.serving.recommender import Recommender

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from recbole_qbert.service import answering  # noqa: E402
from recbole_qbert.service.app import ServiceLimits, make_app  # noqa: E402
from recbole_qbert.service.server import listening, make_server  # noqa: E402

LIMITS = ServiceLimits(
    max_batch_size=16,
    max_wait_ms=2,
    max_queue=256,
    max_body_bytes=50_000,
    max_histories=20,
    max_k=25,
    max_connections=100,
    timeout_s=10,
    client_timeout_s=10,
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle") / "bundle"


@pytest.fixture
def bundle(tiny: Tiny, shelf: Path) -> Path:
    """Of a QBERT4Rec that is trained once."""
    if not shelf.is_dir():
        shutil.move(bundled(tiny)[2], shelf)
    return shelf


@pytest.fixture
def recommender(bundle: Path) -> Recommender:
    return Recommender.load(bundle)


class Service:
    """A running service."""

    def __init__(self, recommender: Recommender, bundle: Path, limits: ServiceLimits):
        self.listener = listening("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        self.server = make_server(recommender, bundle, limits)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def ask(self, path: str, content: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and content of an answer; `content` is JSON or plain bytes."""
        status, _, found = self.ask_whole(path, content, **headers)
        return status, json.loads(found)

    def ask_whole(
        self, path: str, content: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and bytes of an answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        method = "GET" if content is None else "POST"
        named = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        with contextlib.closing(connection):
            connection.request(method, path, None if content is None else body, named)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, timeout=20)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def start(recommender: Recommender, bundle: Path) -> Iterator[Callable[..., Service]]:
    """`start(max_queue=3)`: a service with other limits."""
    with contextlib.ExitStack() as stack:

        def started(**limits: Any) -> Service:
            service = Service(recommender, bundle, LIMITS._replace(**limits))
            stack.callback(service.stop)
            return service

        yield started


def pairs(answer: dict[str, Any]) -> list[tuple[str, float]]:
    """The lists of `Recommender.recommend`."""
    return [(each["item"], each["score"]) for each in answer["recommendations"]]


def received(connection: socket.socket) -> bytes:
    """All bytes until the service closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


# Answers -----------------------------------------------------------------------------------------


def test_one_history_gives_the_list_of_the_recommender(
    start: Callable[..., Service], recommender: Recommender, tiny: Tiny
) -> None:
    """To the last digit: the batch is the same."""
    service = start()
    titles = dict(zip(recommender.tokens, recommender.titles or (), strict=True))
    for history in [*tiny.sequences.values()][:8]:
        for options in ({}, {"k": 3, "exclude_seen": False}, {"exclude": ["i1", "i2"]}):
            status, found = service.ask("/recommend", {"items": history, **options})
            assert status == 200 and found["unknown"] == []
            assert pairs(found) == recommender.recommend([history], **options)[0]
            assert all(each["title"] == titles[each["item"]] for each in found["recommendations"])


def test_a_batch_gives_the_lists_of_the_recommender(
    start: Callable[..., Service], recommender: Recommender, tiny: Tiny
) -> None:
    histories = [*tiny.sequences.values()][:15] + [["nothing"]]
    options: dict[str, Any] = {"k": 4, "candidates": [f"i{n}" for n in range(9)]}
    status, found = start().ask("/recommend/batch", {"histories": histories, **options})
    assert status == 200 and found["unknown"] == []
    with pytest.warns(UserWarning):
        expected = recommender.recommend(histories, **options)
    assert [*map(pairs, found["results"])] == expected
    assert [each["unknown"] for each in found["results"]] == [[]] * 15 + [["nothing"]]


def test_parallel_clients_with_different_options(
    start: Callable[..., Service], recommender: Recommender, tiny: Tiny
) -> None:
    """Each one gets its own list, and requests share passes of the model."""
    service, draw = start(), random.Random(0)
    requests = []
    for _ in range(300):
        items = [f"i{n}" for n in draw.sample(range(N_ITEMS), draw.randint(1, 12))]
        request: dict[str, Any] = {"items": items, "k": draw.randint(1, 10)}
        if draw.random() < 0.3:
            request |= {"exclude_seen": False}
        if draw.random() < 0.2:
            request |= {"candidates": ["i3", "i4", "i5", "i6"]}
        if draw.random() < 0.2:
            request |= {"exclude": ["i7", "i8"]}
        requests.append(request)
    with ThreadPoolExecutor(32) as threads:
        answers = [*threads.map(lambda request: service.ask("/recommend", request), requests)]
    for request, (status, found) in zip(requests, answers, strict=True):
        options = {name: value for name, value in request.items() if name != "items"}
        (expected,) = recommender.recommend([request["items"]], **options)
        assert status == 200
        assert [item for item, _ in pairs(found)] == [item for item, _ in expected]
        assert [s for _, s in pairs(found)] == pytest.approx([s for _, s in expected], abs=1e-5)
    text = service.ask_whole("/metrics")[2].decode()
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(rows["recbole_qbert_batch_rows_sum"]) == 300
    assert float(rows["recbole_qbert_batch_rows_count"]) < 250


@pytest.mark.parametrize("n_taken_out", [0, 3, 100])
def test_different_exclusions_share_a_pass(
    recommender: Recommender, n_taken_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out of a longer list or of the ranking, the lists are the same."""
    monkeypatch.setattr(answering, "N_TAKEN_OUT", n_taken_out)
    answerer, draw = answering.Answerer(recommender, 64), random.Random(1)
    jobs = []
    for n_excluded in (0, 1, 2, 2, 25, 29, 30):
        items = [f"i{n}" for n in draw.sample(range(N_ITEMS), 4)]
        exclude = tuple(f"i{n}" for n in draw.sample(range(N_ITEMS), n_excluded))
        for k in (1, 20):
            options = answering.ListOptions(True, None, exclude)
            jobs.append(answering.ListsJob([items], k, options, several=False))
    ask, passes = recommender.recommend, []

    def counted(histories: list[list[str]], *args: Any, **named: Any) -> Any:
        passes.append(len(histories))
        return ask(histories, *args, **named)

    monkeypatch.setattr(recommender, "recommend", counted)
    answers = answerer(jobs)
    monkeypatch.undo()
    for job, found in zip(jobs, answers, strict=True):
        if len(job.options.exclude) == N_ITEMS:
            assert str(found).startswith("exclude: it has all items")
            continue
        assert isinstance(found, bytes)
        (expected,) = ask(job.histories, job.k, exclude=job.options.exclude)
        assert [item for item, _ in pairs(json.loads(found))] == [item for item, _ in expected]
    assert passes == {0: [2] * 7, 3: [8, 2, 2, 2], 100: [12, 2]}[n_taken_out]


def test_a_model_that_searches_answers_each_request_alone(tiny: Tiny) -> None:
    """How far it searches depends on `k` and on the exclusions."""
    few: dict[str, Any] = {"beam_size": 5, "topk": [5], "valid_metric": "NDCG@5", "epochs": 1}
    recommender, draw = Recommender.load(bundled(tiny, "TIGER", **few)[2]), random.Random(2)
    jobs = []
    for n_excluded in (0, 0, 1, 4, 12):
        items = [f"i{n}" for n in draw.sample(range(N_ITEMS), 6)]
        exclude = tuple(f"i{n}" for n in draw.sample(range(N_ITEMS), n_excluded))
        for k in (1, 5, 12):
            options = answering.ListOptions(True, None, exclude)
            jobs.append(answering.ListsJob([items], k, options, several=False))
    for job, found in zip(jobs, answering.Answerer(recommender, 64)(jobs), strict=True):
        assert isinstance(found, bytes)
        (expected,) = recommender.recommend(job.histories, job.k, exclude=job.options.exclude)
        assert len(expected) == job.k
        assert [item for item, _ in pairs(json.loads(found))] == [item for item, _ in expected]


def test_explanations_are_those_of_the_recommender(
    start: Callable[..., Service], recommender: Recommender
) -> None:
    history, items = ["i3", "i4", "new", "i5", "i4"], ["i6", "i9"]
    request = {"items": history, "explain": items, "n_removals": 2}
    status, found = start().ask("/explain", request)
    expected = [each.as_json() for each in recommender.explain(history, items, 2)]
    assert status == 200
    assert found == {"explanations": json.loads(json.dumps(expected)), "unknown": ["new"]}


def test_unknown_tokens_are_reported(
    start: Callable[..., Service], recommender: Recommender
) -> None:
    service = start()
    request = {"items": ["x", "i1", 7, "x"], "exclude": ["y", "i2"], "candidates": None}
    status, found = service.ask("/recommend", request)
    assert status == 200 and found["unknown"] == ["x", "7", "y"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert pairs(found) == recommender.recommend([["i1"]], exclude=["i2"])[0]
    for path, name in (("/recommend", "items"), ("/recommend/batch", "histories")):
        for history in (["x", "y"], []):
            given = history if name == "items" else [history, history]
            with pytest.raises(InputError) as refused:
                recommender.recommend([history])
            assert service.ask(path, {name: given}) == (422, {"error": str(refused.value)})


def test_health(start: Callable[..., Service], bundle: Path) -> None:
    status, found = start().ask("/health")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert status == 200
    assert found == {
        "ready": True,
        "model": "QBERT4Rec",
        "n_items": N_ITEMS,
        "version": manifest["version"],
        "bundle": sha256_file(bundle / "manifest.json"),
    }


def test_every_field_is_described(recommender: Recommender, bundle: Path) -> None:
    """In what /docs shows; answers have the declared fields, which the tests above compare."""
    described = make_app(recommender, bundle, LIMITS).openapi()
    assert {*described["paths"]} == {
        "/recommend", "/recommend/batch", "/explain", "/health", "/metrics",
    }  # fmt: skip
    ours = {
        name: each
        for name, each in described["components"]["schemas"].items()
        if "properties" in each
    }
    for name, schema in ours.items():
        if name not in ("HTTPValidationError", "ValidationError"):
            for field, content in schema["properties"].items():
                assert content.get("description"), f"{name}.{field}"


def test_metrics_count_requests_by_path_and_status(start: Callable[..., Service]) -> None:
    service = start()
    service.ask("/recommend", {"items": ["i1"]})
    service.ask("/recommend", {"items": ["i1"], "k": 0})
    for n in range(3):
        assert service.ask(f"/nothing/{n}")[0] == 404
    status, headers, content = service.ask_whole("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    for line in (
        'recbole_qbert_requests_total{path="/recommend",status="200"} 1.0',
        'recbole_qbert_requests_total{path="/recommend",status="422"} 1.0',
        'recbole_qbert_requests_total{path="other",status="404"} 3.0',
        "recbole_qbert_queue_length 0.0",
    ):
        assert line in content.decode().splitlines()


# Requests that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content", "status", "error"),
    [
        ("/recommend", b"", 422, "body: "),
        ("/recommend", b"{", 400, "body: not JSON (Expecting property name"),
        ("/recommend", b'{"items": ["i1"]', 400, "body: not JSON"),
        ("/recommend", b"\xff\xfe\x00", 400, ""),
        ("/recommend", b"[" * 40_000, 400, ""),
        ("/recommend", b'{"items": ["\\ud800"]}', 422, ""),
        ("/recommend", [1], 422, "body: "),
        ("/recommend", {}, 422, "items: Field required"),
        ("/recommend", {"items": "i1"}, 422, "items: Input should be a valid list"),
        ("/recommend", {"items": ["i1", None]}, 422, "'items.1': Input should be a valid string"),
        ("/recommend", {"items": ["i1", ["i2"]]}, 422, "'items.1': "),
        ("/recommend", {"items": ["i1"], "k": 0}, 422, "k: Input should be greater than"),
        ("/recommend", {"items": ["i1"], "k": "3"}, 422, "k: Input should be a valid integer"),
        ("/recommend", {"items": ["i1"], "k": 10**30}, 422, "k: "),
        ("/recommend", {"items": ["i1"], "k": 31}, 422, "k: 31 is more than the 30 items"),
        ("/recommend", {"items": ["i1"], "k": 26}, 422, "k: 26 is above --max_k=25; ask for"),
        ("/recommend", {"items": ["i1"], "exclude_sen": 1}, 422, "did you mean 'exclude_seen'?"),
        ("/recommend", {"items": ["i1"], "exclude_seen": "no"}, 422, "exclude_seen: Input should"),
        ("/recommend", {"items": ["i1"], "candidates": ["x"]}, 422, "candidates: none is known"),
        ("/recommend", {"items": ["i1"], "x" * 9000: 1}, 422, "Extra inputs are not permitted"),
        ("/recommend/batch", {"histories": []}, 422, "histories: List should have at least 1"),
        ("/recommend/batch", {"histories": ["i1"]}, 422, "'histories.0': Input should be a valid"),
        ("/recommend/batch", {"histories": [["i1"]] * 21}, 422, "histories: 21; send at most 20"),
        ("/explain", {"items": ["i1"], "explain": []}, 422, "explain: List should have at least"),
        ("/explain", {"items": ["i1"], "explain": ["i2"] * 101}, 422, "explain: List should have"),
        ("/explain", {"items": ["i1"], "explain": ["x"]}, 422, "items to explain: 'x'; give items"),
        ("/explain", {"items": ["i1"], "explain": ["i1"]}, 422, "'i1': the model does not rank"),
        ("/nothing", {}, 404, "POST '/nothing': Not Found"),
        (f"/{'x' * 5000}%0A", {}, 404, "…': Not Found"),
        ("/health", {}, 405, "POST '/health': Method Not Allowed"),
        ("/recommend", None, 405, "GET '/recommend': Method Not Allowed"),
    ],
)
def test_wrong_requests_get_one_line(
    start: Callable[..., Service], path: str, content: Any, status: int, error: str
) -> None:
    service = start()
    found, answer = service.ask(path, content)
    assert found == status, answer
    assert [*answer] == ["error"]
    assert error in answer["error"] and "\n" not in answer["error"] and len(answer["error"]) < 300
    assert service.ask("/recommend", {"items": ["i1"]})[0] == 200


def test_wrong_requests_beside_right_ones(
    start: Callable[..., Service], recommender: Recommender
) -> None:
    """In the same batch: each one gets its own answer."""
    service = start(max_wait_ms=50)
    requests: list[dict[str, Any]] = [{"items": [f"i{n}"]} for n in range(10)]
    requests += [{"items": ["x"]}, {"items": ["i1"], "candidates": ["x"]}]
    with ThreadPoolExecutor(12) as threads:
        answers = [*threads.map(lambda request: service.ask("/recommend", request), requests)]
    assert [status for status, _ in answers] == [200] * 10 + [422] * 2
    for request, (_, found) in zip(requests[:10], answers, strict=False):
        (expected,) = recommender.recommend([request["items"]])
        assert [item for item, _ in pairs(found)] == [item for item, _ in expected]


def test_a_fault_of_the_service_is_logged_and_passes(
    start: Callable[..., Service],
    recommender: Recommender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = start()
    with monkeypatch.context() as patch:
        patch.setattr(recommender, "recommend", lambda *args, **named: 1 / 0)
        status, found = service.ask("/recommend", {"items": ["i1"]})
        assert status == 500 and found["error"].startswith("internal error")
    assert service.ask("/recommend", {"items": ["i1"]})[0] == 200
    assert "ZeroDivisionError" in caplog.text


def test_text_of_another_type_is_named(start: Callable[..., Service]) -> None:
    status, found = start().ask("/recommend", {"items": ["i1"]}, Content_Type="text/plain")
    assert (status, "text/plain" in found["error"]) == (422, True)


@pytest.mark.parametrize("how", ["length", "chunks", "expect"])
def test_a_large_body_is_refused_before_it_is_read(start: Callable[..., Service], how: str) -> None:
    """A gigabyte is announced and not sent, or sent until the service closes the connection."""
    service = start(max_body_bytes=1000)
    head = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += (
        "Transfer-Encoding: chunked\r\n" if how == "chunks" else "Content-Length: 1000000000\r\n"
    )
    head += "Expect: 100-continue\r\n" if how == "expect" else ""
    with service.connect() as connection:
        connection.sendall(f"{head}\r\n".encode())
        if how == "chunks":
            for _ in range(20):
                connection.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
        found = received(connection)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"body: more than 1,000 bytes" in found and b"100 Continue" not in found
    assert service.ask("/recommend", {"items": ["i1"]})[0] == 200


def test_a_client_that_sends_all_of_a_large_body_gets_its_answer(
    start: Callable[..., Service],
) -> None:
    """As http.client does, which reads only after it has sent."""
    service = start(max_body_bytes=1000)
    assert service.ask("/recommend", b"x" * 3_000_000)[0] == 413
    assert service.ask("/recommend", b"x" * 1001)[0] == 413
    assert service.ask("/recommend", b"x" * 1000)[0] == 400


# Slow clients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (b"POST /recommend HTTP/1.1\r\nHo", b"408"),
        (b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b"408"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea", b"200"),
    ],
)
def test_slow_senders_are_cut_off_and_harm_nobody(
    start: Callable[..., Service], sent: bytes, status: bytes
) -> None:
    """They go on sending a byte at a time, fifty of them; others are answered meanwhile."""
    service = start(client_timeout_s=1)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(service.connect()) for _ in range(50)]
        for connection in slow:
            connection.sendall(sent)
        while time.monotonic() < begin + 0.9:
            if sent:
                with contextlib.suppress(OSError):
                    slow[0].sendall(b"x")
            assert service.ask("/recommend", {"items": ["i1"]})[0] == 200
            time.sleep(0.05)
        for connection in slow[1:]:
            found = received(connection)
            assert found.startswith(b"HTTP/1.1 " + status), found
        received(slow[0])
    assert time.monotonic() < begin + 10


def test_an_idle_connection_may_ask_again(start: Callable[..., Service]) -> None:
    """The time for a head counts from its first byte, not from the request before."""
    service = start(client_timeout_s=0.5)
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with service.connect() as connection:
        for _ in range(3):
            connection.sendall(request)
            found = b""
            while not found.endswith(b"}"):
                assert (data := connection.recv(65536)), found
                found += data
            assert found.startswith(b"HTTP/1.1 200 ")
            time.sleep(0.7)


def test_a_client_that_does_not_read_is_cut_off(start: Callable[..., Service]) -> None:
    """Its answers fill the buffers of the system; the service waits a second and goes on."""
    service = start(client_timeout_s=1)
    service.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with service.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(200 * request)
        time.sleep(0.5)
        assert len(service.server.server_state.connections) == 1
        assert service.ask("/health")[0] == 200
        deadline = time.monotonic() + 5
        while service.server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(received(connection)) < 200 * 3000


def test_too_many_connections_are_refused(start: Callable[..., Service]) -> None:
    service = start(max_connections=5)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(service.connect())
        time.sleep(0.1)
        status, found = service.ask("/health")
        assert status == 503 and "more than 5 connections" in found["error"]
    time.sleep(0.1)
    assert service.ask("/health")[0] == 200


# Overload and stop -------------------------------------------------------------------------------


@pytest.fixture
def held(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While the event is not set, the model does not answer."""
    free, ask = threading.Event(), recommender.recommend

    def waiting(*args: Any, **named: Any) -> Any:
        assert free.wait(20)
        return ask(*args, **named)

    free.set()
    monkeypatch.setattr(recommender, "recommend", waiting)
    yield free
    free.set()


def test_overload_is_answered_with_503_and_504(
    start: Callable[..., Service], held: threading.Event
) -> None:
    """One request is computed and three wait; more are refused, and all four are too late."""
    service = start(max_queue=3, timeout_s=1, max_batch_size=1)
    held.clear()
    with ThreadPoolExecutor(20) as threads:
        asked = []
        for _ in range(20):
            asked.append(threads.submit(service.ask_whole, "/recommend", {"items": ["i1"]}))
            time.sleep(0.02)
        answers = [each.result() for each in asked]
    statuses = sorted(status for status, _, _ in answers)
    assert statuses == [503] * 16 + [504] * 4
    for status, headers, content in answers:
        assert [*json.loads(content)] == ["error"]
        assert (headers.get("retry-after") == "1") == (status == 503)
    assert service.ask("/health")[0] == 200
    held.set()
    assert service.ask("/recommend", {"items": ["i1"]})[0] == 200


def test_a_stop_answers_what_has_arrived(
    start: Callable[..., Service], held: threading.Event
) -> None:
    service = start(max_batch_size=1)
    held.clear()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(service.ask, "/recommend", {"items": ["i1"]}) for _ in range(8)]
        time.sleep(0.5)
        service.server.should_exit = True
        time.sleep(0.5)
        with pytest.raises(OSError):
            service.ask("/health")
        held.set()
        assert [each.result()[0] for each in asked] == [200] * 8
    service.thread.join(5)
    assert not service.thread.is_alive()


@pytest.mark.parametrize("key", ["items", "exclude"])
def test_half_a_surrogate_pair_is_an_unknown_item(start: Callable[..., Service], key: str) -> None:
    """JSON may name it; no encoding of text can. It is answered in the same JSON escape."""
    service = start()
    body = {"items": ["i1", "i2"], "k": 2} | {key: ["i1", "\ud800"]}
    status, found = service.ask("/recommend", json.dumps(body).encode())
    assert status == 200 and found["unknown"] == ["\ud800"]
    assert len(found["recommendations"]) == 2
