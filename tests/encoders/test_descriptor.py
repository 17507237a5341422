"""The color, edge and texture descriptor: by hand, by plain loops, and on the posters."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage.color import rgb2lab
from skimage.feature import local_binary_pattern

from recbole_qbert.data.pictures import open_picture
from recbole_qbert.encoders.descriptor import DescriptorEncoder, describe_picture

POSTERS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ml-100k" / "posters"
JOINT, REGIONS, GRADIENTS, PATTERNS = (
    slice(0, 196),
    slice(196, 328),
    slice(328, 868),
    slice(868, 928),
)


def _poster_paths(n: int | None) -> list[Path]:
    if not POSTERS.is_dir():
        pytest.skip("../shared/data/ml-100k/posters is absent")
    return sorted(POSTERS.glob("*.jpg"), key=lambda path: int(path.stem))[:n]


def _noise(seed: int = 0) -> Image.Image:
    """A picture of the descriptor's own size, so that resizing changes nothing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_white_picture_by_hand() -> None:
    # L = 100 lies in the last of 4 (8) bins, a = b = 0 in the middle of 7 (scikit-image's white is
    # off by 0.005, which gives the next bins a share of 1/3000); no gradient anywhere. Blocks 1, 2
    # and 4 have length 1 each, so that all is divided by sqrt(3).
    vector = describe_picture(Image.new("RGB", (30, 50), "white"))
    assert vector.shape == (928,) and vector.dtype == np.float32
    third, sixth = 1 / math.sqrt(3), math.sqrt(1 / 18) / math.sqrt(3)
    assert vector[JOINT].argmax() == 3 * 49 + 3 * 7 + 3
    assert vector[JOINT].max() == pytest.approx(third, rel=1e-3)
    lightness = vector[REGIONS][:48].reshape(6, 8)
    others = vector[REGIONS][48:].reshape(12, 7)
    assert lightness[:, 7] == pytest.approx(np.full(6, sixth), rel=1e-3)
    assert others[:, 3] == pytest.approx(np.full(12, sixth), rel=1e-3)
    assert not vector[GRADIENTS].any()
    assert np.count_nonzero(vector[PATTERNS]) == 6  # one pattern, in each region


def _soft(value: float, low: float, high: float, n: int) -> dict[int, float]:
    """Shares of a value: the middles of the bins around it, by linear interpolation."""
    middles = [low + (high - low) * (number + 0.5) / n for number in range(n)]
    if value <= middles[0] or value >= middles[-1]:
        return {0 if value <= middles[0] else n - 1: 1.0}
    upper = next(number for number in range(n) if middles[number] >= value)
    share = (value - middles[upper - 1]) / (middles[upper] - middles[upper - 1])
    return {upper - 1: 1 - share, upper: share}


def test_the_histograms_match_plain_loops() -> None:
    picture = _noise()
    lab = rgb2lab(np.asarray(picture))
    gray = np.rint(lab[..., 0] * 2.55).astype(np.uint8)
    patterns = local_binary_pattern(np.pad(gray, 1, mode="edge"), 8, 1, "uniform")[1:-1, 1:-1]
    joint, textures = np.zeros((4, 7, 7)), np.zeros((6, 10))
    colors = [np.zeros((6, n)) for n in (8, 7, 7)]
    ranges = ((0, 100), (-60, 60), (-60, 60))
    for y, x in np.ndindex(96, 64):
        region = 2 * (y // 32) + x // 32
        textures[region, int(patterns[y, x])] += 1
        for channel, n in enumerate((8, 7, 7)):
            for bin_, share in _soft(lab[y, x, channel], *ranges[channel], n).items():
                colors[channel][region, bin_] += share
        shares = [_soft(lab[y, x, c], *ranges[c], n).items() for c, n in enumerate((4, 7, 7))]
        for one, two, three in itertools.product(*shares):
            joint[one[0], two[0], three[0]] += one[1] * two[1] * three[1]
    vector = describe_picture(picture)
    # Each block's shares sum to 1, and four blocks of length 1 have length 2.
    for block, counts in (
        (JOINT, joint.ravel()),
        (REGIONS, np.concatenate([each.ravel() for each in colors])),
        (PATTERNS, textures.ravel()),
    ):
        np.testing.assert_allclose(vector[block], np.sqrt(counts / counts.sum()) / 2, atol=1e-6)
    assert np.square(vector[GRADIENTS]).sum() == pytest.approx(0.25, abs=1e-6)


def test_gradients_tell_where_an_edge_lies_and_how_it_runs() -> None:
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:, 32:] = 255
    level = np.zeros((96, 64, 3), np.uint8)
    level[48:] = 255

    def orientations(pixels: np.ndarray) -> np.ndarray:
        blocks = describe_picture(Image.fromarray(pixels))[GRADIENTS].reshape(5, 3, 2, 2, 9)
        return np.square(blocks).sum(axis=(0, 1, 2, 3))

    one, two = orientations(upright), orientations(level)
    assert one.argmax() != two.argmax()
    assert one.max() / one.sum() > 0.99 and two.max() / two.sum() > 0.99
    blocks = describe_picture(Image.fromarray(level))[GRADIENTS].reshape(5, 3, 2, 2, 9)
    assert blocks.any(axis=(1, 2, 3, 4)).tolist() == [False, True, True, True, False]


