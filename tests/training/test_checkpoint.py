"""Checkpoints: faithful, whole or absent, and unable to run code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import re
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole.trainer.trainer
import scipy.sparse
import torch
from conftest import Tiny, assert_equal_weights, fitted, new_trainer, scores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from processes import LIBRARIES
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec, s3rec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from safetensors import SafetensorError
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file
from waiting import until

from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.results import UNSTORED_KEYS
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.registry import build_model
from recbole_qbert.training import checkpoint
from recbole_qbert.training.checkpoint import (
    FORMAT,
    NO_DIGEST,
    config_from_json,
    config_to_json,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from recbole_qbert.training.trainer import ResumableTrainer

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
ARRAY_DTYPES = ("float32", "float64", "int64", "int16", "uint8", "uint32", "bool")


# Round trip --------------------------------------------------------------------------------------


def tensors() -> st.SearchStrategy[torch.Tensor]:
    """Of every dtype, empty and scalar ones included, contiguous or not."""
    shapes = st.lists(st.integers(0, 3), max_size=3)
    drawn = st.builds(
        lambda shape, dtype: torch.randint(0, 100, shape).to(dtype), shapes, st.sampled_from(DTYPES)
    )
    return drawn.flatmap(lambda each: st.sampled_from([each, each.T if each.dim() == 2 else each]))


def arrays() -> st.SearchStrategy[np.ndarray]:
    """Plain and reversed."""
    drawn = st.sampled_from(ARRAY_DTYPES).flatmap(
        lambda name: npst.arrays(name, npst.array_shapes(min_dims=0, max_dims=2, max_side=3))
    )
    return drawn.flatmap(lambda each: st.sampled_from([each, each[::-1] if each.ndim else each]))


KEYS = st.one_of(st.text(max_size=3), st.integers(), st.booleans(), st.none())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    tensors(),
    arrays(),
)
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=8,
)


def same(left: Any, right: Any) -> bool:
    """Equal in type, value and nesting; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(
            left, right, equal_nan=left.dtype.kind == "f"
        )
    if isinstance(left, dict):
        return [same(*keys) for keys in zip(left, right, strict=False)] == [True] * len(right) and (
            all(same(value, right[key]) for key, value in left.items())
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=STATES)
def test_round_trip(tmp_path: Path, state: Any) -> None:
    """Any nesting of what training states hold comes back with types and bits."""
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"state": state, "config": {"a": 1}})
    loaded = load_checkpoint(path)
    assert same(loaded, {"state": state, "config": {"a": 1}})
    assert [each.name for each in tmp_path.iterdir()] == ["state.safetensors"]


def test_random_states_and_optimizers_round_trip(tmp_path: Path) -> None:
    """What the trainer saves: generators of three libraries and an optimizer with moments."""
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    state = {"numpy": np.random.get_state(), "optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "x", state)
    loaded = load_checkpoint(tmp_path / "x")
    np.random.set_state(loaded["numpy"])
    assert same(loaded["optimizer"], state["optimizer"])
    torch.optim.AdamW([weight], lr=0.5).load_state_dict(loaded["optimizer"])


@pytest.mark.parametrize("name", ["csr", "csc", "lil", "coo", "dok"])
def test_sparse_matrices_round_trip(tmp_path: Path, name: str) -> None:
    """Models of RecBole's that only count keep them: EASE, ItemKNN, SLIMElastic."""
    matrix = scipy.sparse.random(7, 5, 0.3, name, np.float32, random_state=1)
    save_checkpoint(tmp_path / "x", {"other_parameter": {"w": matrix}})
    loaded = load_checkpoint(tmp_path / "x")["other_parameter"]["w"]
    assert (loaded.format, loaded.dtype, loaded.shape) == (name, np.float32, (7, 5))
    assert (loaded != matrix).nnz == 0


@pytest.mark.parametrize("model", ["EASE", "ItemKNN", "LightGCN"])
def test_general_models_of_recbole_still_save_and_reload(tiny: Tiny, model: str) -> None:
    """Importing this package changes their checkpoints too."""
    from recbole.quick_start import load_data_and_model, run_recbole

    given = {"data_path": str(tiny.root), "use_gpu": False, "show_progress": False, "epochs": 1}
    run_recbole(model, "toy", config_dict=given)
    (path,) = (tiny.root / "saved").glob(f"{model}-*.pth")
    _, loaded, *_ = load_data_and_model(str(path))
    assert type(loaded).__name__ == model


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_checkpoint(tmp_path / "x", {"a": base, "b": base[2:4], "c": base.view(2, 3)})
    loaded = load_checkpoint(tmp_path / "x")
    assert loaded["b"].tolist() == [2.0, 3.0]
    assert loaded["c"].shape == (2, 3)


def test_what_cannot_be_kept_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_checkpoint(path, {"a": 1})
    for value in ({1, 2}, object(), len, b"bytes", 1j):
        with pytest.raises(TypeError, match="a checkpoint cannot hold"):
            save_checkpoint(path, {"a": value})
    assert load_checkpoint(path) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


# Nothing runs code -------------------------------------------------------------------------------


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.target,)


