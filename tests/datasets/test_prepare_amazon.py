"""Raw Amazon files of each release to atomic files, worked out by hand."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SCRIPTS
from raw_amazon import (
    BROKEN,
    CORE_2,
    DAY,
    METADATA_LINES,
    NAMES,
    REVIEW_LINES,
    REVIEWS,
    csv_lines,
    lines_2014,
    write_lines,
)
from recbole_alone import load_alone

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets import amazon
from recbole_qbert.datasets.amazon import (
    Options,
    Prepared,
    find_interactions,
    find_metadata,
    prepare_amazon,
)

ITEM_HEADER = (
    "item_id:token", "title:token_seq", "brand:token", "categories:token_seq",
    "description:token_seq", "price:float", "image_url:token",
)  # fmt: skip
ITEMS = {
    2014: [
        ("B1", "Strings & Things", "O'Neill", "Musical_Instruments Guitars Bass_&_More", "",
         "12.50", "http://ecx.images-amazon.com/images/I/1.jpg"),
        ("B2", "", "", "Drums", 'A tab, a line and 6" of wood', "", ""),
        ("B3", "NA", "", "", "", "", ""),
    ],
    2018: [
        ("B1", "Strings & Things", "by Fender", "Musical_Instruments Guitars Bass_&_More",
         'First part. Second "part"', "1299.00", "https://x/1.jpg"),
        ("B2", '"""Quoted"" & <3"', "", "", "", "", "https://x/2.jpg"),
        ("B3", "Three", "", "", "", "8.99", "https://x/3.jpg"),
    ],
    2023: [
        ("B1", "Strings & “Things”", "Fender", "Musical_Instruments Guitars", "One.", "21.90",
         "https://x/l.jpg"),
        ("B2", "Two", "", "", "", "", ""),
        ("B3", "", "", "", "Three", "14.99", "https://x/3.jpg"),
    ],
}  # fmt: skip


def item_text(release: int) -> str:
    """The items as they should be written."""
    return "".join("\t".join(row) + "\n" for row in (ITEM_HEADER, *ITEMS[release]))


def inter_text(release: int) -> str:
    """The interactions of the 2-core as they should be written."""
    shift = ".007" if release == 2023 else ""
    rows = [f"{user}\t{item}\t{rating}\t{day * DAY}{shift}" for user, item, rating, day in CORE_2]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    return "\n".join([header, *rows, ""])


