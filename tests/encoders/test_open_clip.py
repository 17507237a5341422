"""OpenCLIP towers: a tiny ViT, a ResNet and a timm ViT, against OpenCLIP's own forward."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.compat import torchvision
from recbole_qbert.encoders.image import embed_image_files, find_pictures
from recbole_qbert.encoders.open_clip_encoder import OpenClipEncoder, import_open_clip

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ml-100k"
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-coca": {
        "embed_dim": 24,
        "vision_cfg": VIT
        | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 8, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    },
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token"},
        "text_cfg": TEXT,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the tiny models, whose names OpenCLIP knows from here on; 12 pictures."""
    folder = tmp_path_factory.mktemp("open_clip")
    open_clip = import_open_clip()
    (folder / "configs").mkdir()
    for name, config in CONFIGS.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "configs")
    for seed, name in enumerate(CONFIGS):
        torch.manual_seed(seed)
        save_file(open_clip.create_model(name).state_dict(), folder / f"{name}.safetensors")
    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (6, 5 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((100, 120)).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return [folder / f"{number}.jpg" for number in range(12)]


Load = Callable[[str], tuple[Any, torch.Tensor]]


@pytest.fixture(scope="module")
def load(folder: Path, paths: list[Path]) -> Load:
    """OpenCLIP's own model of a name, in float32 for inference, and the transformed pictures."""

    def make(name: str) -> tuple[Any, torch.Tensor]:
        model, _, transform = import_open_clip().create_model_and_transforms(
            name, str(folder / f"{name}.safetensors")
        )
        pictures = [transform(Image.open(path).convert("RGB")) for path in paths]
        return model.eval(), torch.stack(pictures)

    return make


def _encoder(folder: Path, name: str = "tiny-vit", **settings: Any) -> OpenClipEncoder:
    return OpenClipEncoder(name, folder / f"{name}.safetensors", device="cpu", **settings)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_pooled_is_the_models_own_image_vector(
    name: str, folder: Path, paths: list[Path], load: Load
) -> None:
    model, pictures = load(name)
    batch = _encoder(folder, name, batch_size=5).encode(paths)
    assert batch.vectors.shape == (12, 1, 24) and batch.vectors.dtype == np.float32
    assert batch.mask.all() and batch.reasons == [""] * 12
    expected = model.encode_image(pictures, normalize=True).numpy()
    np.testing.assert_allclose(batch.vectors[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(batch.vectors[:, 0], axis=1), 1, atol=1e-6)
    assert np.ptp(batch.vectors, axis=0).max() > 1e-3  # the pictures make a difference


@pytest.mark.parametrize("settings", [{}, {"tokens": "grid", "grid": 2}])
def test_a_batch_gives_what_single_pictures_give(
    settings: dict[str, Any], folder: Path, paths: list[Path]
) -> None:
    together = _encoder(folder, batch_size=12, **settings).encode(paths)
    encoder = _encoder(folder, batch_size=1, n_threads=1, **settings)
    for row, path in enumerate(paths):
        np.testing.assert_allclose(
            encoder.encode([path]).vectors[0], together.vectors[row], atol=1e-5
        )
    again = _encoder(folder, batch_size=12, n_threads=3, **settings).encode(paths)
    assert again.vectors.tobytes() == together.vectors.tobytes()


@torch.no_grad()
def test_grid_tokens_of_a_vit(folder: Path, paths: list[Path], load: Load) -> None:
    model, pictures = load("tiny-vit")
    model.visual.output_tokens = True
    tokens = model.visual(pictures)[1].numpy()  # 16 patches in rows, after the final layer norm
    every = _encoder(folder, tokens="grid", grid=None).encode(paths).vectors
    assert every.shape == (12, 16, 32)
    np.testing.assert_allclose(every, tokens, atol=1e-5)
    cells = _encoder(folder, tokens="grid", grid=2).encode(paths)
    assert cells.vectors.shape == (12, 4, 32) and cells.mask.all()
    patches = ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15))
    for cell, members in enumerate(patches):
        expected = tokens[:, members].mean(axis=1)
        np.testing.assert_allclose(cells.vectors[:, cell], expected, atol=1e-5)
    one = _encoder(folder, tokens="grid", grid=1).encode(paths).vectors
    np.testing.assert_allclose(one[:, 0], tokens.mean(axis=1), atol=1e-5)
    # The default, 4 x 4, is this tower's raster.
    default = _encoder(folder, tokens="grid").encode(paths).vectors
    np.testing.assert_allclose(default, tokens, atol=1e-5)