def hostile_files(folder: Path) -> list[Path]:
    """The same trap as a plain pickle, a torch zip, and a torch file of the old kind."""
    trap = {"state_dict": {}, "config": Hostile(str(folder / "trapped"))}
    paths = [folder / name for name in ("plain.pth", "zip.pth", "old.safetensors")]
    paths[0].write_bytes(pickle.dumps(trap))
    torch.save(trap, paths[1])
    torch.save(trap, paths[2], _use_new_zipfile_serialization=False)
    return paths


def refuses(action: Callable[[], Any]) -> None:
    """Our own error, or one of torch's restricted unpickler or its safetensors reader."""
    with pytest.raises((InputError, pickle.UnpicklingError, SafetensorError)):
        action()


def test_the_trap_works(tmp_path: Path) -> None:
    """Or the next test would show nothing."""
    plain = hostile_files(tmp_path)[0]
    pickle.loads(plain.read_bytes())
    assert (tmp_path / "trapped").exists()


def test_hostile_pickles_are_refused(tiny: Tiny) -> None:
    """By every way that a checkpoint comes in."""
    from recbole.quick_start import load_data_and_model

    trainer, _ = new_trainer(tiny.make_config("SASRec"))
    recboles = Trainer(trainer.config, trainer.model)
    for path in hostile_files(tiny.root):
        assert not is_checkpoint(path)
        with pytest.raises(InputError, match="never loaded"):
            load_checkpoint(path)
        with pytest.raises(InputError, match="never loaded"):
            trainer.resume_checkpoint(str(path))
        with pytest.raises(InputError, match="never loaded"):
            trainer.evaluate(load_splits(trainer.config).test, model_file=str(path))
        refuses(lambda path=path: checkpoint.load(path))
        refuses(lambda path=path: checkpoint.load(str(path), map_location="cpu"))
        refuses(lambda path=path: load_data_and_model(str(path)))
        refuses(lambda path=path: recboles.resume_checkpoint(str(path)))
    assert not (tiny.root / "trapped").exists()


def test_hostile_pickles_are_refused_where_torch_would_run_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch before 2.6 unpickles anything unless told not to; a caller may still ask for it."""
    Config("S3Rec", "toy")  # makes the model's module safe
    modern = torch.serialization.load

    def legacy(
        f: Any,
        map_location: Any = None,
        pickle_module: Any = None,
        *,
        weights_only: bool = False,
        **kwargs: Any,
    ) -> Any:
        return modern(f, map_location, pickle_module, weights_only=weights_only, **kwargs)

    monkeypatch.setattr(torch.serialization, "load", legacy)
    path = hostile_files(tmp_path)[1]
    for module in (recbole.trainer.trainer, s3rec):
        refuses(lambda module=module: module.torch.load(path))
    assert not (tmp_path / "trapped").exists()
    checkpoint.load(path, weights_only=False)
    assert (tmp_path / "trapped").exists()


CODE = "__import__('os').mkdir('trapped')"


def test_strings_of_a_stored_config_are_never_evaluated(tiny: Tiny) -> None:
    """RecBole's `Config` passes every string to `eval`."""
    from recbole.quick_start import load_data_and_model

    for key in ("pre_model_path", "state", "transform", "learner", "hidden_act", "loss_type"):
        stored = config_to_json(tiny.make_config("SASRec"))
        stored["keys"][key] = CODE
        with contextlib.suppress(InputError, ValueError, KeyError):
            config = config_from_json(stored)
            assert config[key] == CODE
        path = tiny.root / "x.safetensors"
        save_checkpoint(path, {"config": stored, "state_dict": {}})
        with contextlib.suppress(Exception):
            load_data_and_model(str(path))
        assert not (tiny.root / "trapped").exists(), key


def test_a_text_that_recbole_evaluates_names_a_class(tiny: Tiny) -> None:
    """KD_DAGFM passes `teacher` of its config, which may be a checkpoint's, to `eval`."""
    from recbole.model.context_aware_recommender import kd_dagfm

    Config("KD_DAGFM", "toy")
    assert "eval" in kd_dagfm.KD_DAGFM.__init__.__code__.co_names  # the module's own name
    assert kd_dagfm.eval("CrossNet") is kd_dagfm.CrossNet
    for text in (CODE, "deepcopy", "nn.Linear", ""):
        with pytest.raises(InputError, match="is not the name of a class there"):
            kd_dagfm.eval(text)
    assert not (tiny.root / "trapped").exists()


# Broken files ------------------------------------------------------------------------------------


