"""Facts of a data set: by hand on seven users, by loops on drawn ones, and of known data."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from processes import run_script

from recbole_qbert.common.errors import InputError
from recbole_qbert.config.build import build_config
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.stats import gather_stats
from recbole_qbert.experiments.splits import data_counts, load_splits

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
Row = tuple[str, str, float]


def write(folder: Path, rows: list[Row], items: str | None = None) -> DatasetPaths:
    """A data set `d`."""
    domain = DatasetPaths("d", folder / "d")
    domain.folder.mkdir()
    lines = [f"{user}\t{item}\t{time}" for user, item, time in rows]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    domain.file("inter").write_text("\n".join([header, *lines, ""]))
    if items is not None:
        domain.file("item").write_text(items)
    return domain


def test_by_hand(tmp_path: Path) -> None:
    rows = [
        ("u", "a", 3), ("u", "b", 1), ("u", "a", 2), ("u", "c", 3),  # b a | a | c
        ("v", "a", 5), ("v", "d", 4),  # d | | a
        ("w", "e", 9),  # e
    ]  # fmt: skip
    items = "item_id:token\ttitle:token_seq\tprice:float\na\tA\t1\nb\t \t\nc\tC\t\nz\tZ\t\n"
    domain = write(tmp_path, rows, items)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").touch()
    facts = gather_stats(domain, tmp_path / "p")
    assert facts["counts"] == {"users": 3, "items": 5, "interactions": 7}
    assert facts["sparsity"] == pytest.approx(1 - 7 / 15)
    assert facts["lengths"]["mean"] == pytest.approx(7 / 3)
    assert (facts["lengths"]["least"], facts["lengths"]["median"], facts["lengths"]["most"]) == (
        1, 2, 4,
    )  # fmt: skip
    assert facts["popularity"]["share of the top 20%"] == pytest.approx(3 / 7)  # a of five
    assert facts["times"] == {"first": 1, "last": 9, "ties": 1, "tied test targets": 1}
    assert facts["duplicates"] == {
        "user and item": 1, "user, item and time": 0, "users with any": 1,
    }  # fmt: skip
    assert facts["leave_one_out"] == {
        "training": 4, "valid": 1, "test": 1, "users without a valid target": 2,
        "users without a test target": 2, "cold items": 2, "cold valid targets": 0,
        "cold test targets": 1, "first cold items": ["c", "e"],
    }  # fmt: skip
    assert {name: found["items"] for name, found in facts["modalities"].items()} == {
        "title": 2, "price": 1, "picture file": 1,
    }  # fmt: skip
    assert facts["modalities"]["title"]["share of interactions"] == pytest.approx(4 / 7)
    assert facts["catalog"] == {"rows without interactions": 1, "items without a row": 2}


def test_beside_loops(tmp_path: Path) -> None:
    draw = random.Random(5)
    rows: list[Row] = [
        (f"u{draw.randrange(40)}", f"i{int(draw.paretovariate(0.7)) % 60}", draw.randrange(50))
        for _ in range(400)
    ]
    facts = gather_stats(write(tmp_path, rows))
    users: dict[str, list[tuple[float, str]]] = {}
    for user, item, time in rows:
        users.setdefault(user, []).append((time, item))
    train: Counter[str] = Counter()
    tests = []
    ties = 0
    for sequence in users.values():
        ordered = sorted(sequence, key=lambda pair: pair[0])  # stable: the order of the file
        ties += sum(left[0] == right[0] for left, right in zip(ordered, ordered[1:], strict=False))
        held = max(0, min(2, len(ordered) - 2))  # a user's first two train
        train.update(item for _, item in ordered[: len(ordered) - held] if len(ordered) > 1)
        tests += [ordered[-1][1]] if held else []
    assert facts["times"]["ties"] == ties
    assert facts["leave_one_out"]["training"] == sum(train.values())
    assert facts["leave_one_out"]["test"] == len(tests)
    assert facts["leave_one_out"]["cold test targets"] == sum(item not in train for item in tests)
    cold = sorted({item for _, item, _ in rows} - set(train))
    assert facts["leave_one_out"]["cold items"] == len(cold)
    assert facts["leave_one_out"]["first cold items"] == cold[:10]
    pairs = Counter((user, item) for user, item, _ in rows)
    assert facts["duplicates"]["user and item"] == len(rows) - len(pairs)
    assert sum(facts["curves"]["lengths"][1]) == len(users)


def test_rows_of_the_splits_are_those_of_a_run(tmp_path: Path) -> None:
    """Users of one to six items, against what training loads."""
    rows = [
        (f"u{length}{user}", f"i{(place * 3 + user) % 7}", place)
        for length in range(1, 7) for user in range(3) for place in range(length)
    ]  # fmt: skip
    domain = write(tmp_path, rows)
    facts = gather_stats(domain)["leave_one_out"]
    settings = {"data_path": str(tmp_path), "use_gpu": False, "checkpoint_dir": str(tmp_path)}
    splits = load_splits(build_config("BigramChain", "d", settings=settings))
    counts = data_counts(*splits)
    assert counts["training interactions"] == facts["training"] == 3 * (2 + 2 + 2 + 3 + 4)
    assert counts["valid rows"] == facts["valid"] == 3 * 3
    assert counts["test rows"] == facts["test"] == 3 * 4
    assert facts["users without a valid target"] == 9
    assert facts["users without a test target"] == 6


def test_known_facts_of_instruments() -> None:
    folder = SHARED / "Instruments"
    if not folder.is_dir():
        pytest.skip("../shared/data/Instruments is absent")
    facts = gather_stats(DatasetPaths("Instruments", folder))
    assert facts["counts"] == {"users": 17112, "items": 6250, "interactions": 136226}
    assert f"{facts['sparsity']:.2%}" == "99.87%" and f"{facts['lengths']['mean']:.2f}" == "7.96"
    assert facts["leave_one_out"]["cold items"] == 10
    assert facts["leave_one_out"]["cold test targets"] == 33
    assert facts["duplicates"]["user and item"] == 0


def test_script(tmp_path: Path) -> None:
    domain = write(tmp_path, [("u", "a", 1), ("u", "<b>", 2)])
    outputs = [f"--json={tmp_path / 's.json'}", f"--html={tmp_path / 's.html'}"]
    where = f"--data_path={tmp_path}"
    done = run_script("stats.py", where, "--dataset=d", *outputs)
    assert done.returncode == 0, done.stderr
    assert "1 items" not in done.stderr and "users: 1" in done.stdout
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts == json.loads(json.dumps(gather_stats(domain)))
    page = (tmp_path / "s.html").read_text()
    assert "d: 1 user, 2 items, 2 interactions" in page and 'src="http' not in page
    done = run_script("stats.py", where, "--dataset=e")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        gather_stats(DatasetPaths("d", tmp_path))


def test_a_file_with_only_a_header(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"d\.inter is empty: no rows follow the header"):
        gather_stats(write(tmp_path, []))


def test_items_that_are_not_utf_8(tmp_path: Path) -> None:
    domain = write(tmp_path, [("u", "a", 1), ("u", "b", 2)])
    for text, line in (("item_id:token\tcaf\u00e9:token\na\tx\n", 1),
                       ("item_id:token\tname:token\na\tx\nb\t\u00e9\n", 3)):  # fmt: skip
        domain.file("item").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=rf"d\.item: line {line}: not UTF-8.*convert the file"):
            gather_stats(domain)