def test_same_bytes_in_any_batch_and_on_any_number_of_threads(tmp_path: Path) -> None:
    paths = []
    for seed in range(70):  # more than one batch
        paths.append(tmp_path / f"{seed}.png")
        _noise(seed).resize((20 + seed, 40)).save(paths[-1])
    together = DescriptorEncoder(n_threads=3).encode(paths)
    assert together.vectors.shape == (70, 1, 928) and together.vectors.dtype == np.float32
    assert together.mask.all() and together.reasons == [""] * 70
    for row in (0, 33, 69):
        alone = DescriptorEncoder(n_threads=1).encode([paths[row]])
        assert alone.vectors[0].tobytes() == together.vectors[row].tobytes()
        with Image.open(paths[row]) as picture:
            assert describe_picture(picture).tobytes() == together.vectors[row, 0].tobytes()


def test_only_the_settings_that_matter_are_described() -> None:
    assert DescriptorEncoder(n_threads=1).describe() == DescriptorEncoder(n_threads=4).describe()


def _check_posters(paths: list[Path]) -> np.ndarray:
    """Vectors [n, D] of posters, after what must hold for each of them."""
    batch = DescriptorEncoder(n_threads=1).encode(paths)
    vectors = batch.vectors[:, 0]
    assert batch.mask.all() and not any(batch.reasons)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    # The same vector for the same file, and for no other.
    contents = {path.read_bytes() for path in paths}
    assert len(np.unique(vectors, axis=0)) == len(contents)
    return vectors


def test_posters_are_nearer_to_a_brighter_copy_than_to_other_posters() -> None:
    paths = _poster_paths(50)
    vectors = _check_posters(paths)
    nearest, draw = [], np.random.default_rng(3)
    for path in paths:
        factor = draw.choice([0.75, 1.3])
        jittered = describe_picture(ImageEnhance.Brightness(open_picture(path)).enhance(factor))
        nearest.append(int((vectors @ jittered).argmax()))
    assert nearest == list(range(len(paths)))


@pytest.mark.slow
def test_all_posters() -> None:
    paths = _poster_paths(None)
    assert len(paths) == 1432
    vectors = _check_posters(paths)
    draw = np.random.default_rng(4)
    hits = []
    for row in draw.choice(len(paths), 200, replace=False):
        enhancer = ImageEnhance.Brightness(open_picture(paths[row]))
        jittered = describe_picture(enhancer.enhance(draw.choice([0.75, 1.3])))
        similarity = vectors @ jittered
        hits.append(similarity[row] >= similarity.max() - 1e-6)  # some posters occur twice
    assert np.mean(hits) > 0.97  # 1.0 as measured


@pytest.mark.slow
def test_a_poster_takes_milliseconds() -> None:
    paths = _poster_paths(200)
    start = time.process_time()
    DescriptorEncoder(n_threads=1).encode(paths)
    assert (time.process_time() - start) / len(paths) < 0.030  # 9 ms on an idle core
