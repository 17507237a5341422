"""MovieLens in its layouts; ml-100k back to what RecBole ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import recbole
from recbole_alone import load_alone

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.movielens import (
    GENRES,
    Extras,
    find_layout,
    prepare_movielens,
    published,
)

SAMPLE = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ml-100k"


def test_ml_100k_comes_out_as_recbole_ships_it(tmp_path: Path) -> None:
    """RecBole's files in GroupLens' layout, and back."""
    raw = tmp_path / "ml-100k"
    raw.mkdir()
    inter = read_columns(f"{SAMPLE}.inter", ["user_id", "item_id", "rating", "timestamp"])
    items = read_columns(f"{SAMPLE}.item", ["item_id", "movie_title", "release_year", "class"])
    users = read_columns(f"{SAMPLE}.user", ["user_id", "age", "gender", "occupation", "zip_code"])
    rows = ["\t".join(row) for row in inter.itertuples(index=False)]
    (raw / "u.data").write_text("\n".join([*rows, ""]))
    with open(raw / "u.item", "w", encoding="latin-1") as handle:
        for item, title, year, genres in items.itertuples(index=False):
            flags = "|".join(str(int(name in genres.split(" "))) for name in GENRES)
            handle.write(f"{item}|{title} ({year})|01-Jan-1995||http://x|{flags}\n")
    (raw / "u.user").write_text(
        "\n".join("|".join(row) for row in users.itertuples(index=False)) + "\n"
    )
    domain = DatasetPaths("ml-100k", tmp_path / "out" / "ml-100k")
    made = prepare_movielens(domain, raw)
    found = published("ml-100k")
    assert found is not None and made.final == found.counts
    back = read_columns(domain.file("inter"), list(inter.columns))
    assert sorted(back.itertuples(index=False)) == sorted(inter.itertuples(index=False))
    back = read_columns(domain.file("item"), list(items.columns))
    # 267 has no year; RecBole takes the V of "(1995) (V)" for the year of 1412.
    odd = ("267", "1412")
    found_rows = {row[0]: row[1:] for row in back.itertuples(index=False)}
    for item, title, year, genres in items.itertuples(index=False):
        if item not in odd:
            words = sorted(found_rows[item][2].split())
            assert (*found_rows[item][:2], words) == (title, year, sorted(genres.split()))
    assert found_rows["1412"][0].startswith("Land Before Time III")
    assert found_rows["1412"][1] == "1995"
    back = read_columns(domain.file("user"), list(users.columns))
    assert sorted(back.itertuples(index=False)) == sorted(users.itertuples(index=False))


def write_1m(folder: Path) -> None:
    """Three movies of 1M, one of them in Latin-1 and with a colon."""
    folder.mkdir()
    (folder / "ratings.dat").write_text(
        "1::10::5::978300760\n1::20::3::978300759\n2::10::4::5\nx\n"
    )
    movies = (
        "10::Star Wars: Episode IV (1977) (V)::Action|Sci-Fi\n"
        "20::Misérables, Les (1995)::Drama\n30::X::Y\n4\n"
    )
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")


def write_20m(folder: Path) -> None:
    """The same as of 20M and later."""
    folder.mkdir()
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,5.0,978300760\n1,20,3.0,978300759\n2,10,4.0,5\nx\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n10,Star Wars: Episode IV (1977),Action|Sci-Fi\n'
        '20,"Misérables, Les (1995)",Drama\n30,X,(no genres listed)\n4\n', encoding="utf-8",
    )  # fmt: skip


@pytest.mark.parametrize("write", [write_1m, write_20m])
def test_later_layouts_with_posters_and_descriptions(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "raw")
    (tmp_path / "texts.tsv").write_text("item_id\tdescription\n20\tA  <i>long</i> one.\n")
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / "10.jpg").touch()
    domain = DatasetPaths("ml", tmp_path / "ml")
    extras = Extras(tmp_path / "texts.tsv", tmp_path / "posters")
    made = prepare_movielens(domain, tmp_path / "raw", extras)
    assert domain.file("inter").read_text().splitlines()[1:] == [
        "1\t20\t3\t978300759", "1\t10\t5\t978300760", "2\t10\t4\t5",
    ]  # fmt: skip
    assert domain.file("item").read_text(encoding="utf-8").splitlines()[1:] == [
        "10\tStar Wars: Episode IV\t1977\tAction Sci-Fi\t\t10.jpg",
        "20\tMisérables, Les\t1995\tDrama\tA long one.\t",
    ]
    assert made.coverage["poster"] == made.coverage["description"] == 1
    assert sum(made.reasons.values()) == 2
    if write is write_1m:
        assert domain.file("user").read_text().splitlines()[1] == "1\t1\tF\t10\t48067"
    read = load_alone(tmp_path, ["ml"], tmp_path)["ml"]
    assert read["counts"] == [2, 2, 3] and read["items"] == ["10", "20"]


def test_real_posters_and_descriptions(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/ml-100k is absent")
    raw = tmp_path / "raw"
    raw.mkdir()
    items = read_columns(f"{SAMPLE}.item", ["item_id", "movie_title", "release_year"])
    (raw / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n"
        + "".join(f"1,{item},3,{place}\n" for place, item in enumerate(items["item_id"]))
    )
    (raw / "movies.csv").write_text(
        "movieId,title,genres\n" + "".join(f"{item},T,Drama\n" for item in items["item_id"])
    )
    texts = SHARED / "ml-100k.descriptions.tsv"
    folder = DatasetPaths("a", tmp_path / "a")
    made = prepare_movielens(folder, raw, Extras(texts, SHARED / "posters"))
    assert made.coverage["poster"] == 1432
    assert made.coverage["description"] == 1590
    table = DatasetPaths("b", tmp_path / "b")
    again = prepare_movielens(table, raw, Extras(texts, SHARED / "ml-100k.posters.tsv"))
    assert again.coverage == made.coverage


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none of u.data, ratings.dat, ratings.csv"):
        find_layout(tmp_path)
    (tmp_path / "u.data").touch()
    with pytest.raises(InputError, match="u.item: no such file"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ("movieId,title,genres\n", "no line is a movie; unpack the archive again"),
        ('movieId,title,genres\n10,"never ends,x\n', "no line is a movie"),
    ],
)
def test_broken_movies(tmp_path: Path, movies: str, message: str) -> None:
    write_20m(tmp_path / "raw")
    (tmp_path / "raw" / "movies.csv").write_text(movies)
    domain = DatasetPaths("ml", tmp_path / "ml")
    with pytest.raises(InputError, match=message):
        prepare_movielens(domain, tmp_path / "raw")
    assert not domain.file("inter").exists()


def test_a_movie_whose_quotation_never_closes_takes_no_other_along(tmp_path: Path) -> None:
    write_20m(tmp_path / "raw")
    with open(tmp_path / "raw" / "movies.csv", "a") as handle:
        handle.write('10,"never ends,x\n' + "".join(f'{n},"T, the",Drama\n' for n in (40, 20)))
    domain = DatasetPaths("ml", tmp_path / "ml")
    made = prepare_movielens(domain, tmp_path / "raw")
    assert made.reasons["unclosed quotation"] == 1 and made.repeated == 1
    assert domain.file("item").read_text(encoding="utf-8").count("\n") == 3


def test_descriptions_with_the_file_name_of_the_movies(tmp_path: Path) -> None:
    write_20m(tmp_path / "raw")
    for folder, name in (("texts", "description"), ("pictures", "poster")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "movies.csv").write_text(
            f"item_id\t{name}\n20\tA,long,{name}\n10\tB,long,{name}\n"
        )
    extras = Extras(tmp_path / "texts" / "movies.csv", tmp_path / "pictures" / "movies.csv")
    domain = DatasetPaths("ml", tmp_path / "ml")
    made = prepare_movielens(domain, tmp_path / "raw", extras)
    assert domain.file("item").read_text(encoding="utf-8").splitlines()[1:] == [
        "10\tStar Wars: Episode IV\t1977\tAction Sci-Fi\tB,long,description\tB,long,poster",
        "20\tMisérables, Les\t1995\tDrama\tA,long,description\tA,long,poster",
    ]
    assert made.repeated == 0
    with open(domain.file("rejected")) as handle:
        assert {line.partition("\t")[0] for line in handle} == {"ratings.csv:5", "movies.csv:5"}