def prepare(
    folder: Path, release: int, reviews: list[str], meta: list[str], **options: object
) -> tuple[DatasetPaths, Prepared]:
    """Write the lines as raw files and prepare them."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in NAMES[release]]
    write_lines(paths[0], reviews)
    if meta:
        write_lines(paths[1], meta)
    domain = DatasetPaths("toy", folder / "out" / "toy")
    settings = Options(**{"core": 2, "ties": "token", **options})  # type: ignore[arg-type]
    made = prepare_amazon(domain, release, paths[:1], paths[1:] if meta else [], settings)
    return domain, made


@pytest.mark.parametrize("release", [2014, 2018, 2023])
def test_true_formats_give_the_hand_checked_files(tmp_path: Path, release: int) -> None:
    lines = REVIEW_LINES[release]() + BROKEN
    domain, made = prepare(tmp_path, release, lines, METADATA_LINES[release]())
    assert domain.file("inter").read_text() == inter_text(release)
    assert domain.file("item").read_text() == item_text(release)
    assert made.raw == (5, 5, 12)
    assert made.final == (3, 3, 7)
    assert not domain.file("parts").exists()
    sidecar = json.loads(Path(f"{domain.file('inter')}.json").read_text())
    assert sidecar["counts"] == {"users": 3, "items": 3, "interactions": 7}
    assert sidecar["rejected"] == made.reasons
    report = domain.file("rejected").read_text().splitlines()
    assert len(report) == sum(made.reasons.values())
    for place in (13, 14, 15):  # the broken lines stand behind the twelve reviews
        assert any(line.startswith(f"{NAMES[release][0]}:{place}\t") for line in report)


def test_what_is_rejected_says_why(tmp_path: Path) -> None:
    reviews = lines_2014() + [
        '{"reviewerID": "A1", "asin": "B1", "overall": 5.0}',
        '{"reviewerID": "A1", "asin": null, "overall": 5.0, "unixReviewTime": 1}',
        '{"reviewerID": "A1", "asin": "[PAD]", "overall": 5.0, "unixReviewTime": 1}',
        '{"reviewerID": "A\\t1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1}',
        '{"reviewerID": "A1", "asin": "B1", "overall": "five", "unixReviewTime": 1}',
        "",
        '{"reviewerID": "A1", "asin": "B1", "overall": 1.0, "unixReviewTime": 1} {"a": 1}',
        '{"reviewerID": "A\udcff1", "asin": "B1", "overall": 1.0, "unixReviewTime": 1}',
    ]  # fmt: skip
    domain, made = prepare(tmp_path, 2014, reviews, METADATA_LINES[2014]())
    report = domain.file("rejected").read_text().splitlines()
    found = {line.split(":")[1].split("\t")[0]: line.split("\t")[1] for line in report[:7]}
    assert found == {
        "13": "no time",
        "14": "item ID is blank",
        "15": "item ID is [PAD], which RecBole reserves for padding",
        "16": "user ID has a tab, line end or control character",
        "17": "a number expected",
        "19": "not a JSON object",
        "20": "not valid UTF-8",
    }
    assert [line.split("\t")[:2] for line in report[7:]] == [
        ["meta_Musical_Instruments.json.gz:5", "not an object"],
        ["meta_Musical_Instruments.json.gz:6", "asin ID is blank"],
    ]
    assert made.raw.interactions == 12


def test_odd_metadata_is_never_fatal(tmp_path: Path) -> None:
    """Literals that cannot be, and prices of every kind."""
    prices = ["$.99", 10**400, "$1,299.00", -3, float("nan"), True, None, {"x": 1}]
    meta = ["{'asin': {[]}}", "{[]: 1}", "[" * 5000, "{'asin': 'B1'\0}"]
    for place, price in enumerate(prices):
        domain, made = prepare(
            tmp_path / str(place), 2018, REVIEW_LINES[2018](),
            [*meta, json.dumps({"asin": "B1", "title": "T", "price": price})],
        )  # fmt: skip
        assert made.reasons == {"not an object": 4}
        written = {0: "\t0.99", 2: "\t1299.00"}.get(place, "")
        assert domain.file("item").read_text().splitlines()[1] == f"B1\tT{written}"


def test_what_an_earlier_preparation_wrote_goes(tmp_path: Path) -> None:
    domain, _ = prepare(tmp_path, 2018, REVIEW_LINES[2018]() + BROKEN, METADATA_LINES[2018]())
    assert domain.file("item").exists() and domain.file("rejected").exists()
    domain.file("user").touch()  # somebody else's
    (domain.folder / "notes").touch()  # whatever a sidecar says of it
    sidecar = domain.folder / "toy.inter.json"
    sidecar.write_text(sidecar.read_text().replace('"files": {', '"files": {"notes": "",'))
    again = write_lines(tmp_path / "again.json", REVIEW_LINES[2018]())
    prepare_amazon(domain, 2018, [again], [], Options(core=2), overwrite=True)
    left = {"toy.inter", "toy.inter.json", "toy.user", "notes"}
    assert {path.name for path in domain.folder.iterdir()} == left


@pytest.mark.parametrize("release", [2014, 2018, 2023])
def test_ratings_only_files_give_the_same_interactions(tmp_path: Path, release: int) -> None:
    lines = csv_lines(release)
    paths = [tmp_path / "ratings.csv", tmp_path / "ratings2.csv.gz"]
    cut = lines[:1] if release == 2023 else []
    write_lines(paths[0], [*lines[:7], "A7,B7", "", "A7,B7,five,1", "A7,B7,5.0,1,1"])
    write_lines(paths[1], [*cut, *lines[7:]])
    domain = DatasetPaths("toy", tmp_path / "toy")
    made = prepare_amazon(domain, release, paths, [], Options(core=2, ties="token"))
    assert domain.file("inter").read_text() == inter_text(release)
    assert not domain.file("item").exists()
    assert made.reasons == {
        "2 fields instead of 4": 1,
        "5 fields instead of 4": 1,
        "rating is not a finite number": 1,
    }
    assert made.raw == (5, 5, 12)


@pytest.mark.slow
def test_neither_order_of_lines_nor_hash_seed_nor_block_size_matters(tmp_path: Path) -> None:
    """The same bytes, from processes of their own."""
    written = set()
    for place in range(3):
        draw = random.Random(place)
        folder = tmp_path / str(place)
        folder.mkdir()
        for name, lines in zip(
            NAMES[2018],
            (REVIEW_LINES[2018]() + BROKEN, METADATA_LINES[2018]()),
            strict=True,
        ):
            draw.shuffle(lines)
            write_lines(folder / name, lines)
        script = (
            "import runpy, sys; import recbole_qbert.datasets.sources as s; "
            f"s.BLOCK = {10 ** (place + 2)}; "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        arguments = [
            "--category=Instruments", "--release=2018", f"--folder={folder}", "--core=2",
            f"--data_path={folder}",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script, str(SCRIPTS / "amazon.py"), *arguments],
            env=os.environ | {"PYTHONHASHSEED": str(place)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "5 lines were rejected" in done.stdout
        made = folder / "Instruments"
        written.add(
            ((made / "Instruments.inter").read_bytes(), (made / "Instruments.item").read_bytes())
        )
    ((inter, items),) = written
    assert sorted(inter.decode().splitlines()) == sorted(inter_text(2018).splitlines())
    assert items == item_text(2018).encode()


def test_what_an_item_must_have(tmp_path: Path) -> None:
    meta = METADATA_LINES[2014]()  # B1 text and picture, B2 text, B3 a title, B4 and B5 nothing
    arguments = (2014, REVIEW_LINES[2014](), meta)
    _, made = prepare(tmp_path / "a", *arguments, core=1, require=("metadata",))
    assert made.final.items == 3
    domain, made = prepare(tmp_path / "b", *arguments, core=1, require=("text", "image"))
    assert {line.split("\t")[1] for line in domain.file("inter").read_text().splitlines()[1:]} == {
        "B1"
    }
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("B2.jpg", "B3.PNG", "B1.txt"):
        (pictures / name).touch()
    domain, made = prepare(
        tmp_path / "c", *arguments, core=2, require=("image",), pictures=pictures
    )
    # Of B2 and B3: A1 and A3 have both, A2 has one.
    assert made.final == (2, 2, 4)
    _, made = prepare(tmp_path / "d", *arguments, core=1, require=("text",), longest=3)
    assert made.coverage["title"] == 1  # "NA"
    assert made.final.items == 1


def test_repeats(tmp_path: Path) -> None:
    arguments = (2014, REVIEW_LINES[2014](), [])
    domain, _ = prepare(tmp_path / "a", *arguments, core=2, duplicates="last")
    text = domain.file("inter").read_text()
    assert f"A2\tB1\t1\t{7 * DAY}\n" in text and f"A2\tB1\t5\t{6 * DAY}\n" not in text
    domain, made = prepare(tmp_path / "b", *arguments, core=1, duplicates="all")
    rows = domain.file("inter").read_text().splitlines()[1:]
    expected = [(u, str(day * DAY), i, r) for u, i, r, day in REVIEWS]
    assert [(u, t, i, float(r)) for u, i, r, t in (row.split("\t") for row in rows)] == sorted(
        expected, key=lambda row: (row[0], int(row[1]), row[2], row[3])
    )


def test_a_killed_run_does_not_parse_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = (2014, REVIEW_LINES[2014](), METADATA_LINES[2014]())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(amazon, "parse_metadata", fail)
        prepare(tmp_path, *arguments)
    domain = DatasetPaths("toy", tmp_path / "out" / "toy")
    assert [path.name for path in domain.folder.iterdir()] == ["toy.parts"]
    paths = [tmp_path / name for name in NAMES[2014]]
    with monkeypatch.context() as patched:
        patched.setattr(amazon, "_parse_reviews", fail)
        prepare_amazon(domain, 2014, paths[:1], paths[1:], Options(core=2, ties="token"))
    assert domain.file("inter").read_text() == inter_text(2014)
    paths[0].write_bytes(paths[0].read_bytes()[:-1])  # other bytes: parsed, and refused
    with pytest.raises(InputError, match="damaged or incomplete"):
        prepare_amazon(domain, 2014, paths[:1], [], Options(core=2), overwrite=True)
    assert domain.file("inter").read_text() == inter_text(2014)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core": -1}, "core is -1"),
        ({"require": ("txt",)}, "did you mean 'text'"),
        ({"duplicates": "frist"}, "did you mean 'first'"),
        ({"longest": 0}, "longest is 0"),
        ({"pictures": Path("nowhere")}, "give a folder of pictures"),
        ({"core": 5}, "none of 12 interactions is left"),
    ],
)
def test_bad_options_write_nothing(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(tmp_path, 2014, REVIEW_LINES[2014](), METADATA_LINES[2014](), **change)
    assert not (tmp_path / "out" / "toy" / "toy.inter").exists()


def test_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no line is a valid interaction .*ID is blank: 12"):
        prepare(tmp_path / "a", 2023, REVIEW_LINES[2014](), [])
    with pytest.raises(InputError, match="columns are user, item instead of user_id, parent_asin"):
        write_lines(tmp_path / "r.csv", ["user,item", "1,2"])
        prepare_amazon(
            DatasetPaths("toy", tmp_path / "t"), 2023, [tmp_path / "r.csv"], [], Options()
        )
    with pytest.raises(InputError, match="give --metadata"):
        prepare(tmp_path / "b", 2014, REVIEW_LINES[2014](), [], require=("text",))
    prepare(tmp_path / "c", 2014, REVIEW_LINES[2014](), [])
    with pytest.raises(InputError, match="toy: toy.inter exists; --overwrite replaces"):
        prepare(tmp_path / "c", 2014, REVIEW_LINES[2014](), [])


def test_files_of_a_category_are_found_by_name(tmp_path: Path) -> None:
    for name in NAMES[2018]:
        (tmp_path / name).touch()
    for find, name in zip((find_interactions, find_metadata), NAMES[2018], strict=True):
        assert find(tmp_path, "Instruments", 2018) == [tmp_path / name]
    (tmp_path / "Musical_Instruments.csv").touch()  # ratings only: the same, read faster
    (found,) = find_interactions(tmp_path, "Instruments", 2018)
    assert found.name == "Musical_Instruments.csv"
    assert find_metadata(tmp_path, "Instruments", 2023) == []
    with pytest.raises(InputError, match="has none of ratings_Musical_Instruments.csv"):
        find_interactions(tmp_path, "Instruments", 2014)


def test_recbole_itself_loads_what_is_written(tmp_path: Path) -> None:
    names = []
    for release in (2014, 2018, 2023):
        domain, _ = prepare(
            tmp_path / str(release), release, REVIEW_LINES[release](), METADATA_LINES[release]()
        )
        names.append(f"toy{release}")
        (tmp_path / names[-1]).mkdir()
        for suffix in ("inter", "item"):
            target = tmp_path / names[-1] / f"{names[-1]}.{suffix}"
            target.write_bytes(domain.file(suffix).read_bytes())
    read = load_alone(tmp_path, names, tmp_path)
    for name in names:
        assert read[name]["counts"] == [3, 3, 7]
        assert read[name]["pairs"] == sorted([user, item] for user, item, _, _ in CORE_2)
        assert read[name]["items"] == ["B1", "B2", "B3"]
        assert read[name]["last"]["A1"] == "B1"
        assert {"title", "brand", "categories", "description", "price", "image_url"} <= set(
            read[name]["fields"]
        )


def test_an_unknown_category_with_files_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "prepare",
        "amazon",
        "--category=Beauti",
        "--release=2014",
        "--reviews=r",
        "--metadata=m",
    ]
    assert main([*words, f"--data_path={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "--category" in said and "Games" in said and said.count("\n") == 1


@pytest.mark.parametrize("given", ["reviews", "metadata", "none"])
def test_only_the_files_that_are_not_given_are_searched(
    tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without metadata too, where nothing requires them."""
    raw = tmp_path / "raw"
    raw.mkdir()
    reviews = (tmp_path if given == "reviews" else raw) / NAMES[2018][0]
    metadata = tmp_path / "m.json"
    write_lines(reviews, REVIEW_LINES[2018]())
    write_lines(metadata, METADATA_LINES[2018]())
    flags = {
        "reviews": [f"--reviews={reviews}"],
        "metadata": [f"--metadata={metadata}"],
        "none": [],
    }
    words = ["prepare", "amazon", "--category=Instruments", "--release=2018", f"--folder={raw}"]
    words += ["--core=2", "--ties=token", f"--data_path={tmp_path / 'out'}", *flags[given]]
    if given != "metadata":
        assert main([*words, "--require=text"]) == 2
        assert "give --metadata" in capsys.readouterr().err
    assert main(words) == 0
    domain = DatasetPaths("Instruments", tmp_path / "out" / "Instruments")
    assert domain.file("inter").read_text() == inter_text(2018)
    assert domain.file("item").exists() == (given == "metadata")
