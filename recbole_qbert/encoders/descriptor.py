"""Built-in picture encoder: color, edge and texture features, without downloads or a GPU.

Shapes: b pictures, D = 928 dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image
from skimage.color import rgb2lab
from skimage.feature import hog, local_binary_pattern

from recbole_qbert.data.pictures import open_picture
from recbole_qbert.encoders.pictures import default_threads, encode_pictures
from recbole_qbert.encoders.shards import EncodedBatch

DESCRIPTOR = "descriptor"  # the name of this encoder

WIDTH, HEIGHT = 64, 96  # pixels; item pictures are upright more often than wide
PIXELS = WIDTH * HEIGHT
REGIONS = (3, 2)  # rows and columns of 32 x 32 pixels
# The numbers of bins of a and b are odd, so that grays (a and b near 0) fall in the middle of a
# bin.
JOINT_BINS = (4, 7, 7)  # L, a, b over the whole picture
REGION_BINS = (8, 7, 7)  # L, a, b in each region
LAB_RANGES = ((0.0, 100.0), (-60.0, 60.0), (-60.0, 60.0))  # few sRGB colors lie outside
ORIENTATIONS, CELL, BLOCK = 9, 16, 2
LBP_POINTS, LBP_RADIUS = 8, 1
LBP_CODES = LBP_POINTS + 2  # rotation-invariant uniform patterns, and one code for all others
# JPEG draft mode scales coarsely; decoding at twice the final size or more hides that.
_AT_LEAST = 2 * HEIGHT
_BATCH_SIZE = 64
_NEGLIGIBLE = 1e-9


class DescriptorEncoder:
    """Encoder that computes one unit-length vector per picture from fixed formulas.

    Equal files get equal vectors. The picture is resized to 64 x 96 pixels, whatever its aspect
    ratio, and converted to Lab. The vector concatenates four blocks of length 1 and is then
    normalized. Each histogram is divided by its sum, and its square root is taken, so that dot
    products are Bhattacharyya coefficients (the Hellinger kernel). Gradients are divided by their
    norm. Block 3 is zero for a picture without edges.

    ===== ======= ==========================================================================
    block columns content
    ===== ======= ==========================================================================
    1         196 joint histogram of L, a, b: 4 x 7 x 7 bins over the whole picture
    2         132 histograms of L (8 bins), a (7) and b (7) in each of 3 x 2 regions
    3         540 histograms of oriented gradients of L: 9 orientations, cells of 16 x 16
                  pixels, blocks of 2 x 2 cells one cell apart, L2-Hys within a block
                  (Dalal & Triggs, 2005)
    4          60 uniform rotation-invariant local binary patterns of L (8 points, radius 1;
                  Ojala et al., 2002): 10 codes in each of 3 x 2 regions
    ===== ======= ==========================================================================

    In blocks 1 and 2, each pixel is divided between the two nearest bins of each channel by linear
    interpolation. With hard counts, a small change of light would move whole areas to other bins.
    """

    def __init__(self, n_threads: int | None = None):
        """Create an encoder that reads files in `n_threads`; the vectors do not depend on it."""
        self._n_threads = n_threads or default_threads()

    def describe(self) -> dict[str, Any]:
        """Return the JSON description for the sidecar, sufficient to reproduce the vectors."""
        return {
            "name": "descriptor",
            "version": 1,
            "size": [WIDTH, HEIGHT],
            "blocks": ["lab-joint", "lab-regions", "hog", "lbp-regions"],
            "pooling": "pooled",
            "dtype": "float32",
            "device": "cpu",
            "pillow": PIL.__version__,
            "scikit_image": version("scikit-image"),
        }

    def encode(self, inputs: Sequence[str | Path | None]) -> EncodedBatch:
        """Compute the descriptors of b picture files, float32 [b, 1, D]."""
        return encode_pictures(
            inputs,
            lambda path: describe_picture(open_picture(path, at_least=_AT_LEAST)),
            lambda ready: np.stack(ready)[:, None],
            n_parts=1,
            batch_size=_BATCH_SIZE,
            n_threads=self._n_threads,
        )


def describe_picture(picture: Image.Image) -> np.ndarray:
    """Compute the descriptor of an RGB picture, float32 [D]; see `DescriptorEncoder`."""
    small = picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    lab = rgb2lab(np.asarray(small))
    gradients = hog(
        lab[:, :, 0],
        orientations=ORIENTATIONS,
        pixels_per_cell=(CELL, CELL),
        cells_per_block=(BLOCK, BLOCK),
        block_norm="L2-Hys",
    )
    blocks = [
        np.sqrt(_joint_colors(lab) / PIXELS),
        np.sqrt(_region_colors(lab) / (3 * PIXELS)),
        gradients / max(np.linalg.norm(gradients), _NEGLIGIBLE),
        np.sqrt(_region_patterns(lab) / PIXELS),
    ]
    whole = np.concatenate(blocks)
    return (whole / np.linalg.norm(whole)).astype(np.float32)


def _soft_bins(values: np.ndarray, n_bins: int, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower of the two nearest bins, and the weight of the upper one.

    Values outside the range, or beyond the centers of the outer bins, count for the outer bin only.
    """
    low, high = LAB_RANGES[channel]
    place = np.clip((values - low) * n_bins / (high - low) - 0.5, 0, n_bins - 1)
    lower = np.minimum(place.astype(np.int64), n_bins - 2)
    return lower, place - lower


