"""Opening pictures, finding their files, and the table that comes out."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.data.pictures import UnreadablePicture, open_picture
from recbole_qbert.encoders import image
from recbole_qbert.encoders.descriptor import DescriptorEncoder
from recbole_qbert.encoders.image import embed_image_files, find_pictures
from recbole_qbert.encoders.pictures import encode_pictures

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ml-100k"
RED, GREEN = (255, 0, 0), (0, 255, 0)


def _noise(seed: int = 0, size: tuple[int, int] = (40, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _encoded(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def _halves(mode: str, left: Any, right: Any) -> Image.Image:
    """20 x 10 pixels, one color on the left and one on the right."""
    picture = Image.new(mode, (20, 10), left)
    picture.paste(right, (10, 0, 20, 10))
    return picture


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _palette() -> Image.Image:
    picture = _halves("P", 0, 1)
    picture.putpalette([0, 0, 0, *GREEN])
    return picture


def _animation() -> bytes:
    frames = [_halves("RGB", RED, GREEN), _halves("RGB", GREEN, RED)]
    return _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


# name -> file and the colors that its left and right half must have
GOOD: dict[str, tuple[bytes, tuple[int, ...], tuple[int, ...]]] = {
    "rgb": (_encoded(_halves("RGB", RED, GREEN), "PNG"), RED, GREEN),
    "gray": (_encoded(_halves("L", 7, 200), "BMP"), (7,) * 3, (200,) * 3),
    "one bit": (_encoded(_halves("1", 0, 1), "PNG"), (0,) * 3, (255,) * 3),
    "palette": (_encoded(_palette(), "PNG", transparency=0), (255,) * 3, GREEN),
    "alpha": (
        _encoded(_halves("RGBA", (*RED, 0), (*GREEN, 255)), "WEBP", lossless=True),
        (255,) * 3,
        GREEN,
    ),
    "half alpha": (
        _encoded(_halves("LA", (0, 51), (0, 255)), "PNG"),
        (204,) * 3,  # a fifth of black on white
        (0,) * 3,
    ),
    "16 bits": (
        _encoded(_halves("I;16", 300, 200 * 257), "PNG"),
        (1,) * 3,  # 300 // 256
        (200,) * 3,
    ),
    "cmyk": (
        _encoded(_halves("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), "JPEG", quality=95),
        (255,) * 3,
        (0,) * 3,
    ),
    "animation": (_animation(), RED, GREEN),
    # 6: the camera was turned, the first row of the file is the right-hand column.
    "exif": (
        _encoded(_halves("RGB", RED, GREEN).rotate(90, expand=True), "PNG", exif=_exif(6)),
        RED,
        GREEN,
    ),
    "broken exif": (
        _encoded(_halves("RGB", RED, GREEN), "PNG", exif=b"Exif\0\0nonsense"),
        RED,
        GREEN,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_picture_becomes_rgb(name: str, tmp_path: Path) -> None:
    content, left, right = GOOD[name]
    path = tmp_path / "picture"  # the suffix does not matter
    path.write_bytes(content)
    picture = open_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (20, 10))
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels[:, :8] - left).max() <= 3  # JPEG
    assert np.abs(pixels[:, 12:] - right).max() <= 3


JPEG = _encoded(_noise(), "JPEG")
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "text": (b"<html>404 not found</html>", "not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "truncated": (JPEG[: len(JPEG) // 2], "truncated or broken picture"),
    "header only": (JPEG[:4], "not a picture"),
    "1 x 1": (_encoded(_noise(size=(1, 1)), "GIF"), r"too small or too thin \(1 x 1 pixels\)"),
    "thin": (_encoded(_noise(size=(5, 501)), "PNG"), r"too small or too thin \(5 x 501"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_has_a_reason(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadablePicture, match=reason) as caught:
        open_picture(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 130
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_no_picture_is_filled_up_where_it_was_cut(kind: str, tmp_path: Path) -> None:
    content = _encoded(_noise(), kind)
    path = tmp_path / "picture"
    for share in np.linspace(0.02, 0.98, 25):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadablePicture):
            open_picture(path)
    path.write_bytes(content)
    assert open_picture(path).size == (40, 60)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePicture, match="no such file"):
        open_picture(tmp_path / "picture.jpg")
    with pytest.raises(UnreadablePicture, match="not a file"):
        open_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadablePicture, match="not a file"):
        open_picture(tmp_path / "pipe")
    with pytest.raises(UnreadablePicture, match="no such file"):
        open_picture("a\0b")


@pytest.mark.parametrize("limit", [2399, 1000])  # Pillow itself warns of one, refuses the other
def test_too_many_pixels(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _noise().save(tmp_path / "picture.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = DescriptorEncoder().encode([tmp_path / "picture.png"])
    assert batch.reasons[0].startswith("too many pixels") and not batch.mask.any()


def test_a_large_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    _noise(size=(100, 150)).resize((1600, 2400)).save(tmp_path / "picture.jpg")
    small = open_picture(tmp_path / "picture.jpg", at_least=192)
    assert small.size == (200, 300)  # an eighth
    whole = open_picture(tmp_path / "picture.jpg").resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(small)).mean() < 3


def test_batches_on_threads_keep_the_order_and_the_reasons() -> None:
    sizes = []

    def prepare(path: str | Path) -> int:
        if int(str(path)) % 3 == 1:
            raise UnreadablePicture(f"bad {path}")
        return int(str(path))

    def encode(numbers: list[int]) -> np.ndarray:
        sizes.append(len(numbers))
        return np.array([[[n, 1.0], [n, 2.0]] for n in numbers], dtype=np.float32)

    paths = [*map(str, range(10)), None]
    run = functools.partial(encode_pictures, prepare=prepare, encode=encode, n_parts=2)
    for batch_size, n_threads in ((1, 1), (3, 4), (100, 2)):
        sizes.clear()
        batch = run(paths, batch_size=batch_size, n_threads=n_threads)
        assert sum(sizes) == 7 and max(sizes) <= batch_size
        good = [row for row in range(10) if row % 3 != 1]
        assert np.flatnonzero(batch.mask.all(axis=1)).tolist() == good
        assert batch.vectors[good, 1].tolist() == [[row, 2.0] for row in good]
        assert not batch.vectors[~batch.mask].any()
        assert batch.reasons == [
            "no picture" if row == 10 else f"bad {row}" if row % 3 == 1 else "" for row in range(11)
        ]
    nothing = run(["1", "4"], batch_size=2, n_threads=1)
    assert nothing.vectors.shape == (2, 2, 0) and not nothing.mask.any()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An `.item` file of six items and a folder with five pictures, two of them bad."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("1.jpg", "2.PNG", "a.b.webp")):
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rpartition(".")[2].lower()]
        (folder / name).write_bytes(_encoded(_noise(number), kind))
    (folder / "cut.jpeg").write_bytes(JPEG[:-500])
    (folder / "text.gif").write_text("no picture at all")
    (folder / "thumbs.db").write_text("")
    rows = ["1", "2", "a.b", "cut", "text", "none"]
    lines = [f"{item}\t{item}?" for item in rows]
    (tmp_path / "x.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines, ""]))
    files = ["1.jpg", "2.PNG", "a.b.webp", "cut.jpeg", "absent.gif", ""]
    cells = [f"pictures/{name}" if name else "" for name in files]
    table = [f"{item}\t{cell}" for item, cell in zip(rows, cells, strict=True)]
    (tmp_path / "x.tsv").write_text("\n".join(["item_id\tfile", *table, ""]))
    return tmp_path


def test_pictures_named_after_their_items(shop: Path) -> None:
    items, paths = find_pictures(shop / "x.item", folder=shop / "pictures")
    assert items == ["1", "2", "a.b", "cut", "text", "none"]
    names = [None if path is None else path.name for path in paths]
    assert names == ["1.jpg", "2.PNG", "a.b.webp", "cut.jpeg", "text.gif", None]
    (shop / "pictures" / "1.bmp").write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.bmp and 1\.jpg are both pictures of item '1'"):
        find_pictures(shop / "x.item", folder=shop / "pictures")


def test_pictures_named_in_a_column(shop: Path) -> None:
    found = find_pictures(shop / "x.tsv", column="file")
    assert found[1][0] == shop / "pictures" / "1.jpg" and found[1][5] is None
    typed = (shop / "x.tsv").read_text().replace("item_id\tfile", "item_id:token\tfile:token")
    (shop / "sub").mkdir()
    (shop / "sub" / "y.item").write_text(typed)
    assert find_pictures(shop / "sub" / "y.item", column="file", folder=shop) == found


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("item_id\tfile\n1\ta.jpg\n", {"column": "fil"}, "no column 'fil'; .* mean 'file'"),
        ("item_id\tfile\n1\n", {"column": "file"}, "line 2: 1 fields where the header has 2"),
        (
            "item_id\tfile\n\n1\ta\n1\tb\n",
            {"column": "file"},
            "line 4: item '1' occurs a second time",
        ),
        ("item_id\tfile\n", {"column": "file"}, "x.tsv is empty: no rows"),
        ("item_id:token\tfile:token\n1\ta\n", {"column": "b"}, "no column 'b'"),
        ("item_id\tfile\n1\ta.jpg\n", {"column": "file"}, r"none of 1 item .*a\.jpg was exp"),
        ("item_id\n1\n", {"folder": "."}, r"none of 1 item has .*1\.jpg was expected"),
        ("item_id\n1\n", {"folder": "absent"}, "absent: cannot be read"),
        ("item_id\n1\n", {}, "give the folder of the pictures, or the column"),
        (None, {"column": "file"}, "no such file"),
    ],
)
def test_refusals_of_the_front_end(
    text: str | None,
    settings: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("x.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_pictures("x.tsv", **settings)


def test_bad_pictures_are_masked_and_reported(shop: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = shop / "x.image.npz"
    table = embed_image_files(shop / "x.tsv", out, column="file", n_threads=2)
    assert table.items == ("1", "2", "a.b")
    assert table.vectors.shape == (3, 1, 928) and table.mask.all()
    np.testing.assert_allclose(np.linalg.norm(table.vectors[:, 0], axis=1), 1, atol=1e-6)
    missing = table.meta["missing"]
    assert set(missing) == {"cut", "text", "none"} and missing["text"] == "no such file"
    assert missing["none"] == "no picture" and missing["cut"].startswith("truncated or broken")
    assert "3 of 6 items have no image vector" in caplog.text
    sidecar = Path(f"{out}.json").read_text()
    assert json.loads(sidecar)["meta"]["missing"] == missing and str(shop) not in sidecar
    assert read_embeddings(out).vectors.tobytes() == table.vectors.tobytes()
    by_folder = embed_image_files(shop / "x.item", shop / "y.npz", folder=shop / "pictures")
    assert by_folder.vectors.tobytes() == table.vectors.tobytes()
    assert by_folder.meta["missing"]["text"].startswith("not a picture")


@pytest.mark.parametrize("named", ["by folder", "by column"])
def test_formats_that_are_not_read_are_named_and_counted(
    shop: Path, caplog: pytest.LogCaptureFixture, named: str
) -> None:
    names = ["1.tif", "2.svg", "a.b.heic", "cut.SVG", "text.jpg", "none.txt"]
    pictures = shop / "others"
    pictures.mkdir()
    for name in names:
        (pictures / name).write_bytes(JPEG if name == "text.jpg" else b"<svg/>")
    (pictures / "1.tif").write_bytes(_encoded(_noise(0), "TIFF"))
    (pictures / "text.psd").write_bytes(b"8BPS")  # there is a picture beside it
    rows = [f"{name.rpartition('.')[0]}\tothers/{name}" for name in names]
    (shop / "y.tsv").write_text("\n".join(["item_id\tfile", *rows, ""]))
    where = {"folder": pictures} if named == "by folder" else {"column": "file"}
    table = embed_image_files(shop / "y.tsv", shop / "y.npz", **where)
    assert table.items == ("text",)
    assert table.meta["missing"] == {
        "1": "format not read: .tif", "2": "format not read: .svg",
        "a.b": "format not read: .heic", "cut": "format not read: .svg",
        "none": "format not read: .txt",
    }  # fmt: skip
    assert "most often: format not read: .svg: 2; format not read: " in caplog.text
    assert "format not read: .tif: 1" in caplog.text
    (pictures / "text.jpg").unlink()
    (pictures / "text.psd").unlink()
    with pytest.raises(InputError, match="none of 6 items has a vector.*not read: .tif"):
        embed_image_files(shop / "y.tsv", shop / "z.npz", **where)


def test_no_readable_picture_at_all(shop: Path) -> None:
    out = shop / "x.npz"
    rows = ["p\tpictures/cut.jpeg", "q\tpictures/text.gif", "r\t", ""]
    (shop / "bad.tsv").write_text("\n".join(["item_id\tfile", *rows]))
    with pytest.raises(InputError, match=r"none of 3 items has a vector: 'p' \(truncated"):
        embed_image_files(shop / "bad.tsv", out, column="file")
    assert not [path for path in shop.iterdir() if path.name.startswith("x.npz")]
    with pytest.raises(InputError, match="leave pretrained and tokens out"):
        embed_image_files(shop / "x.tsv", out, column="file", tokens="grid")


class Counting(DescriptorEncoder):
    """Stops at the n-th shard, as a kill would."""

    left = 99

    def encode(self, inputs: Sequence[Any]) -> Any:
        Counting.left -= 1
        if Counting.left < 0:
            raise KeyboardInterrupt
        return super().encode(inputs)


@pytest.mark.parametrize(
    ("change", "shards_again"), [("nothing", 3), ("moved", 3), ("a picture", 5)]
)
def test_a_stopped_run_goes_on_unless_a_picture_changed(
    change: str, shards_again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "DescriptorEncoder", Counting)
    monkeypatch.setattr(Counting, "left", 2)
    folder, items = tmp_path / "here", [str(number) for number in range(10)]
    folder.mkdir()
    for number, item in enumerate(items):
        _noise(number).save(folder / f"{item}.bmp")  # all of the same size
    (tmp_path / "x.tsv").write_text("\n".join(["item_id", *items, ""]))

    def run() -> Any:
        return embed_image_files(
            tmp_path / "x.tsv", tmp_path / "x.npz", folder=folder, shard_size=2
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    if change == "moved":
        folder = Path(shutil.move(folder, tmp_path / "there"))
    elif change == "a picture":
        _noise(77).save(folder / "1.bmp")
    monkeypatch.setattr(Counting, "left", 99)
    table = run()
    assert 99 - Counting.left == shards_again
    paths = [folder / f"{item}.bmp" for item in items]
    assert table.vectors.tobytes() == DescriptorEncoder().encode(paths).vectors.tobytes()
    assert not (tmp_path / "x.npz.parts").exists()


def test_real_posters_with_three_bad_files(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/ml-100k is absent")
    items, paths = find_pictures(SHARED / "ml-100k.posters.tsv", column="poster")
    assert len(items) == 1432
    items, paths = items[:50], paths[:50]
    poster = Path(str(paths[7])).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(poster[: len(poster) * 2 // 3])
    (tmp_path / "text.jpg").write_text("nothing to see")
    paths[7], paths[20] = tmp_path / "cut.jpg", tmp_path / "text.jpg"
    paths[33] = tmp_path / "absent.jpg"
    rows = [f"{item}\t{path}" for item, path in zip(items, paths, strict=True)]
    (tmp_path / "x.tsv").write_text("\n".join(["item_id\tposter", *rows, ""]))
    table = embed_image_files(tmp_path / "x.tsv", tmp_path / "x.npz", column="poster", n_threads=1)
    assert set(table.meta["missing"]) == {items[7], items[20], items[33]}
    assert table.n_items == 47 and np.isfinite(table.vectors).all()
    np.testing.assert_allclose(np.linalg.norm(table.vectors[:, 0], axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_the_same_bytes_over_ray(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/ml-100k is absent")
    rows = (SHARED / "ml-100k.posters.tsv").read_text().split("\n")[:61]
    (tmp_path / "x.tsv").write_text("\n".join([*rows, ""]))
    run = functools.partial(
        embed_image_files, tmp_path / "x.tsv", column="poster", folder=SHARED, shard_size=16
    )
    run(out_path=tmp_path / "local.npz")
    run(out_path=tmp_path / "ray.npz", engine="ray")
    assert (tmp_path / "ray.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()