@torch.no_grad()
def test_grid_tokens_of_other_towers(folder: Path, paths: list[Path], load: Load) -> None:
    model, pictures = load("tiny-timm")
    features = model.visual.trunk.forward_features(pictures)[:, 1:]  # without the class token
    every = _encoder(folder, "tiny-timm", tokens="grid", grid=None).encode(paths).vectors
    np.testing.assert_allclose(every, features.numpy(), atol=1e-5)  # 10 x 10
    model, pictures = load("tiny-resnet")
    tower = model.visual
    hidden = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pictures)))))
    two = _encoder(folder, "tiny-resnet", tokens="grid", grid=2).encode(paths).vectors
    expected = hidden.permute(0, 2, 3, 1).reshape(12, 4, 256).numpy()
    np.testing.assert_allclose(two, expected, atol=1e-5)
    model, pictures = load("tiny-coca")
    hidden = model.visual.transformer(model.visual._embeds(pictures))[:, 1:]
    four = _encoder(folder, "tiny-coca", tokens="grid").encode(paths).vectors
    np.testing.assert_allclose(four, hidden.numpy(), atol=1e-5)


def test_towers_without_a_fitting_raster(
    folder: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="grid 3 is finer than the tower's 2 x 2 patches"):
        _encoder(folder, "tiny-resnet", tokens="grid", grid=3).encode(paths)
    open_clip = import_open_clip()
    monkeypatch.delattr(open_clip.transformer.VisionTransformer, "forward_intermediates")
    with pytest.raises(InputError, match=r"\(VisionTransformer\) gives no patch tokens"):
        _encoder(folder, tokens="grid").encode(paths)


@pytest.mark.parametrize("settings", [{}, {"tokens": "grid", "grid": 2}])
def test_bad_pictures_are_masked(
    settings: dict[str, Any], folder: Path, paths: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "cut.jpg").write_bytes(paths[0].read_bytes()[:-300])
    (tmp_path / "text.jpg").write_text("not found")
    bad = [tmp_path / "cut.jpg", tmp_path / "text.jpg", tmp_path / "absent.jpg", None]
    encoder = _encoder(folder, batch_size=3, **settings)
    mixed = encoder.encode([paths[0], bad[0], paths[1], *bad[1:], paths[2]])  # one batch all bad
    good = [0, 2, 6]
    assert np.flatnonzero(mixed.mask.all(axis=1)).tolist() == good
    assert [reason.split(" (")[0] for reason in mixed.reasons] == [
        "", "truncated or broken picture", "", "not a picture", "no such file", "no picture", "",
    ]  # fmt: skip
    assert not mixed.vectors[~mixed.mask].any()
    np.testing.assert_allclose(mixed.vectors[good], encoder.encode(paths[:3]).vectors, atol=1e-5)
    nothing = encoder.encode(bad)
    assert nothing.mask.shape == mixed.mask[:4].shape and not nothing.mask.any()


def test_all_ways_to_name_the_same_weights(
    folder: Path, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _encoder(folder).encode(paths).vectors
    local = tmp_path / "a model"
    local.mkdir()
    (local / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIGS["tiny-vit"]}))
    with pytest.raises(InputError, match="no weights there"):
        OpenClipEncoder(f"local-dir:{local}")
    shutil.copy(folder / "tiny-vit.safetensors", local / "open_clip_model.safetensors")
    by_folder = OpenClipEncoder(f"local-dir:{local}", device="cpu")
    assert by_folder.encode(paths).vectors.tobytes() == expected.tobytes()
    described = by_folder.describe()
    assert described["name"] == "local-dir:a model"
    assert set(described["weights"]) == {"open_clip_config.json", "open_clip_model.safetensors"}

    weights = load_file(folder / "tiny-vit.safetensors")
    training = {
        "epoch": 3,
        "state_dict": {f"module.{key}": value for key, value in weights.items()},
    }
    torch.save(training, tmp_path / "epoch_3.pt")
    monkeypatch.chdir(tmp_path)
    by_training = OpenClipEncoder("tiny-vit", "epoch_3.pt", device="cpu")
    assert by_training.encode(paths).vectors.tobytes() == expected.tobytes()


