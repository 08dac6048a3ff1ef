# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the checkpoint of a fork to the same model on the installed host."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from ultralytics.nn import tasks

from ultralytics_akconv.conversion import from_published, write_checkpoint
from ultralytics_akconv.conversion.published import inner_state
from ultralytics_akconv.forks.comparison import published_names, record_differences, tensors_of
from ultralytics_akconv.forks.files import Content, opened
from ultralytics_akconv.forks.host_classes import check_model, parsed
from ultralytics_akconv.forks.proof import Proof, prove
from ultralytics_akconv.forks.recognition import akconv_records
from ultralytics_akconv.forks.records import (
    CheckpointError,
    Record,
    TensorRecord,
    attributes,
    children,
    is_module,
    named_modules,
    plain,
)
from ultralytics_akconv.forks.rows import LayerReport, translated
from ultralytics_akconv.host import input_channels
from ultralytics_akconv.markdown import text_table

_CLASSES = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
    "classify": "ClassificationModel",
}
_SHOWN = 10  # differences in one message
_SHARED = 4  # how often the file's numbers may be used, on average
# What a checkpoint of torch calls when pickle reads it, beside classes of torch and the host.
_USUAL = re.compile(
    r"torch\._utils\.\w+|torch\.(device|dtype)|(torch|ultralytics)(\.\w+)*\.[A-Z]\w*|pathlib\.\w+|copyreg\.\w+"
    r"|functools\.partial|(builtins|__builtin__)\.getattr|numpy\.(\w+\.)*(scalar|_reconstruct|dtype|ndarray)"
)


@dataclass(frozen=True)
class ForkImport:
    """The result of `from_fork`.

    Attributes:
        model: The model, in eval mode.
        layers: A report of each row that holds AKConv, front to back.
        notes: What else is to be known, a sentence each.
        proof: What was computed twice, None for a state dict.
    """

    model: nn.Module
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...]
    proof: Proof | None

    def save(self, file: str | Path) -> Path:
        """Write the model as a checkpoint of Ultralytics, float16 where the fork's was; see `write_checkpoint`."""
        return write_checkpoint(self.model, file, self.model)

    def table(self) -> str:
        """Return the report as text, a line a layer."""
        rows = []
        for layer in self.layers:
            numbers, strides = (
                ",".join(sorted({str(getattr(akconv, name)) for akconv in layer.akconvs.values()}))
                for name in ("num_param", "stride")
            )
            args = yaml.safe_dump(layer.args, default_flow_style=True, width=float("inf"), sort_keys=False).strip()
            row = f"{layer.module}, {args}"
            rows.append([str(layer.index), layer.path, row, str(len(layer.akconvs)), numbers, strides])
        table = [text_table(("layer", "class in the fork", "row", "AKConv", "N", "stride"), rows)] if rows else []
        return "\n".join([*table, *self.notes, *([str(self.proof)] if self.proof else [])])


def from_fork(
    file: str | Path, model: str | Path | None = None, nc: int | None = None, check: str | Path | None = None
) -> ForkImport:
    """Return the model of a checkpoint that was trained in a copy of Ultralytics with AKConv pasted into it.

    The file is read without that copy, and nothing in it is called or imported.

    Args:
        file: The checkpoint, or a state dict in the published layout.
        model: A model YAML. A state dict needs one; a checkpoint is rebuilt from it instead of from its own.
        nc: Number of classes of a state dict, if it is not the YAML's.
        check: An image on which the import is proved instead of a fixed pattern.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no such checkpoint, or holds what this package or the installed Ultralytics does not
            have; the message names every layer of that kind.

    Example:
        >>> result = from_fork("best.pt")  # doctest: +SKIP
        >>> print(result.table())  # doctest: +SKIP
        >>> result.save("mine.pt")  # doctest: +SKIP
    """
    with opened(file) as content:
        tensors = _published(content.value)
        if tensors is not None:
            if model is None:
                raise CheckpointError("it is a state dict: give the model YAML it belongs to (--model)")
            _check_size(tensors, content)
            read = {name: tensor.read() for name, tensor in tensors.items()}
            return ForkImport(from_published(read, model, nc), (), _notes(content), None)
        if nc is not None:
            raise CheckpointError("it is a checkpoint, which knows its number of classes: nc belongs to a state dict")
        record = _model_record(content.value)
        _check_needed(record)
        config = _config(record, model)
        config, reports = translated(config, children(record)["model"])
        _check_size(tensors_of(record), content)
        rebuilt, count = _rebuilt(record, config)
        settings = content.value if isinstance(content.value, dict) else {}
        rebuilt.args = attributes(settings.get("train_args")) or attributes(record.get("args"))
        proof = prove(rebuilt, record, count, check)
        return ForkImport(rebuilt, tuple(reports), _notes(content), proof)


