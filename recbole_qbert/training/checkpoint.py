"""Checkpoints as safetensors files: tensors and JSON, no pickles.

The tensors of a state are those of the file. All else (config, epoch, scores, nesting) is JSON in
the header, after the SHA-256 of the whole file, so that any changed byte is detected.

RecBole pickles its `Config` object, which PyTorch 2.6 and later refuse to load. `install()` makes
RecBole's trainers, `load_data_and_model` and `resume_checkpoint` use this format. A model whose
data have changed is refused, because RecBole would renumber the items, and the embedding rows would
belong to other items. A pickle given as a checkpoint is refused without being unpickled.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import recbole.trainer.trainer
import safetensors
import safetensors.torch
import scipy.sparse
import torch
from recbole.config import Config
from recbole.trainer import Trainer

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write
from recbole_qbert.compat.recbole import after_import, isolated_argv, wrap_once
from recbole_qbert.evaluation.results import UNSTORED_KEYS
from recbole_qbert.training.inputs import check_inputs, inputs_of

# The only key of the header; its value is the digest followed by the state. safetensors writes
# several keys in random order, but equal states must give equal bytes.
FORMAT = "recbole-qbert/checkpoint/3"
# Start of a file, after the eight bytes of the header's length.
HEAD = f'{{"__metadata__":{{"{FORMAT}":"'.encode()
# Placeholder for the file's digest while the digest is computed.
NO_DIGEST = "0" * 64
_DIGEST_AT = 8 + len(HEAD)
# Config keys that RecBole derives from others or from the machine when a Config is built.
_DERIVED = (
    "MODEL_TYPE MODEL_INPUT_TYPE eval_type device valid_metric_bigger single_spec local_rank "
    "valid_neg_sample_args test_neg_sample_args dataset model gpu_id use_gpu nproc"
)
DERIVED_KEYS = frozenset(_DERIVED.split())


def config_to_json(config: Config) -> dict[str, Any]:
    """Return the JSON content from which an equal config can be built on another machine."""
    content = {
        key: value
        for key, value in config.final_config_dict.items()
        if key not in DERIVED_KEYS | UNSTORED_KEYS and not isinstance(value, torch.device)
    }
    content["data_path"] = str(Path(config["data_path"]).parent)  # RecBole appends the data set
    return {"model": config["model"], "dataset": config["dataset"], "keys": content}


def config_from_json(content: dict[str, Any]) -> Config:
    """Rebuild a config of `config_to_json`; flags of the running process are ignored."""
    keys = dict(content["keys"])
    # RecBole replaces a missing value in the config by distribution "none"; this undoes it.
    if (keys.get("train_neg_sample_args") or {}).get("distribution") == "none":
        keys["train_neg_sample_args"] = None
    with isolated_argv():
        return Config(model=content["model"], dataset=content["dataset"], config_dict=keys)


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state atomically; an existing file is replaced.

    The state consists of nested dicts, lists and tuples of tensors, arrays, sparse matrices,
    numbers, strings and None; the value under `config` may be a RecBole `Config`.

    Raises:
        TypeError: the state contains an object of another type.
        InputError: the disk is full, or `path` may not be written.
    """
    state = dict(state)
    if isinstance(state.get("config"), Config):
        state["config"] = config_to_json(state["config"])
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _encode(state, tensors)
    content = safetensors.torch.save(tensors, {FORMAT: NO_DIGEST + json.dumps(skeleton)})
    head, rest = content[:_DIGEST_AT], memoryview(content)[_DIGEST_AT + len(NO_DIGEST) :]
    assert head.endswith(HEAD), "safetensors no longer begins with the metadata"
    with atomic_write(path, "wb") as handle:
        handle.write(head)
        handle.write(hashlib.sha256(content).hexdigest().encode())
        handle.write(rest)


def state_sha256(state: dict[str, Any]) -> str:
    """Hash a state's content, independently of the file format and library version."""
    tensors: dict[str, torch.Tensor] = {}
    digest = hashlib.sha256(json.dumps(_encode(state, tensors)).encode())
    for tensor in tensors.values():
        array = tensor.cpu().numpy()
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file of `save_checkpoint`; `config` stays JSON (see `config_from_json`).

    `map_location` is the device of the tensors; None for the CPU.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this format.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such checkpoint file")
    content = Path(path).read_bytes()
    if content[8:_DIGEST_AT] != HEAD:
        raise InputError(
            f"{path}: not a checkpoint of this version; pickled and damaged files are never "
            "loaded: train the model again with this version"
        )
    digest = hashlib.sha256(content[:_DIGEST_AT] + NO_DIGEST.encode())
    digest.update(memoryview(content)[_DIGEST_AT + len(NO_DIGEST) :])
    if content[_DIGEST_AT : _DIGEST_AT + len(NO_DIGEST)] != digest.hexdigest().encode():
        raise InputError(f"{path}: damaged: the SHA-256 differs; train the model again")
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        skeleton = json.loads(header["__metadata__"][FORMAT][len(NO_DIGEST) :])
        tensors = safetensors.torch.load(content)
        if map_location is not None and torch.device(map_location).type != "cpu":
            tensors = {name: tensor.to(map_location) for name, tensor in tensors.items()}
        state = _decode(skeleton, tensors)
    except (ValueError, TypeError, KeyError, RecursionError, safetensors.SafetensorError):
        state = None
    if not isinstance(state, dict):
        raise InputError(f"{path}: its header is broken; train the model again")
    return state


