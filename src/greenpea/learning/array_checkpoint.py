"""Models of labels and measurements on disk: a folder with ``model.safetensors`` (every number) and ``model.json``.

As for models of votes, nothing is ever unpickled, and a folder cut short is refused and not half-believed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from greenpea.calibration import Recalibration
from greenpea.errors import GreenpeaError
from greenpea.files import replacing, sha256
from greenpea.labels import LabelLayout
from greenpea.learning import encoders
from greenpea.learning.arrays import ArrayModel, Plain, Silencing, make_head, prepared_encoder, prepared_head
from greenpea.learning.checkpoint import FACTS, NUMBERS, versions
from greenpea.learning.settings import Learning
from greenpea.learning.training import History
from greenpea.learning.uncertainty import laplace, layers
from greenpea.measurements import MeasurementLayout, Widening
from greenpea.outputs import Geometry

FORMAT = "greenpea-arrays/1"


def save_arrays(model: ArrayModel, folder: str | Path) -> Path:
    """Write a model's folder, whole or not at all, and return it. An older one there is replaced."""
    folder = Path(folder)
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file(model.tensors(), temporary / NUMBERS)
        known = {
            "format": FORMAT,
            "fingerprint": model.fingerprint(),
            "layout": _layout(model.layout),
            "settings": model.settings.model_dump(mode="json"),
            "encoder": _encoder(model.encoder),
            "head": _head(model.head),
            "unit": model.geometry.unit,
            "laplace": model.state is not None,
            "recalibration": _recalibration(model.recalibration),
            "history": vars(model.history),
            "versions": versions(),
            "sha256": sha256(temporary / NUMBERS),
        }
        (temporary / FACTS).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def load_arrays(folder: str | Path, encoder: nn.Module | None = None) -> ArrayModel:
    """Read a model's folder. An ``encoder`` of your own, which Greenpea cannot build, is given as it was made.

    Raises GreenpeaError, with the remedy, where a file is missing, cut short or altered.
    """
    folder = Path(folder)
    for name in (NUMBERS, FACTS):
        if not (folder / name).is_file():
            raise GreenpeaError(f"{folder} is no model of labels or measurements: it has no {name}")
    try:
        known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if known["format"] != FORMAT:
            raise _broken(folder, f"its format is {known['format']!r}, not {FORMAT!r}")
        if sha256(folder / NUMBERS) != known["sha256"]:
            raise _broken(folder, "its bytes are not those that were saved")
        return _restore(known, load_file(folder / NUMBERS), encoder)
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, ValidationError, RuntimeError) as error:
        raise _broken(folder, f"a part is missing or does not fit: {error}") from error


def _restore(known: dict[str, Any], numbers: dict[str, Tensor], encoder: nn.Module | None) -> ArrayModel:
    layout = _restored(known["layout"])
    settings = Learning.model_validate(known["settings"])
    built = _built(known["encoder"]) if encoder is None else encoder
    if not settings.freeze:
        built = prepared_encoder(built, settings)
    built.load_state_dict(_part(numbers, "encoder."))
    about = known["head"]
    head = make_head(about["embedding"], about["hidden"], torch.zeros(layout.outputs), about["dropout"])
    head = prepared_head(head, settings)
    head.load_state_dict(_part(numbers, "head."))
    found = known["recalibration"]
    return ArrayModel(
        encoder=built.eval(),
        head=head.eval(),
        layout=layout,
        settings=settings,
        geometry=Geometry(numbers["geometry.mean"].numpy(), numbers["geometry.factor"].numpy(), known["unit"]),
        state=laplace.restore(_part(numbers, "state.")) if known["laplace"] else None,
        recalibration=None if found is None else _mended(found),
        history=History(**known["history"]),
    )


def _layout(layout: LabelLayout | MeasurementLayout) -> dict[str, Any]:
    if isinstance(layout, LabelLayout):
        about = {"classes": layout.classes, "noise": layout.noise, "question": layout.question}
        return {"kind": "labels"} | about
    numbers = {"centre": layout.centre.tolist(), "scale": layout.scale.tolist()}
    return {"kind": "measurements", "targets": layout.targets, "units": layout.units} | numbers


def _restored(about: dict[str, Any]) -> LabelLayout | MeasurementLayout:
    if about["kind"] == "labels":
        return LabelLayout(tuple(about["classes"]), about["noise"], about["question"])
    centre, scale = np.array(about["centre"]), np.array(about["scale"])
    return MeasurementLayout(tuple(about["targets"]), tuple(about["units"]), centre, scale)


def _encoder(encoder: nn.Module) -> dict[str, Any]:
    if isinstance(encoder, Plain):
        return {"name": "plain", "size": encoder.embedding_size}
    return dict(getattr(encoder, "built", {"name": "custom"}))


def _built(about: dict[str, Any]) -> nn.Module:
    if about["name"] == "custom":
        raise GreenpeaError("this model's encoder is not one that Greenpea builds: give it to load_arrays as `encoder`")
    return Plain(about["size"]) if about["name"] == "plain" else encoders.build(**about)


def _head(head: nn.Sequential) -> dict[str, Any]:
    linear = [layer for layer in layers.plain(head).children() if isinstance(layer, nn.Linear)]
    return {
        "embedding": linear[0].in_features,
        "hidden": [layer.out_features for layer in linear[:-1]],
        "dropout": [layer.p for layer in head if isinstance(layer, Silencing)],
    }


def _recalibration(found: Recalibration | Widening | None) -> dict[str, Any] | None:
    if isinstance(found, Recalibration):
        return {"sharpness": dict(found.sharpness), "shift": dict(found.shift)}
    return None if found is None else {"factors": list(found.factors)}


def _mended(found: dict[str, Any]) -> Recalibration | Widening:
    return Widening(tuple(found["factors"])) if "factors" in found else Recalibration(**found)


def _part(numbers: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}


def _broken(folder: Path, why: str) -> GreenpeaError:
    return GreenpeaError(f"{folder} is damaged: {why}. Copy the model's folder again, or learn anew")