def _published(value: Any) -> dict[str, TensorRecord] | None:
    """Return the tensors of a state dict, or of a dictionary that holds one under a usual name, None of all else."""
    if isinstance(value, dict) and any(is_module(value.get(name)) for name in ("ema", "model")):
        return None
    value = inner_state(value)
    if not isinstance(value, dict) or not value or not all(isinstance(v, TensorRecord) for v in value.values()):
        return None
    if not all(isinstance(name, str) for name in value):
        raise CheckpointError("it is a state dict whose names are no texts")
    return dict(value)


def _model_record(value: Any) -> Record:
    """Return the record of the model of a checkpoint: the averaged one if there is one, as the host takes it."""
    if isinstance(value, dict):
        value = value.get("ema") or value.get("model")
    if is_module(value) and "yaml" not in value.state and is_module(children(value).get("model")):
        inside = children(value)["model"]  # of a saved `YOLO`
        value = inside if "yaml" in inside.state or is_module(children(inside).get("model")) else value
    if not is_module(value) or not is_module(children(value).get("model")):
        raise CheckpointError("it holds no model of Ultralytics: neither under 'ema' or 'model', nor as a whole")
    return value


def _check_needed(record: Record) -> None:
    """Raise an error if there is nothing to import, or the model belongs to another host."""
    modules = [module for _, module in named_modules(record)]
    for module in modules:
        if "anchor_grid" in module.state or isinstance(_buffers(module).get("anchors"), TensorRecord):
            raise CheckpointError(
                f"its head {module.path} predicts from anchors: it needs the repository it was trained with, "
                "YOLOv5 or YOLOv7 (github.com/ultralytics/yolov5), since the models of Ultralytics' package have none"
            )
    if any(module.path.module.split(".")[0] == "ultralytics_akconv" for module in modules):
        raise CheckpointError("it is a checkpoint of this package, which needs no import: use it as it is")
    if not akconv_records(record):
        raise CheckpointError("it holds no AKConv, so it needs no import: Ultralytics reads it as it is")


def _buffers(module: Record) -> dict[str, Any]:
    """Return the buffers of a module by name."""
    buffers = module.state.get("_buffers")
    return buffers if isinstance(buffers, dict) else {}


def _config(record: Record, model: str | Path | None) -> dict[str, Any]:
    """Return the model dictionary of a record, or that of a YAML for its classes and task."""
    config = plain(record.state.get("yaml"))
    own = config if isinstance(config, dict) else {}
    if model is not None:
        if Path(model).suffix not in (".yaml", ".yml"):
            raise CheckpointError(f"model must be a YAML file, got '{model}'")
        config = tasks.yaml_model_load(model)
        config.update({name: own[name] for name in ("nc", "ch", "channels", "kpt_shape") if own.get(name)})
        config["scale"] = config.get("scale") or own.get("scale")
    elif not own:
        raise CheckpointError("it holds no model YAML: give the one it was trained from (--model)")
    check_model(config)
    config["channels"] = config["ch"] = input_channels(config)
    config["yaml_file"] = Path(str(config.get("yaml_file", "model.yaml"))).name
    task, wanted = _task(record, own or config), _task_of(config)
    if task != wanted:
        raise CheckpointError(f"its model does {task}, {model or 'its own YAML'} is one to {wanted}")
    return config


def _task(record: Record, config: dict[str, Any]) -> str:
    """Return the task of a record."""
    task = record.get("task")
    return task if isinstance(task, str) and task in _CLASSES else _task_of(config)


