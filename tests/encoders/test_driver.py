"""Shards: resuming, starting anew, missing items, and the same bytes from every way of running."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import files_below

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.embeddings import EmbeddingTable, read_embeddings
from recbole_qbert.encoders.devices import check_device
from recbole_qbert.encoders.driver import encode_items
from recbole_qbert.encoders.shards import EncodedBatch
from recbole_qbert.encoders.tfidf import TfidfEncoder

ITEMS = [f"i{number}" for number in range(10)]
INPUTS = [f"{number}" for number in range(10)]


class Recorder:
    """Encodes a number n as [n, n * n] and remembers the shards; may raise at one of them."""

    def __init__(self, name: str = "recorder", fail_at: int | None = None):
        self.name, self.fail_at = name, fail_at
        self.shards: list[list[str]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, inputs: Sequence[str]) -> EncodedBatch:
        if len(self.shards) == self.fail_at:
            raise KeyboardInterrupt
        self.shards.append(list(inputs))
        numbers = np.array([float(text) if text else 0.0 for text in inputs], dtype=np.float32)
        vectors = np.stack([numbers, numbers**2], axis=1)[:, None]
        mask = np.array([[bool(text)] for text in inputs])
        return EncodedBatch(vectors, mask, ["" if text else "no number" for text in inputs])


def encode(
    encoder: Any, out_path: Path, inputs: Sequence[Any] = INPUTS, **arguments: Any
) -> EmbeddingTable:
    """Ten items in shards of four, unless told otherwise."""
    defaults = {"modality": "number", "shard_size": 4, "meta": {"fields": ["n"]}}
    return encode_items(ITEMS, inputs, lambda: encoder, out_path, **(defaults | arguments))


def test_a_plain_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, encoder = tmp_path / "new" / "x.npz", Recorder()
    table = encode(encoder, out)
    assert encoder.shards == [INPUTS[:4], INPUTS[4:8], INPUTS[8:]]
    assert table.vectors[:, 0].tolist() == [[n, n * n] for n in range(10)]
    assert files_below(tmp_path) == ["new", "new/x.npz", "new/x.npz.json"]
    again = read_embeddings(out)
    assert again.items == table.items == tuple(ITEMS)
    assert again.vectors.tobytes() == table.vectors.tobytes()
    expected = {"modality": "number", "encoder": {"name": "recorder"}, "fields": ["n"]}
    assert again.meta == expected | {"missing": {}}
    assert not caplog.records


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    encode(Recorder(), tmp_path / "whole.npz")
    out = tmp_path / "x.npz"
    with pytest.raises(KeyboardInterrupt):
        encode(Recorder(fail_at=2), out)
    assert not out.exists()
    assert len(list((tmp_path / "x.npz.parts").glob("*.npz"))) == 2
    second = Recorder()
    encode(second, out)
    assert second.shards == [INPUTS[8:]]
    for suffix in ("npz", "npz.json"):
        one, other = tmp_path / f"whole.{suffix}", tmp_path / f"x.{suffix}"
        assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "x.npz.parts").exists()


def test_a_run_killed_before_the_table_only_gathers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("recbole_qbert.encoders.driver.write_embeddings", interrupt)
        encode(Recorder(), tmp_path / "x.npz")
    second = Recorder()
    assert encode(second, tmp_path / "x.npz").n_items == 10
    assert second.shards == []


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9.5"]},
        {"encoder": Recorder("another")},
        {"shard_size": 5},
        {"modality": "text"},
    ],
)
def test_another_task_starts_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(Recorder(fail_at=2), tmp_path / "x.npz")
    arguments = {"encoder": Recorder()} | change
    arguments["encoder"].shards.clear()
    table = encode(out_path=tmp_path / "x.npz", **arguments)
    inputs = arguments.get("inputs", INPUTS)
    assert sum(arguments["encoder"].shards, []) == inputs
    assert table.vectors[:, 0, 0].tolist() == [float(text) for text in inputs]


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    folder = tmp_path / "x.npz.parts"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    encode(Recorder(), tmp_path / "x.npz")
    assert sorted(files_below(folder)) == ["lock", "notes.txt"]


def test_a_broken_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(Recorder(fail_at=2), tmp_path / "x.npz")
    part = tmp_path / "x.npz.parts" / "000001.npz"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(InputError, match=r"000001\.npz: a broken part .* delete it"):
        encode(Recorder(), tmp_path / "x.npz")
    part.unlink()
    assert encode(Recorder(), tmp_path / "x.npz").n_items == 10


def test_missing_items_are_listed_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A whole shard may be without vectors, the first one too."""
    inputs = ["", "", "", "", "4", "", "6", "7", "8", ""]
    with caplog.at_level(logging.WARNING):
        table = encode(Recorder(), tmp_path / "x.npz", inputs)
    assert table.items == ("i4", "i6", "i7", "i8")
    assert table.vectors[:, 0, 0].tolist() == [4, 6, 7, 8]
    missing = dict.fromkeys(["i0", "i1", "i2", "i3", "i5", "i9"], "no number")
    assert json.loads((tmp_path / "x.npz.json").read_text())["meta"]["missing"] == missing
    (record,) = caplog.records
    assert "6 of 10 items have no number vector: 'i0' (no number), 'i1'" in record.getMessage()


def test_no_vector_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.npz: none of 10 items .* 'i0' \(no number\)"):
        encode(Recorder(), tmp_path / "x.npz", [""] * 10)
    assert files_below(tmp_path) == []


