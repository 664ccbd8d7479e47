"""Checkpoints: a folder with ``model.safetensors`` (every number), ``model.json`` (everything else, but for)
``subjects.json`` (the ids of the subjects it has seen, which it must never be judged by).

Nothing is ever unpickled. The JSON holds the tree, the settings, the seed, versions and data hashes, and the
SHA-256 of the numbers, so that a checkpoint cut short is refused and not half-believed.
"""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from greenpea.calibration import Recalibration
from greenpea.errors import GreenpeaError
from greenpea.files import replacing, saving, sha256
from greenpea.images import Preparation
from greenpea.learning import encoders, uncertainty
from greenpea.learning.kept import KeptEncoder
from greenpea.learning.model import Model
from greenpea.learning.settings import Learning
from greenpea.learning.training import History
from greenpea.outputs import Geometry, Layout
from greenpea.tree import DecisionTree

FORMAT, ENCODER_FORMAT = "greenpea-model/1", "greenpea-encoder/1"
NUMBERS, FACTS, SUBJECTS = "model.safetensors", "model.json", "subjects.json"
ENCODER_NUMBERS, ENCODER_FACTS = "encoder.safetensors", "encoder.json"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("greenpea", "torch", "lightning-fabric", "numpy", "scipy", "pillow", "astropy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def save(model: Model, folder: str | Path) -> Path:
    """Write a checkpoint folder, whole or not at all, and return it. An older one there is replaced."""
    folder = Path(folder)
    with saving(folder), replacing(folder) as temporary:
        temporary.mkdir()
        save_file(model.tensors(), temporary / NUMBERS)
        known = _facts(model) | {"sha256": sha256(temporary / NUMBERS)}
        (temporary / SUBJECTS).write_text(json.dumps(model.learned_from, ensure_ascii=False), encoding="utf-8")
        (temporary / FACTS).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def _facts(model: Model) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fingerprint": model.fingerprint(),
        "tree": json.loads(model.layout.tree.to_json()),
        "preparation": model.preparation.model_dump(mode="json"),
        "settings": model.settings.model_dump(mode="json"),
        "channels": model.channels,
        "unit": model.geometry.unit,
        "recalibration": {
            "sharpness": dict(model.recalibration.sharpness),
            "shift": dict(model.recalibration.shift),
        },
        "history": vars(model.history),
        "facts": model.facts,
        "versions": versions(),
    }


def load(folder: str | Path) -> Model:
    """Read a checkpoint folder.

    Raises GreenpeaError, with the remedy, where a file is missing, cut short or altered.
    """
    folder = Path(folder)
    known = facts(folder)
    if sha256(folder / NUMBERS) != known.get("sha256"):
        raise _broken(folder / NUMBERS, "its bytes are not those that were saved")
    try:
        subjects = json.loads((folder / SUBJECTS).read_text(encoding="utf-8"))
        return replace(_restore(known, load_file(folder / NUMBERS)), learned_from=tuple(subjects))
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, ValidationError, RuntimeError) as error:
        raise _broken(folder / FACTS, f"a part is missing or does not fit: {error}") from error


def facts(folder: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself, without reading its numbers. Raises as `load` does."""
    folder = Path(folder)
    for name in (NUMBERS, FACTS, SUBJECTS):
        if not (folder / name).is_file():
            raise GreenpeaError(f"{folder} is not a checkpoint: it has no {name}. Train a model, or name its folder")
    try:
        known: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        kind = known["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise _broken(folder / FACTS, "it is not the JSON that Greenpea writes") from error
    if kind != FORMAT:
        raise GreenpeaError(f"{folder / FACTS} has the format {kind!r}; this Greenpea reads {FORMAT!r}")
    return known


def _restore(facts: dict[str, Any], numbers: dict[str, torch.Tensor]) -> Model:
    settings = Learning.model_validate(facts["settings"])
    preparation = Preparation.model_validate(facts["preparation"])
    tree = DecisionTree.from_json(json.dumps(facts["tree"]), FACTS)
    method = uncertainty.method(settings.uncertainty)
    built = encoders.build(settings.encoder, facts["channels"], preparation.size, settings.width)
    encoder = method.prepare(built, settings)
    encoder.load_state_dict(_part(numbers, "encoder."))
    encoder.to(memory_format=torch.channels_last).eval()
    return Model(
        encoder=encoder,
        layout=Layout(tree, settings.likelihood),
        preparation=preparation,
        settings=settings,
        channels=facts["channels"],
        state=method.restore(_part(numbers, "head.")),
        geometry=Geometry(numbers["geometry.mean"].numpy(), numbers["geometry.factor"].numpy(), facts["unit"]),
        recalibration=Recalibration(**facts["recalibration"]),
        history=History(**facts["history"]),
        facts=facts["facts"],
    )


# ---- encoders alone ----------------------------------------------------------------------------------


def save_encoder(kept: KeptEncoder, folder: str | Path, half: bool = False) -> Path:
    """Write an encoder's folder, whole or not at all, and return it. An older one there is replaced.

    ``half``: in half precision, at half the size; what is read back is then the rounded encoder.
    """
    folder = Path(folder)
    numbers = {
        name: value.half() if half and value.is_floating_point() else value for name, value in kept.tensors().items()
    }
    with saving(folder), replacing(folder) as temporary:
        temporary.mkdir()
        save_file(numbers, temporary / ENCODER_NUMBERS)
        known = {
            "format": ENCODER_FORMAT,
            "preparation": kept.preparation.model_dump(mode="json"),
            "encoder": kept.name,
            "width": kept.width,
            "channels": kept.channels,
            "origin": kept.origin,
            "about": dict(kept.about),
            "learned_from": list(kept.learned_from),
            "versions": versions(),
            "sha256": sha256(temporary / ENCODER_NUMBERS),
        }
        (temporary / ENCODER_FACTS).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def load_encoder(folder: str | Path) -> KeptEncoder:
    """Read an encoder's folder. Raises GreenpeaError where a file is missing, cut short or altered."""
    folder = Path(folder)
    for name in (ENCODER_NUMBERS, ENCODER_FACTS):
        if not (folder / name).is_file():
            raise GreenpeaError(f"{folder} is not an encoder: it has no {name}")
    try:
        known = json.loads((folder / ENCODER_FACTS).read_text(encoding="utf-8"))
        if known["format"] != ENCODER_FORMAT:
            raise _broken(folder / ENCODER_FACTS, f"its format is {known['format']!r}, not {ENCODER_FORMAT!r}")
        if sha256(folder / ENCODER_NUMBERS) != known["sha256"]:
            raise _broken(folder / ENCODER_NUMBERS, "its bytes are not those that were saved")
        preparation = Preparation.model_validate(known["preparation"])
        encoder = encoders.build(known["encoder"], known["channels"], preparation.size, known["width"])
        encoder.load_state_dict(load_file(folder / ENCODER_NUMBERS))
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, ValidationError, RuntimeError) as error:
        raise _broken(folder / ENCODER_FACTS, f"a part is missing or does not fit: {error}") from error
    encoder.to(memory_format=torch.channels_last).eval()
    return KeptEncoder(
        encoder=encoder,
        preparation=preparation,
        name=known["encoder"],
        width=known["width"],
        channels=known["channels"],
        origin=known["origin"],
        learned_from=tuple(known["learned_from"]),
        about=known["about"],
    )


def _part(numbers: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}


def _broken(path: Path, why: str) -> GreenpeaError:
    return GreenpeaError(f"{path} is damaged: {why}. Copy the checkpoint again, or train anew")