def _task_of(config: dict[str, Any]) -> str:
    """Return the task of a model dictionary, by its head; the host knows none for the head of RT-DETR."""
    return tasks.guess_model_task(config) or "detect"


def _check_size(tensors: dict[str, TensorRecord], content: Content) -> None:
    """Raise an error if the tensors stand for much more than the file holds."""
    if sum(tensor.nbytes for tensor in tensors.values()) > _SHARED * content.nbytes:
        raise CheckpointError("its tensors stand for far more numbers than the file holds")


def _rebuilt(record: Record, config: dict[str, Any]) -> tuple[nn.Module, int]:
    """Return the model with the record's tensors, and how many they are."""
    layers, names = children(record)["model"], _names(record)
    try:
        trial = parsed(config, config["channels"])  # takes no memory, whatever the YAML asks for
    except Exception as error:  # rows of a stranger: what their layers raise is anything at all
        raise CheckpointError(f"Ultralytics cannot build its model YAML: {error}") from error
    _check_same(record_differences(layers, trial, settings=False))
    try:
        model = _model_class(record, config)(copy.deepcopy(config), verbose=False)
    except Exception as error:  # rows that fit each other in channels and not in size, or a YAML without `nc`
        raise CheckpointError(f"Ultralytics cannot build its model YAML: {error!r:.300}") from error
    _check_same(record_differences(layers, model.model))
    places = {f"model.{theirs}": f"model.{ours}" for theirs, ours in published_names(model.model).items()}
    tensors = {ours: tensor for name, tensor in tensors_of(record).items() if (ours := places.get(name)) is not None}
    outside = [name for name in tensors_of(record) if name not in places]
    if outside:
        raise CheckpointError(f"tensors outside its layers: {', '.join(outside)}")
    model.load_state_dict({name: tensor.read() for name, tensor in tensors.items()})
    state = model.state_dict()
    unequal = [name for name, tensor in tensors.items() if not _equal(state[name], tensor.read())]
    if unequal:
        raise CheckpointError(f"{unequal[0]} does not fit into {state[unequal[0]].dtype}")
    if names:
        model.names = names
    model.task = _task(record, config)
    stride = record.get("stride")
    if isinstance(stride, TensorRecord) and stride.read().tolist() != model.stride.tolist():
        raise CheckpointError(f"its stride is {stride.read().tolist()}, Ultralytics makes it {model.stride.tolist()}")
    return model.eval(), len(tensors)


def _names(record: Record) -> dict[int, str]:
    """Return the names of the classes by their numbers, none if the file has none."""
    names = plain(record.get("names")) or {}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(type(k) is int and isinstance(v, str) for k, v in names.items()):
        raise CheckpointError("its names of classes are no texts by numbers")
    return names


def _check_same(unlike: list[str]) -> None:
    """Raise an error that names the first differences, if there are any."""
    if unlike:
        more = [f"and {len(unlike) - _SHOWN} more"] if len(unlike) > _SHOWN else []
        lines = "; ".join([*(f"model.{line}" for line in unlike[:_SHOWN]), *more])
        raise CheckpointError(f"the model in the file and the one Ultralytics builds from its YAML differ: {lines}")


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether a tensor holds exactly the numbers of the file."""
    return torch.equal(torch.nan_to_num(ours.to(theirs.dtype)), torch.nan_to_num(theirs))


def _model_class(record: Record, config: dict[str, Any]) -> type[nn.Module]:
    """Return the host's class of the model: the namesake of the fork's, or that of the task."""
    named = getattr(tasks, record.kind, None)
    if isinstance(named, type) and issubclass(named, tasks.BaseModel) and named is not tasks.BaseModel:
        return named
    return getattr(tasks, _CLASSES[_task(record, config)])


def _notes(content: Content) -> tuple[str, ...]:
    """Return what the user should know of a file."""
    notes = []
    if isinstance(content.value, dict) and content.value.get("optimizer"):
        notes.append(
            "the file holds the state of an optimizer, which is left out: training starts anew from the weights"
        )
    unusual = sorted(path for path in content.called if not _USUAL.fullmatch(path))
    if unusual:
        called = ", ".join(unusual[:8])
        notes.append(f"WARNING: read in the ordinary way, the file would have called {called}; here it was not")
    return tuple(notes)