def test_broken_files_are_input_errors(tmp_path: Path) -> None:
    """Missing, a folder, empty, cut short at any place, foreign, or with a broken header."""
    path = tmp_path / "good"
    save_checkpoint(path, {"weights": torch.randn(50), "epoch": 3})
    good = path.read_bytes()
    for name in ("absent", "."):
        with pytest.raises(InputError, match="no such checkpoint file"):
            load_checkpoint(tmp_path / name)
    broken = tmp_path / "broken"
    for length in [*range(0, len(good), 23), len(good) - 1]:
        broken.write_bytes(good[:length])
        with pytest.raises(InputError, match=str(broken)):
            load_checkpoint(broken)
    broken.write_bytes(good + b"more")
    with pytest.raises(InputError):
        load_checkpoint(broken)
    save_file({"a": torch.ones(1)}, broken)
    with pytest.raises(InputError, match="not a checkpoint of this version; .* again with this"):
        load_checkpoint(broken)


@pytest.mark.parametrize(
    "state",
    [
        "{",
        '{"dict": 3}',
        '{"tensor": "7"}',
        '{"other": []}',
        "[" * 100_000,
        '{"dict": [[{"dict": []}, 1]]}',
        '{"a": 1, "b": 2}',
        "3",
    ],
)
def test_a_malformed_header_is_an_input_error(tmp_path: Path, state: str) -> None:
    content = safetensors_bytes({"0": torch.ones(1)}, {FORMAT: NO_DIGEST + state})
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "x").write_bytes(content.replace(NO_DIGEST.encode(), digest.encode(), 1))
    with pytest.raises(InputError, match="broken"):
        load_checkpoint(tmp_path / "x")


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    """In the weights, in the header and in what lies between; also by RecBole's `torch.load`."""
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"epoch": 3, "score": 0.25, "state_dict": {"w": torch.arange(5.0)}})
    good = path.read_bytes()
    assert load_checkpoint(path)["epoch"] == 3
    for place in range(len(good)):
        for turned in (1, 8, 32, 255):
            path.write_bytes(good[:place] + bytes([good[place] ^ turned]) + good[place + 1 :])
            for load in (load_checkpoint, checkpoint.load):
                with pytest.raises(InputError, match=re.escape(str(path))) as caught:
                    load(path)
                assert str(caught.value).count("\n") == 0


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    save_file({"0": torch.ones(1)}, tmp_path / "x", {f"{FORMAT[:-1]}2": '{"tensor": "0"}'})
    for load in (load_checkpoint, checkpoint.load):
        with pytest.raises(InputError, match="x: .* train the model again with this version"):
            load(tmp_path / "x")


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    state = {"b": torch.arange(3), "a": [1.5, "x", {"k": torch.ones(2, 2)}]}
    for number in range(8):
        save_checkpoint(tmp_path / str(number), state)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(8)}) == 1


def test_a_header_that_claims_to_be_huge(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "x")


def _save_for_ever(path: str) -> None:
    number = 0
    while True:
        number += 1
        save_checkpoint(path, {"number": number, "weights": torch.full((20_000,), float(number))})


def test_a_kill_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    """SIGKILL at several moments: always the old file or the new one, never half a file."""
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"number": 0, "weights": torch.zeros(20_000)})
    context = multiprocessing.get_context("fork")  # only writes files: safe after a fork
    numbers = []
    for pause in (0.02, 0.031, 0.042, 0.053, 0.064, 0.075):
        process = context.Process(target=_save_for_ever, args=(str(path),))
        process.start()
        assert process.pid is not None
        until(lambda: load_checkpoint(path)["number"] >= 2)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        state = load_checkpoint(path)
        assert state["weights"].eq(state["number"]).all()
        numbers.append(state["number"])
    assert max(numbers) > 1


def portable(config: Config) -> dict[str, Any]:
    """All settings but those that the machine at hand decides or that tell how a run is called."""
    left_out = UNSTORED_KEYS | {"use_gpu", "gpu_id"}
    return {k: v for k, v in config.final_config_dict.items() if k not in left_out}


# RecBole's own way -------------------------------------------------------------------------------


def test_recboles_trainer_saves_and_reloads_sasrec(tiny: Tiny) -> None:
    """RecBole's model, data set and trainer, unchanged, through the safe format."""
    from recbole.quick_start import load_data_and_model

    config = tiny.make_config("SASRec")
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    model = SASRec(config, train._dataset)
    trainer = Trainer(config, model)
    trainer.fit(train, valid, verbose=False)
    before = trainer.evaluate(test)
    path = trainer.saved_model_file
    assert is_checkpoint(path)
    stored = recbole.trainer.trainer.torch.load(path)
    assert_equal_weights(stored["state_dict"], model.state_dict())
    assert portable(stored["config"]) == portable(config)

    loaded_config, loaded_model, dataset, _, _, loaded_test = load_data_and_model(path)
    assert loaded_config["MAX_ITEM_LIST_LENGTH"] == 8
    assert dataset.item_num == 31
    assert torch.equal(scores(loaded_model, loaded_test), scores(model, test))

    again = Trainer(config, SASRec(config, train._dataset))
    again.resume_checkpoint(path)
    assert again.start_epoch == stored["epoch"] + 1
    assert_equal_weights(again.model.state_dict(), model.state_dict())
    assert again.evaluate(test, load_best_model=False) == before


