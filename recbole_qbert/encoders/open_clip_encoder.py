"""Picture encoder for OpenCLIP models, with weights from a file, a folder, a tag or the hub.

Shapes: b pictures, g pictures of a batch, J vectors of a picture, D dimensions, H x W patches of
an image tower.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_qbert.common.errors import InputError, did_you_mean, one_of, preview, whole_number
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.compat.torchvision import import_torchvision
from recbole_qbert.data.pictures import open_picture
from recbole_qbert.encoders.descriptor import DESCRIPTOR
from recbole_qbert.encoders.devices import check_device, choose_device, choose_dtype
from recbole_qbert.encoders.pictures import default_threads, encode_pictures
from recbole_qbert.encoders.shards import EncodedBatch
from recbole_qbert.training.checkpoint import SafeTorch

TOKENS = ("pooled", "grid")
LOCAL_DIR, HUB = "local-dir:", "hf-hub:"
_CONFIG = "open_clip_config.json"
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")


def import_open_clip() -> ModuleType:
    """Import `open_clip`, even if torchvision's own import fails."""
    import_torchvision()
    import open_clip

    return open_clip


class OpenClipEncoder:
    """Encoder that runs the image tower of an OpenCLIP model.

    With `tokens="pooled"`, a picture gets the model's own image vector, normalized: J = 1. It is
    comparable with text vectors of the same model. With `tokens="grid"`, a picture gets the tower's
    last feature map, before the projection, and after the tower's final normalization if that
    applies to single patches. The map is divided into `grid` x `grid` cells, row by row from the
    top left, and each vector is the mean of a cell's patches: J = grid * grid. Cells overlap if H
    or W is not a multiple of `grid`.

    The constructor checks all arguments; the first `encode` loads the weights.

    Args:
        model_name: a name of `open_clip.list_models()` (OpenAI's weights need a name that ends in
            `-quickgelu`); `local-dir:<folder>` with the model's `open_clip_config.json` and
            weights; or `hf-hub:<organization>/<name>`.
        pretrained: for a plain name, a checkpoint file (safetensors, or any file that PyTorch loads
            with `weights_only=True`) or a tag of the model, which is downloaded.
        tokens: `pooled` or `grid`.
        grid: number of cells per side; None for every patch, J = H * W.
        batch_size: number of pictures encoded together.
        dtype: `auto` (bfloat16 or float16 on a GPU, float32 on a CPU), `float32`, `bfloat16` or
            `float16`; the returned vectors are always float32.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        n_threads: number of threads that read and resize; the vectors do not depend on it.

    Raises:
        InputError: an argument is invalid, or the weights are not named or do not exist.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: str | Path | None = None,
        *,
        tokens: str = "pooled",
        grid: int | None = 4,
        batch_size: int = 32,
        dtype: str = "auto",
        device: str = "auto",
        n_threads: int | None = None,
    ):
        one_of("tokens", tokens, TOKENS)
        whole_number("grid", 1 if grid is None else grid)
        whole_number("batch_size", batch_size)
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        if self._device.type == "cpu" and self._dtype != torch.float32:
            raise InputError(f"dtype {dtype} is for a GPU; give dtype=float32 on a CPU")
        self._name, self._tokens, self._grid = model_name, tokens, grid
        self._batch_size = batch_size
        self._n_threads = n_threads or default_threads()
        self._open_clip = import_open_clip()
        self._files: list[Path] = []  # local files of the weights and their configuration
        self._pretrained: str | None = None  # OpenCLIP's argument: an absolute path or a tag
        self._find_weights(None if pretrained is None else str(pretrained))

    def describe(self) -> dict[str, Any]:
        """Return model, hashes of the weight files or the tag, settings and library versions."""
        import timm
        import torchvision

        name = self._name
        if name.startswith(LOCAL_DIR):  # the folder's location differs between machines
            name = LOCAL_DIR + os.path.basename(os.path.realpath(name.removeprefix(LOCAL_DIR)))
        pooled = self._tokens == "pooled"
        return {
            "name": name,
            "kind": "open-clip",
            "weights": self._hashes or self._pretrained,
            "pooling": self._tokens,
            "grid": None if pooled else self._grid,
            "normalize": pooled,
            "batch_size": self._batch_size,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self._device.type,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "open_clip": self._open_clip.__version__,
            "timm": timm.__version__,
        }

    def encode(self, inputs: Sequence[str | Path | None]) -> EncodedBatch:
        """Encode b picture files, float32 [b, J, D].

        Raises:
            InputError: the weights cannot be loaded, the tower gives no feature map or one smaller
                than `grid`, or the GPU's memory is too small.
        """
        _, transform = self._loaded  # loads the weights here, not on the threads
        return encode_pictures(
            inputs,
            lambda path: transform(open_picture(path)),
            self._encode_batch,
            n_parts=self._n_parts,
            batch_size=self._batch_size,
            n_threads=self._n_threads,
        )

    @torch.inference_mode()
    def _encode_batch(self, pictures: list[Tensor]) -> np.ndarray:
        """Encode g transformed pictures [3, height, width], float32 [g, J, D]."""
        batch = torch.stack(pictures).to(self._device)
        half = self._dtype != torch.float32
        try:
            # CoCa's attention pooling fails with OpenCLIP's own `precision` argument.
            with torch.autocast(self._device.type, self._dtype, enabled=half):
                vectors = self._pooled(batch) if self._tokens == "pooled" else self._cells(batch)
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"{self._name}: out of GPU memory with batch_size {self._batch_size}; lower it "
                "(finished shards are kept)"
            ) from None
        return vectors.cpu().numpy()

    def _pooled(self, batch: Tensor) -> Tensor:
        """Return the tower's normalized output for transformed pictures [g, ...]: [g, 1, D]."""
        output = self._loaded[0](batch)
        if isinstance(output, tuple):  # the second output of CoCa's tower is for captions
            output = output[0]
        return functional.normalize(output.float(), dim=-1)[:, None]

    def _cells(self, batch: Tensor) -> Tensor:
        """Pool the last feature map of transformed pictures [g, ...] into cells: [g, J, D]."""
        visual = self._loaded[0]
        # CoCa's final normalization follows its attention pooling, in another dimension.
        normalize = getattr(visual, "attn_pool", None) is None
        try:
            output = visual.forward_intermediates(
                batch, indices=1, normalize_intermediates=normalize, intermediates_only=True
            )
        except (AttributeError, NotImplementedError, TypeError):
            raise InputError(
                f"{self._name}: its image tower ({type(visual).__name__}) gives no patch tokens; "
                "use tokens=pooled, or a ViT"
            ) from None
        patches = output["image_intermediates"][-1].float()  # [g, D, H, W]
        if self._grid is not None:
            height, width = patches.shape[2:]
            if self._grid > min(height, width):
                raise InputError(
                    f"{self._name}: grid {self._grid} is finer than the tower's {height} x {width} "
                    "patches; lower it"
                )
            patches = functional.adaptive_avg_pool2d(patches, self._grid)
        return patches.flatten(2).transpose(1, 2)

    @functools.cached_property
    def _n_parts(self) -> int:
        """J, found by encoding a blank picture, which also checks `tokens` and `grid` early."""
        if self._tokens == "pooled":
            return 1
        size = self._loaded[0].image_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return self._encode_batch([torch.zeros(3, height, width)]).shape[1]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The image tower and its inference transform."""
        check_device(self._device)
        try:
            # After a TypeError, OpenCLIP loads a pickle again without `weights_only`; `SafeTorch`
            # sets it then, so that a pickle can only hold tensors.
            self._open_clip.factory.torch = SafeTorch()
            # Unlike create_model_and_transforms, this function fails if it finds no weights.
            model, transform = self._open_clip.create_model_from_pretrained(
                self._name, self._pretrained, weights_only=True, device=self._device
            )
        except Exception as error:  # pickle, safetensors, JSON and the hub each have their own
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise InputError(
                f"{self._pretrained or self._name}: cannot be loaded as {self._name} ({reason}); "
                "give this model's weights, best as safetensors (a pickle that holds more than "
                "tensors is never loaded)"
            ) from None
        return model.eval().visual, transform

    def _find_weights(self, pretrained: str | None) -> None:
        """Set the source of the weights; raise InputError if there is none."""
        name = self._name
        if name.startswith((LOCAL_DIR, HUB)):
            if pretrained is not None:
                raise InputError(f"{name}: has its own weights; leave pretrained={pretrained} out")
            if name.startswith(LOCAL_DIR):
                self._files = _model_files(Path(name.removeprefix(LOCAL_DIR)))
            return
        known = self._open_clip.list_models()
        if name.replace("/", "-") not in known:
            raise InputError(
                f"OpenCLIP has no model {name!r}{did_you_mean(name, [DESCRIPTOR, *known])}; give a "
                f"name of open_clip.list_models(), {LOCAL_DIR}<folder> or "
                f"{HUB}<organization>/<name>"
            )
        tags = self._open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
        if pretrained is None:
            raise InputError(
                f"{name}: no weights are named; give pretrained=<checkpoint file>, or a tag "
                f"to download ({preview(tags) or 'this model has none'})"
            )
        self._pretrained = pretrained
        if os.path.isfile(pretrained):
            self._files = [Path(pretrained)]
            self._pretrained = os.path.abspath(pretrained)  # OpenCLIP cannot mistake it for a tag
        elif pretrained.lower().replace("-", "_") not in tags:
            raise InputError(
                f"pretrained {pretrained}: no such file, and not a tag of {name} "
                f"({preview(tags) or 'it has none'}){did_you_mean(pretrained, tags)}"
            )

    @functools.cached_property
    def _hashes(self) -> dict[str, str]:
        return {file.name: sha256_file(file) for file in self._files}


def _model_files(folder: Path) -> list[Path]:
    """Return the configuration and the weight files of a model's folder."""
    if not (folder / _CONFIG).is_file():
        raise InputError(f"{folder}: no {_CONFIG} there; give the folder of an OpenCLIP model")
    weights = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS)
    if not weights:
        raise InputError(f"{folder}: no weights there; add open_clip_model.safetensors")
    return [folder / _CONFIG, *weights]