class Wrong(Recorder):
    """Spoils the batches of a recorder."""

    def __init__(self, spoil: Callable[[EncodedBatch], EncodedBatch]):
        super().__init__()
        self.spoil = spoil

    def encode(self, inputs: Sequence[str]) -> EncodedBatch:
        return self.spoil(super().encode(inputs))


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    def spoil(batch: EncodedBatch) -> EncodedBatch:
        batch.vectors[batch.vectors[:, 0, 0] == 5] = np.inf
        return batch

    with pytest.raises(InputError, match="item 'i5': .* not finite; use dtype float32"):
        encode(Wrong(spoil), tmp_path / "x.npz")


def test_a_batch_of_another_size_is_a_bug(tmp_path: Path) -> None:
    def spoil(batch: EncodedBatch) -> EncodedBatch:
        return EncodedBatch(batch.vectors[1:], batch.mask[1:], batch.reasons[1:])

    with pytest.raises(ValueError, match="for 4 inputs"):
        encode(Wrong(spoil), tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "spark"}, "engine: 'spark' is none of local, ray"),
        ({"shard_size": 0}, "shard_size: 0 is not a whole number"),
        ({"inputs": INPUTS[1:]}, "10 items and 9 rows"),
    ],
)
def test_refusals(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(Recorder(), tmp_path / "x.npz", **arguments)
    assert files_below(tmp_path) == []


def test_items_twice_are_refused_before_any_work(tmp_path: Path) -> None:
    encoder = Recorder()
    with pytest.raises(InputError, match="item 1, item_id: item 'a' is on item 0 already"):
        encode_items(
            ["a", "a"], ["1", "2"], lambda: encoder, tmp_path / "x.npz",
            modality="n", shard_size=4, meta={},
        )  # fmt: skip
    assert encoder.shards == []


# Ray Data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Interrupted(TfidfEncoder):
    """Stops before the third shard."""

    n_shards = 0

    def encode(self, inputs: Sequence[Sequence[str]]) -> EncodedBatch:
        self.n_shards += 1
        if self.n_shards == 3:
            raise KeyboardInterrupt
        return super().encode(inputs)


@pytest.mark.slow
def test_ray_data_gives_the_same_bytes(tmp_path: Path, one_cpu: None) -> None:
    """In a run of its own, and in one that goes on after a kill."""
    texts = [(f"thing {number} of kind {number % 3}", "x" * number) for number in range(10)]
    texts[3] = ("", "")
    state = TfidfEncoder.fit([text for parts in texts for text in parts], 8, 1).state()
    make = functools.partial(TfidfEncoder, state)
    arguments: dict[str, Any] = {"modality": "text", "shard_size": 3, "meta": {}}
    encode_items(ITEMS, texts, make, tmp_path / "here.npz", **arguments)
    encode_items(ITEMS, texts, make, tmp_path / "ray.npz", engine="ray", **arguments)
    interrupted = functools.partial(Interrupted, state)
    with pytest.raises(KeyboardInterrupt):
        encode_items(ITEMS, texts, interrupted, tmp_path / "on.npz", **arguments)
    assert len(list((tmp_path / "on.npz.parts").glob("*.npz"))) == 2
    encode_items(ITEMS, texts, make, tmp_path / "on.npz", engine="ray", **arguments)
    for suffix in ("npz", "npz.json"):
        expected = (tmp_path / f"here.{suffix}").read_bytes()
        assert (tmp_path / f"ray.{suffix}").read_bytes() == expected
        assert (tmp_path / f"on.{suffix}").read_bytes() == expected


@pytest.mark.slow
def test_a_refusal_in_a_ray_worker(tmp_path: Path, one_cpu: None) -> None:
    """The encoder's one line, whichever shard comes first."""
    state = TfidfEncoder.fit(["ab", "cd"], 2, 1).state()
    state["projection"] = state["projection"] * np.float32(np.inf)
    make = functools.partial(TfidfEncoder, state)
    with pytest.raises(InputError, match="^item 'i[01]': the encoder's vector is not finite;"):
        encode_items(
            ["i0", "i1"], [("ab",), ("cd",)], make, tmp_path / "x.npz",
            modality="text", shard_size=1, engine="ray", meta={},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("cluster", "on_gpu", "n_threads", "expected"),
    [
        ({"CPU": 8.0}, False, 2, ({"num_cpus": 2}, 4)),
        ({"CPU": 1.0}, False, 4, ({"num_cpus": 1}, 1)),
        ({"CPU": 8.0, "GPU": 3.0}, True, 2, ({"num_gpus": 1}, 3)),
        ({"CPU": 8.0, "GPU": 3.0}, False, 8, ({"num_cpus": 8}, 1)),
    ],
)
def test_what_a_ray_worker_asks_for(
    cluster: dict[str, float], on_gpu: bool, n_threads: int, expected: tuple[dict[str, float], int]
) -> None:
    over_ray = pytest.importorskip("recbole_qbert.encoders.over_ray")
    assert over_ray._worker_resources(cluster, on_gpu, n_threads) == expected
    with pytest.raises(InputError, match="the Ray cluster has none"):
        over_ray._worker_resources({"CPU": 8.0}, True, 2)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_device(torch.device("cuda"))
    check_device(torch.device("cuda:0"))
    with pytest.raises(InputError, match="'cuda:3': this machine has 1 GPU, from cuda:0 on"):
        check_device(torch.device("cuda:3"))