def _joint_colors(lab: np.ndarray) -> np.ndarray:
    """Compute block 1, soft counts [4 * 7 * 7]."""
    bins = [_soft_bins(lab[:, :, channel], n, channel) for channel, n in enumerate(JOINT_BINS)]
    counts = np.zeros(int(np.prod(JOINT_BINS)))
    for corner in itertools.product((0, 1), repeat=3):  # the 8 bins around a color
        shares = [part if up else 1 - part for (_, part), up in zip(bins, corner, strict=True)]
        numbers = [lower + up for (lower, _), up in zip(bins, corner, strict=True)]
        joint = np.ravel_multi_index(numbers, JOINT_BINS)
        counts += np.bincount(joint.ravel(), np.prod(shares, axis=0).ravel(), len(counts))
    return counts


def _region_colors(lab: np.ndarray) -> np.ndarray:
    """Compute block 2, soft counts [6 regions * 8 + 6 regions * 7 + 6 regions * 7]."""
    counts = []
    for channel, n_bins in enumerate(REGION_BINS):
        lower, part = _soft_bins(lab[:, :, channel], n_bins, channel)
        counts.append(_by_region(lower, 1 - part, n_bins) + _by_region(lower + 1, part, n_bins))
    return np.concatenate(counts)


def _region_patterns(lab: np.ndarray) -> np.ndarray:
    """Compute block 4, counts [6 regions * 10]."""
    # Rounding keeps floating-point noise from ordering neighbors of equal lightness.
    lightness = np.rint(lab[:, :, 0] * 2.55).astype(np.uint8)
    # scikit-image pads with black, which would draw a frame around every picture.
    framed = np.pad(lightness, LBP_RADIUS, mode="edge")
    codes = local_binary_pattern(framed, LBP_POINTS, LBP_RADIUS, "uniform")
    inner = codes[LBP_RADIUS:-LBP_RADIUS, LBP_RADIUS:-LBP_RADIUS].astype(np.int64)
    return _by_region(inner, np.ones_like(lightness), LBP_CODES)


def _by_region(codes: np.ndarray, weights: np.ndarray, n_codes: int) -> np.ndarray:
    """Sum the weights of codes [HEIGHT, WIDTH] per region: [6 * n_codes], regions row by row."""
    rows, columns = REGIONS
    down = np.arange(HEIGHT) * rows // HEIGHT
    across = np.arange(WIDTH) * columns // WIDTH
    places = (down[:, None] * columns + across) * n_codes + codes
    return np.bincount(places.ravel(), weights.ravel(), rows * columns * n_codes)