def test_the_description_tells_weights_and_settings_but_no_place(folder: Path) -> None:
    described = _encoder(folder).describe()
    path = folder / "tiny-vit.safetensors"
    assert described["weights"] == {"tiny-vit.safetensors": sha256_file(path)}
    assert described["dtype"] == "float32" and described["device"] == "cpu"
    assert str(folder) not in json.dumps(described)
    assert _encoder(folder, n_threads=1).describe() == described
    others = [{"tokens": "grid"}, {"tokens": "grid", "grid": 2}, {"batch_size": 8}]
    texts = {json.dumps(_encoder(folder, **other).describe()) for other in others}
    assert len(texts | {json.dumps(described)}) == 4


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tiny-vot", {}, "no model 'tiny-vot'; did you mean 'tiny-vit'"),
        ("VitB", {}, "no model 'VitB'; did you mean 'ViT-B-"),
        ("vitb32", {}, "no model 'vitb32'; did you mean 'ViT-B-32'"),
        ("descripter", {}, "no model 'descripter'; did you mean 'descriptor'"),
        ("", {}, "no model ''; give a name"),
        ("ViT-B-32", {"pretrained": "laion2b_s34b_b97k"}, "mean 'laion2b_s34b_b79k'"),
        ("ViT-B-32", {}, "or a tag to download .openai"),
        ("tiny-vit", {"pretrained": "absent.pt"}, "absent.pt: no such file, and not a tag"),
        ("tiny-vit", {}, "tiny-vit: no weights are named; give pretrained="),
        ("local-dir:absent", {}, "absent: no open_clip_config.json there"),
        ("hf-hub:org/name", {"pretrained": "x.pt"}, "has its own weights"),
        ("tiny-vit", {"tokens": "patches"}, "tokens: 'patches' is none of pooled, grid"),
        ("tiny-vit", {"grid": 0}, "grid: 0 is not a whole number"),
        ("tiny-vit", {"batch_size": 0}, "batch_size: 0 is not a whole number"),
        ("tiny-vit", {"dtype": "half"}, "dtype: 'half' is none of"),
        ("tiny-vit", {"dtype": "float16", "device": "cpu"}, "float16 is for a GPU"),
        ("tiny-vit", {"device": "gpu"}, "device 'gpu' is unknown"),
    ],
)
def test_refusals(name: str, settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        OpenClipEncoder(name, **settings)
    assert "\n" not in str(caught.value)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def _bad_checkpoint(kind: str, folder: Path, target: Path) -> Path:
    """A file that is no checkpoint of tiny-vit."""
    good = folder / "tiny-vit.safetensors"
    if kind == "pickle":
        torch.save({"state_dict": Evil(target / "evil")}, target / "x.pt")
    elif kind == "text":
        (target / "x.pt").write_text("version https://git-lfs.github.com/spec/v1")
    elif kind == "cut":
        (target / "x.safetensors").write_bytes(good.read_bytes()[:-100])
    elif kind == "other":
        shutil.copy(folder / "tiny-resnet.safetensors", target / "x.safetensors")
    elif kind == "nothing":
        torch.save({}, target / "x.pt")
    else:
        state = load_file(good)
        del state["visual.proj"]
        save_file(state, target / "x.safetensors")
    return next(target.glob("x.*"))


@pytest.mark.parametrize("kind", ["pickle", "text", "cut", "other", "nothing", "a tensor less"])
def test_bad_checkpoints_are_one_line(
    kind: str, folder: Path, paths: list[Path], tmp_path: Path
) -> None:
    checkpoint = _bad_checkpoint(kind, folder, tmp_path)
    with pytest.raises(InputError, match=r"x\.\w+: cannot be loaded as tiny-vit") as caught:
        OpenClipEncoder("tiny-vit", checkpoint, device="cpu").encode(paths)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("failure", ["operator torchvision::nms does not exist", "out of luck"])
def test_a_torchvision_without_operators_is_imported_again(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for torchvision fails, with a module imported by half, until both are defined."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "half.py").write_text("imports = []\n")
    (package / "__init__.py").write_text(
        "import builtins\nfrom torchvision import half\nhalf.imports.append(1)\n"
        f"if len(builtins.defined_operators) < 2: raise RuntimeError({failure!r})\n"
    )
    defined: list[str] = []

    class Library:
        def __init__(self, namespace: str, kind: str):
            assert (namespace, kind) == ("torchvision", "DEF")

        def define(self, signature: str) -> None:
            defined.append(signature.partition("(")[0])

    import_open_clip()  # the real one, which stays
    monkeypatch.setattr(builtins, "defined_operators", defined, raising=False)
    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(torchvision, "_LIBRARIES", [])
    monkeypatch.syspath_prepend(tmp_path)
    for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        if failure == "out of luck":
            with pytest.raises(RuntimeError, match="out of luck"):
                import_open_clip()
            assert not defined
        else:
            import_open_clip()
            assert sorted(defined) == ["nms", "qnms"]
            assert sys.modules["torchvision.half"].imports == [1]  # imported anew
    finally:  # before monkeypatch brings the real modules back
        for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def test_all_posters(folder: Path, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/ml-100k is absent")
    table = embed_image_files(
        SHARED / "ml-100k.posters.tsv",
        tmp_path / "x.npz",
        column="poster",
        encoder="tiny-vit",
        pretrained=folder / "tiny-vit.safetensors",
        tokens="grid",
        grid=2,
        device="cpu",
    )
    assert table.vectors.shape == (1432, 4, 32) and table.mask.all()
    assert np.isfinite(table.vectors).all() and table.vectors.any(axis=2).all()
    paths = find_pictures(SHARED / "ml-100k.posters.tsv", column="poster")[1]
    contents = {Path(str(path)).read_bytes() for path in paths}
    assert len(np.unique(table.vectors.reshape(1432, -1).round(4), axis=0)) == len(contents)