def test_config_survives_json(tiny: Tiny) -> None:
    """Config -> JSON text -> Config gives an equal config, for our models and RecBole's."""
    for model in ("QBERT4Rec", "SASRec", "S3Rec"):
        config = tiny.make_config(model)
        text = json.dumps(config_to_json(config))
        again = config_from_json(json.loads(text))
        assert portable(again) == portable(config)
        assert config_to_json(again) == config_to_json(config)


def test_install_twice_changes_nothing() -> None:
    before = recbole.trainer.trainer.torch, s3rec.torch
    checkpoint.install()
    assert (recbole.trainer.trainer.torch, s3rec.torch) == before
    assert before[0].load is checkpoint.load
    assert before[0].nn is torch.nn
    assert torch.load is torch.serialization.load  # nobody else's


@pytest.mark.parametrize("earlier", ["", "import recbole.quick_start\n"])
def test_recboles_loaders_read_it_whenever_they_are_imported(tiny: Tiny, earlier: str) -> None:
    """RecBole's modules come before this package or after it; `torch.load` is torch's again."""
    trainer, _ = fitted(tiny.make_config("SASRec"))
    script = (
        f"import sys, torch\n{earlier}import recbole_qbert\n"
        "from recbole.quick_start import load_data_and_model\n"
        "from recbole.config import Config\n"
        "Config('NeuMF', 'toy'), Config('NAIS', 'toy')\n"
        "from recbole.model.general_recommender import neumf, nais\n"
        "from recbole_qbert.training.checkpoint import load\n"
        "assert neumf.torch.load is nais.torch.load is load\n"
        "model = load_data_and_model(sys.argv.pop())[1]\n"
        "assert type(model).__name__ == 'SASRec'\n"
        "assert torch.load is torch.serialization.load\n"
    )
    done = LIBRARIES.run(script, trainer.saved_model_file)
    assert done.returncode == 0, done.stderr


# Data that changed since -------------------------------------------------------------------------


@pytest.mark.parametrize("trainer_class", [Trainer, ResumableTrainer])
@pytest.mark.parametrize("model", ["SASRec", "QBERT4Rec"])
def test_a_model_is_not_loaded_on_data_that_changed(
    tiny: Tiny, model: str, trainer_class: type[Trainer]
) -> None:
    """RecBole numbers items as they come: in another order each row would be another item's."""
    from recbole.quick_start import load_data_and_model

    config = tiny.make_config(model, epochs=1)
    loaded = load_splits(config)
    trainer = trainer_class(config, build_model(config, loaded.train._dataset))
    trainer.fit(loaded.train, loaded.valid, verbose=False)
    path = str(trainer.saved_model_file)
    _, again, *_ = load_data_and_model(path)
    assert_equal_weights(again.state_dict(), trainer.model.state_dict())
    user, _, time = tiny.rows[0]
    for rows in (tiny.rows[::-1], [*tiny.rows, (user, "new", time + 1)], tiny.rows[:-1]):
        tiny.write_inter(rows)
        message = f"^{re.escape(path)}: toy.inter changed since it was made; [^\\n]*$"
        with pytest.raises(InputError, match=message):
            load_data_and_model(path)
    tiny.write_inter(tiny.rows)
    load_data_and_model(path)
    (tiny.folder / "toy.item").unlink()
    with pytest.raises(InputError, match="toy.item changed"):
        load_data_and_model(path)


def test_weights_are_read_where_the_data_are_not(tiny: Tiny) -> None:
    """There is nothing that they could be taken for."""
    trainer, _ = fitted(tiny.make_config("SASRec", epochs=1))
    (tiny.root / "toy").rename(tiny.root / "moved")
    assert_equal_weights(
        checkpoint.load(trainer.saved_model_file)["state_dict"], trainer.model.state_dict()
    )


def test_other_data_are_not_evaluated_with_the_weights(tiny: Tiny) -> None:
    first, _ = fitted(tiny.make_config("SASRec", epochs=1))
    tiny.write_inter(tiny.rows[::-1])
    other, loaded = new_trainer(tiny.make_config("SASRec", epochs=1))
    with pytest.raises(InputError, match="toy.inter changed since it was made"):
        other.evaluate(loaded.test, model_file=first.saved_model_file)
