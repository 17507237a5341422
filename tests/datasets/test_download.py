"""Against a rude server: all that is good arrives once, and a kill loses nothing."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import files_below
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_script
from rude_server import BIG, RudeServer, picture
from waiting import until

from recbole_qbert.common.errors import InputError
from recbole_qbert.datasets.download import _row, download, read_items, read_list, read_status
from recbole_qbert.datasets.http import (
    DONE,
    FAILED,
    GONE,
    NO_PICTURE,
    Download,
    Fetcher,
    HttpOptions,
    Record,
)

FAST = HttpOptions(workers=6, timeout=0.3, retries=3, backoff=0.01, max_wait=5.0)


@pytest.fixture
def server() -> Iterator[RudeServer]:
    server = RudeServer()
    yield server
    server.end()


def test_everything_good_arrives_once(server: RudeServer, tmp_path: Path) -> None:
    kinds = {
        "good": ["picture-1"], "png": ["png"], "moved": ["moved"], "stalled": ["stalled"],
        "busy": ["busy"], "broken": ["broken"], "endless": ["endless"],
        "second": ["absent", "html", "picture-2"],
        "absent": ["absent", "gone-2"], "html": ["absent", "html"], "dead": ["absent", "dead"],
        "later": ["later"], "circle": ["circle"],
    }  # fmt: skip
    entries = [Download(name, tuple(map(server.url, urls))) for name, urls in kinds.items()]
    entries.append(Download("nonsense", ("ftp://x/y.jpg", "no address", "http://")))
    counts = download(entries, tmp_path / "out", FAST, pictures=True)
    assert counts == {DONE: 8, GONE: 3, NO_PICTURE: 1, FAILED: 2}
    records = read_status(tmp_path / "out")
    assert list(records) == [entry.name for entry in entries]
    expected = {
        "good.jpg": picture(seed=1), "png.png": picture("PNG"), "moved.jpg": picture(seed=5),
        "stalled.jpg": picture(seed=9), "busy.jpg": picture(seed=7), "broken.jpg": picture(seed=8),
        "endless.jpg": picture(seed=4), "second.jpg": picture(seed=2),
    }  # fmt: skip
    assert set(files_below(tmp_path / "out")) == {*expected, "status.tsv"}
    for name, body in expected.items():
        assert (tmp_path / "out" / name).read_bytes() == body
        record = records[name.partition(".")[0]]
        assert (record.file, record.bytes) == (name, len(body))
        assert record.sha256 == hashlib.sha256(body).hexdigest()
    assert records["second"].url == server.url("picture-2")
    assert {name: records[name].state for name in ("absent", "circle", "nonsense")} == {
        "absent": GONE, "circle": GONE, "nonsense": GONE,
    }  # fmt: skip
    assert (records["html"].state, records["dead"].state) == (NO_PICTURE, FAILED)
    assert records["dead"].reason == "status 500"
    assert records["later"].reason == "status 503, asks to wait 7200 s"
    assert server.asked["picture-1"] == 1 and server.asked["dead"] == 1 + FAST.retries
    assert server.asked["busy"] == 2 and server.asked["later"] == 1
    assert all(agent.startswith("recbole-qbert/") for agent in server.agents)

    server.asked.clear()
    assert download(entries, tmp_path / "out", FAST, pictures=True) == counts
    assert set(server.asked) == {"absent", "dead", "later"}  # of `dead`, which may pass
    server.asked.clear()
    download(entries, tmp_path / "out", FAST, again=[NO_PICTURE], pictures=True)
    assert "html" in server.asked and "gone-2" not in server.asked


def test_no_address_stops_the_others(server: RudeServer, tmp_path: Path) -> None:
    odd = ["http://[bad", "http://a..b/x", "http://x:port/", f"http://{'a' * 300}/", "//x/y"]
    entries = [Download(f"odd{n}", (url,)) for n, url in enumerate([*odd, server.url("astray")])]
    entries.append(Download("good", (odd[0], server.url("astray"), server.url("picture-1"))))
    assert download(entries, tmp_path, FAST, pictures=True) == {GONE: 6, DONE: 1}
    assert (tmp_path / "good.jpg").read_bytes() == picture(seed=1)
    assert server.asked["astray"] == 2  # it stays so: not asked again


def test_a_retry_after_is_waited_for_in_the_slot_of_the_host(
    server: RudeServer, tmp_path: Path
) -> None:
    options = HttpOptions(workers=1, per_host=1, timeout=2, retries=1, backoff=0.01, max_wait=5)
    entries = [Download("a", (server.url("busy"),)), Download("b", (server.url("picture-1"),))]
    download(entries, tmp_path, options, pictures=True)
    first, second = server.times["busy"]
    assert second - first >= 1.0
    assert server.times["picture-1"][0] >= first + 1.0


def test_who_waits_for_a_server_ends_when_the_caller_does(
    server: RudeServer, tmp_path: Path
) -> None:
    (tmp_path / ".parts").mkdir()
    entries = [Download(name, (server.url(name),)) for name in ("later", "picture-1")]
    records = Fetcher(tmp_path, HttpOptions(max_wait=10_000)).all(entries)
    assert next(records).name == "picture-1"
    until(lambda: server.asked["later"])
    start = time.monotonic()
    records.close()
    assert time.monotonic() - start < 30


def test_no_more_at_a_time_than_allowed(server: RudeServer, tmp_path: Path) -> None:
    entries = [Download(f"p{n}", (server.url(f"picture-{n}"),)) for n in range(30)]
    counts = download(entries, tmp_path, HttpOptions(workers=12, per_host=2), pictures=True)
    assert counts == {DONE: 30}
    # A connection is counted until its handler ends, a moment after the answer is complete.
    assert server.most_at_once <= 3


def test_a_cut_off_file_goes_on_where_it_was(server: RudeServer, tmp_path: Path) -> None:
    digest = hashlib.sha256(BIG).hexdigest()
    entry = Download("big.bin", (server.url("cut"),), digest)
    assert download([entry], tmp_path, FAST) == {DONE: 1}
    assert (tmp_path / "big.bin").read_bytes() == BIG
    assert server.ranges == ["bytes=100000-", "bytes=200000-"]


def test_a_kill_and_a_restart_lose_nothing(server: RudeServer, tmp_path: Path) -> None:
    entries = [Download(f"p{n}", (server.url(f"file-{n}"),)) for n in range(5)]
    entries.append(Download("slow", (server.url("slow"),)))
    patient = HttpOptions(workers=2, timeout=60)
    process = multiprocessing.get_context("fork").Process(
        target=download, args=(entries, tmp_path / "out", patient)
    )
    process.start()
    part = tmp_path / "out" / ".parts"

    def under_way() -> Path | None:
        kept = [path for path in part.glob("*") if path.suffix != ".tag" and path.name != "lock"]
        done = len(read_status(tmp_path / "out")) == 5
        return kept[0] if done and kept and kept[0].stat().st_size > 100_000 else None

    kept = until(under_way)
    assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(10)
    assert not (tmp_path / "out" / "slow").exists()
    with open(tmp_path / "out" / "status.tsv", "a") as journal:
        journal.write("slow\tdone\tslow\t5120")  # cut short by the kill
    already = kept.stat().st_size
    assert download(entries, tmp_path / "out", FAST) == {DONE: 6}
    assert (tmp_path / "out" / "slow").read_bytes() == BIG
    assert server.ranges == [f"bytes={already}-"]
    assert [server.asked[f"file-{n}"] for n in range(5)] == [1] * 5
    assert set(files_below(tmp_path / "out")) == {
        "slow",
        "status.tsv",
        *(f"p{n}" for n in range(5)),
    }


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: RudeServer, tmp_path: Path) -> None:
    """`If-Range`: half of the old and half of the new must never be one file."""
    entry = Download("big", (server.url("slow"),))
    assert download([entry], tmp_path, HttpOptions(timeout=5, file_timeout=0)) == {FAILED: 1}
    assert read_status(tmp_path)["big"].reason == "incomplete after 0 s"
    assert server.asked["slow"] == 1  # not asked again at once
    server.tag = '"v2"'
    assert download([entry], tmp_path, FAST) == {DONE: 1}
    assert (tmp_path / "big").read_bytes() == BIG
    assert len(server.ranges) == 1  # asked for, and rightly refused


def test_checksums_and_damage(server: RudeServer, tmp_path: Path) -> None:
    wrong = Download("wrong", (server.url("file-1"),), "0" * 64)
    second = Download(
        "second", (server.url("picture-1"), server.url("picture-2")),
        hashlib.sha256(picture(seed=2)).hexdigest(),
    )  # fmt: skip
    entries = [wrong, second, Download("z.gz", (server.url("gzip"),))]
    assert download(entries, tmp_path, FAST) == {FAILED: 1, DONE: 2}
    assert (tmp_path / "z.gz").read_bytes() == b"\x1f\x8bnot really"
    assert set(files_below(tmp_path)) == {"second", "z.gz", "status.tsv"}
    assert "SHA-256" in read_status(tmp_path)["wrong"].reason
    # Asked twice at most, though FAST repeats three times: the list is wrong, not the network.
    assert server.asked["file-1"] == server.asked["picture-1"] == 2

    (tmp_path / "second").write_bytes(b"x" * len(picture(seed=2)))
    server.asked.clear()
    download([second], tmp_path, FAST)
    assert not server.asked  # looks untouched
    download([second], tmp_path, FAST, check=True)
    assert (tmp_path / "second").read_bytes() == picture(seed=2)
    (tmp_path / "second").unlink()
    assert download([second], tmp_path, FAST) == {DONE: 1}
    assert (tmp_path / "second").is_file()


def test_without_a_network(tmp_path: Path) -> None:
    source = tmp_path / "usb"
    source.mkdir()
    (source / "71%2B.jpg").write_bytes(picture(seed=1))
    (source / "71+.jpg").write_bytes(picture(seed=2))
    (source / "b.png").write_bytes(picture("PNG"))
    (source / "z.png").write_bytes(picture("PNG"))
    (source / "c.jpg").write_bytes(b"no picture")
    entries = [
        Download("a", ("http://x/images/71%2B.jpg?size=5",)),
        Download("b", ("http://x/unknown.jpg",)),
        Download("c", ("http://x/c.jpg",)),
        Download("d", ("http://x/d.jpg",)),
        Download("e", ("http://x/%00", "http://[x/" + "y" * 300, "http://x/..%2Fz.png")),
    ]
    (tmp_path / "z.png").write_bytes(picture("PNG", seed=9))  # beside the folder, not in it
    counts = download(entries, tmp_path / "out", FAST, pictures=True, offline=source)
    assert counts == {DONE: 3, NO_PICTURE: 1, FAILED: 1}
    assert (tmp_path / "out" / "e.png").read_bytes() == picture("PNG", seed=0)
    assert (tmp_path / "out" / "a.jpg").read_bytes() == picture(seed=2)
    assert (tmp_path / "out" / "b.png").read_bytes() == picture("PNG")
    assert read_status(tmp_path / "out")["d"].reason == f"not in {source}"
    with pytest.raises(InputError, match="absent: no such folder"):
        download(entries, tmp_path / "out", offline=tmp_path / "absent")


def test_no_picture_of_another_item_without_a_network(tmp_path: Path) -> None:
    """The file of an item by its name; that of a URL if no other item may have it."""
    source = tmp_path / "usb"
    source.mkdir()
    seeds = {"main.jpg": 1, "b.jpg": 2, "c.jpg": 3, "own.jpg": 4, "same.jpg": 5, "2.jpg": 6}
    for name, seed in seeds.items():
        (source / name).write_bytes(picture(seed=seed))
    urls = {
        "a": "http://x/a/main.jpg", "b": "http://x/b/main.jpg",  # b by its name, a not at all
        "c": "http://x/c/own.jpg",  # its name comes first
        "d": "http://x/d/own.jpg?v=2",  # c has another URL with this end
        "e": "http://x/own/../same.jpg", "f": "http://x/own/../same.jpg",  # one picture of both
        "1": "http://x/2.jpg", "2": "http://x/9.jpg",  # 2.jpg is of item 2
    }  # fmt: skip
    entries = [Download(name, (url,)) for name, url in urls.items()]
    for again in ([], [FAILED]):  # then only the failed ones are left to do
        download(entries, tmp_path / "out", FAST, pictures=True, offline=source, again=again)
        found = {path.stem: path.read_bytes() for path in (tmp_path / "out").glob("*.jpg")}
        expected = {"b": 2, "c": 3, "e": 5, "f": 5, "2": 6}
        assert found == {name: picture(seed=seed) for name, seed in expected.items()}
    records = read_status(tmp_path / "out")
    assert {name for name, record in records.items() if record.state == FAILED} == {"a", "d", "1"}
    assert records["a"].reason == (
        f"not in {source} by its name; 'main.jpg' may be of another entry"
    )


def test_names_as_long_as_the_file_system_allows(server: RudeServer, tmp_path: Path) -> None:
    longest = "é" * 125
    for name, message in ((longest, None), (f"{longest}x", "list.tsv: line 2: .*250 bytes")):
        (tmp_path / "list.tsv").write_text(f"a\t{server.url('picture-1')}\n{name}\t"
                                           f"{server.url('picture-2')}\n")  # fmt: skip
        if message:
            with pytest.raises(InputError, match=message):
                read_list(tmp_path / "list.tsv")
            continue
        entries = read_list(tmp_path / "list.tsv")
        assert download(entries, tmp_path / "out", FAST, pictures=True) == {DONE: 2}
        assert (tmp_path / "out" / f"{name}.jpg").read_bytes() == picture(seed=2)


FAULTS = {
    "no url": ("a\t\n", "line 1: 2 fields; write a name"),
    "one field": ("a\tx\nb\n", "line 2: 1 fields"),
    "digest": ("a\tx\tabc\n", "line 1: 'abc' is not a SHA-256"),
    "folder": ("a/b\tx\n", "line 1: 'a/b' is not a valid file name"),
    "hidden": (".a\tx\n", "is not a valid file name"),
    "status": ("status.tsv\tx\n", "is not a valid file name"),
    "twice": ("a\tx\na\ty\n", "'a' occurs 2 times"),
    "empty": ("\n", "has no URL; give another file or column"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_faults_of_a_list(tmp_path: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    (tmp_path / "list.tsv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_list(tmp_path / "list.tsv")
    assert message in str(caught.value)


def test_lists_and_items(tmp_path: Path) -> None:
    digest = "AB" * 32
    (tmp_path / "list.tsv").write_text(f"a\tx y\nb\tz\t{digest}\n")
    assert read_list(tmp_path / "list.tsv") == [
        Download("a", ("x", "y")), Download("b", ("z",), digest.lower()),
    ]  # fmt: skip
    (tmp_path / "x.item").write_text("item_id:token\turl:token_seq\nA1\tu v\nA2\t\nA3\tw\n")
    assert read_items(tmp_path / "x.item", "url") == [
        Download("A1", ("u", "v")), Download("A3", ("w",)),
    ]  # fmt: skip
    (tmp_path / "x.item").write_text("item_id:token\turl:token_seq\nA/1\tu\n")
    with pytest.raises(InputError, match="line 2, item_id: 'A/1' is not a valid file name"):
        read_items(tmp_path / "x.item", "url")


def test_a_foreign_status_file_is_refused(tmp_path: Path) -> None:
    for text, message in (
        ("other\n", "line 1 is not the header"),
        ("\t".join(Record._fields) + "\na\tdone\n", "line 2: is not a status row"),
        ("\t".join(Record._fields) + "\n" + "a\tok\t\t0\t\t\t\n", "line 2: is not a status row"),
    ):
        (tmp_path / "status.tsv").write_text(text)
        with pytest.raises(InputError, match=message):
            download([Download("a", ("x",))], tmp_path)
    with pytest.raises(InputError, match="again: 'gon' is none of .*did you mean 'gone'"):
        download([Download("a", ("x",))], tmp_path, again=["gon"])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Record,
            name=st.text("abc0", min_size=1),
            state=st.sampled_from([DONE, GONE, FAILED]),
            bytes=st.integers(0, 10**12),
            reason=st.text(max_size=20),
        )
    ),
    st.data(),
)
def test_a_status_file_cut_anywhere_keeps_all_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("status")
    rows = [_row(record) for record in records]
    header = "\t".join(Record._fields) + "\n"
    cut = data.draw(st.integers(0, len("".join(rows))))
    (folder / "status.tsv").write_text(header + "".join(rows)[:cut], newline="")
    expected: dict[str, str] = {}
    place = 0
    for record, row in zip(records, rows, strict=True):
        place += len(row)
        if place <= cut:
            expected[record.name] = record.state
    assert {name: record.state for name, record in read_status(folder).items()} == expected


def test_the_script(server: RudeServer, tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text(
        f"item_id:token\turl:token_seq\nA\t{server.url('picture-1')}\nB\t{server.url('dead')}\n"
    )
    arguments = [f"--items={tmp_path / 'x.item'}", "--column=url", f"--output={tmp_path / 'out'}"]
    done = run_script("download.py", *arguments, "--pictures", "--retries=0", "--again=gone")
    assert done.returncode == 2
    assert done.stdout == f"{tmp_path / 'out'}: 1 done, 1 failed\n"
    assert done.stderr.splitlines()[-1].startswith("recbole-qbert: 1 of 2 failed (see ")
    assert (tmp_path / "out" / "A.jpg").is_file()


@pytest.mark.parametrize("name", ["a  b", "a\u00a0b", " a"])
def test_a_name_with_blanks_is_found_again(server: RudeServer, tmp_path: Path, name: str) -> None:
    entries = [Download(name, (server.url("picture-1"),))]
    for _ in range(2):
        assert download(entries, tmp_path / "out", FAST, pictures=True)[DONE] == 1
    assert list(read_status(tmp_path / "out")) == [name]
    assert len((tmp_path / "out" / "status.tsv").read_text().splitlines()) == 2