def is_checkpoint(path: Any) -> bool:
    """Return whether a file starts like a checkpoint, even of another version or damaged."""
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        return False
    with open(path, "rb") as handle:
        start = handle.read(_DIGEST_AT)
    marks = HEAD.partition(b"recbole-qbert/checkpoint/")
    return marks[0] in start or marks[1] in start  # one of them survives a damaged byte


def install() -> None:
    """Make RecBole's trainers and loaders use this format. Repeated calls change nothing.

    `torch.load` is replaced by `load` in RecBole's modules only: in its trainer, in the module of a
    model when a `Config` names the model, and in `load_data_and_model`.
    """
    recbole.trainer.trainer.torch = _TORCH
    wrap_once(Config, "_get_model_and_dataset", _with_safe_model)
    after_import("recbole.quick_start.quick_start", _load_safely)
    Trainer._save_checkpoint = _save_recbole_checkpoint


def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Load a checkpoint of this format, or any other file by `torch.load` with weights only.

    Replaces `torch.load` in RecBole's modules. An `InputError` says if the checkpoint is damaged,
    or its training data have changed.
    """
    if not is_checkpoint(f):
        if not args and "pickle_module" not in kwargs:
            kwargs.setdefault("weights_only", True)  # the default only since PyTorch 2.6
        return torch.serialization.load(f, map_location, *args, **kwargs)
    if map_location is None and not torch.cuda.is_available():
        map_location = "cpu"
    state = load_checkpoint(f, map_location)
    state["config"] = config = config_from_json(state["config"])
    if os.path.isdir(config["data_path"]):  # without data, no rows can be mixed up
        remedy = "restore the old files, or train the model again"
        check_inputs(f, state["inputs"], inputs_of(config), remedy)
    return state


class SafeTorch(ModuleType):
    """Stand-in for the module `torch` in one RecBole module; its `load` is the function above."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.load = load

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


_TORCH = SafeTorch()


def _with_safe_model(find_model: Any, self: Config, model: Any, dataset: Any) -> Any:
    found = find_model(self, model, dataset)
    for each in inspect.getmro(found[1]):
        module: Any = sys.modules.get(each.__module__)
        if each.__module__.startswith("recbole.model.") and hasattr(module, "torch"):
            module.torch = _TORCH
            # KD_DAGFM calls `eval` on the setting `teacher`, the name of a class in its module.
            module.eval = functools.partial(_class_named, module)
    return found


def _class_named(module: ModuleType, name: str) -> type:
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise InputError(f"{module.__name__}: {name!r} is not the name of a class there")
    return found


def _load_safely(module: Any) -> None:
    wrap_once(module, "load_data_and_model", _load_data_and_model)
    package: Any = sys.modules["recbole.quick_start"]
    if hasattr(package, "load_data_and_model"):
        package.load_data_and_model = module.load_data_and_model


def _load_data_and_model(original: Any, model_file: str) -> Any:
    """Replace `torch.load` while the original runs, because it imports torch itself."""
    before, torch.load = torch.load, load
    try:
        return original(model_file)
    finally:
        torch.load = before


def _save_recbole_checkpoint(
    self: Trainer, epoch: int, verbose: bool = True, **kwargs: Any
) -> None:
    """Replace `Trainer._save_checkpoint`, whose files PyTorch 2.6 and later cannot load."""
    if not self.config["single_spec"] and self.config["local_rank"] != 0:
        return
    if not hasattr(self, "inputs"):
        self.inputs = inputs_of(self.config)
    path = kwargs.pop("saved_model_file", self.saved_model_file)
    save_checkpoint(path, trainer_state(self, epoch))
    if verbose:
        self.logger.info(f"Saving current: {path}")


def trainer_state(trainer: Trainer, epoch: int) -> dict[str, Any]:
    """Return the checkpoint entries that RecBole's loaders read, and the trainer's `inputs`."""
    # FDSA and others list sub-modules here too; their weights are in the state dict already.
    other = {
        name: value
        for name, value in trainer.model.other_parameter().items()
        if not isinstance(value, torch.nn.Module)
    }
    return {
        "config": trainer.config,
        "inputs": trainer.inputs,
        "epoch": epoch,
        "cur_step": trainer.cur_step,
        "best_valid_score": float(trainer.best_valid_score),
        "state_dict": dict(trainer.model.state_dict()),
        "other_parameter": other,
        "optimizer": trainer.optimizer.state_dict(),
    }


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Encode a nested state as JSON, and move its tensors to `tensors`.

    Types that JSON cannot distinguish are wrapped in a one-key dict.
    """
    encode: Callable[[Any], Any] = lambda item: _encode(item, tensors)  # noqa: E731
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": encode(torch.from_numpy(value.copy()))}  # torch refuses negative strides
    if scipy.sparse.issparse(value):  # in EASE, ItemKNN and SLIMElastic
        cells = value.tocoo()
        return {"sparse": encode([value.format, value.shape, cells.data, cells.row, cells.col])}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Invert `_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return _decode(content, tensors).cpu().numpy()
    if kind == "sparse":
        name, shape, data, rows, columns = _decode(content, tensors)
        return scipy.sparse.coo_matrix((data, (rows, columns)), shape).asformat(name)
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    if kind != "dict":
        raise ValueError(f"a checkpoint holds no {kind!r}")
    return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
