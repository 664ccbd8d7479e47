"""A workflow as somebody uploads it: read, checked, and carried from the preview to the publishing."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from greenpea.errors import GreenpeaError
from greenpea.workflow import Workflow
from greenpea.zooniverse import ImportedWorkflow, workflow_versions

MOST_BYTES = 2_000_000
PREVIEW_LASTS = 24 * 3600  # seconds
ZOONIVERSE_KEYS = frozenset({"tasks", "workflows", "workflow_versions"})


@dataclass(frozen=True)
class Upload:
    """A workflow that can be published, and what a person should know about how it was read."""

    workflow: Workflow
    notes: tuple[str, ...] = ()


def read(content: bytes, name: str) -> Upload:
    """Read a workflow from a file's content: Greenpea's JSON, or Zooniverse's as JSON or a workflows.csv export.

    ``name`` is the file's, for errors. Raises GreenpeaError, a line for each fault, naming the place and the remedy.
    """
    where = PurePosixPath(name.replace("\\", "/")).name[:80] or "the workflow"
    if len(content) > MOST_BYTES:
        raise GreenpeaError(f"{where} has {len(content) / 1e6:.1f} MB; a workflow has at most {MOST_BYTES / 1e6:g} MB")
    if not content.strip():
        raise GreenpeaError(f"{where} is empty: choose a file, or paste a workflow")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise GreenpeaError(f"{where} is not UTF-8 text (line {line}): save it as UTF-8") from error
    try:
        upload = _of_zooniverse(text, where) if _is_zooniverse(text, where) else Upload(Workflow.from_json(text, where))
        _check_characters(upload.workflow.to_json(), where)
    except GreenpeaError:
        raise
    except RecursionError as error:
        raise GreenpeaError(f"{where} nests too deeply to be a workflow: check its brackets") from error
    except ValueError as error:  # numbers of thousands of digits, half characters
        raise GreenpeaError(f"{where} cannot be read: {str(error)[:200]}") from error
    return upload


def _check_characters(text: str, where: str) -> None:
    """Refuse what no database keeps: the character of number 0, and halves of characters."""
    text.encode()
    if "\\u0000" in text.replace("\\\\", ""):
        raise GreenpeaError(f"{where} holds the character \\u0000, which is no text: remove it")


def _is_zooniverse(text: str, where: str) -> bool:
    if where.lower().endswith(".csv"):
        return True
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return False  # the workflow's own reader says where the fault is
    head = content[0] if isinstance(content, list) and content else content
    return isinstance(head, dict) and not ZOONIVERSE_KEYS.isdisjoint(head) and "questions" not in head


def _of_zooniverse(text: str, where: str) -> Upload:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{'.csv' if where.lower().endswith('.csv') else '.json'}"
        path.write_text(text, encoding="utf-8")
        try:
            versions = workflow_versions(path)
        except GreenpeaError as error:
            raise GreenpeaError(str(error).replace(str(path), where).replace(path.name, where)) from error
    newest = max(versions, key=_order)
    return Upload(Workflow(tree=newest.tree), tuple(_notes(newest, len(versions))))


def _order(version: ImportedWorkflow) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.version.split(".")]


def _notes(version: ImportedWorkflow, versions: int) -> list[str]:
    notes = [f"From Zooniverse: workflow {version.workflow_id}, version {version.version}."]
    if versions > 1:
        notes.append(f"The file holds {versions} versions; this is the newest.")
    notes.append("Zooniverse's retirement is not part of the file: here it is after the default number.")
    notes += [f"Left out: task {one.task} (“{one.text[:80]}”): {one.reason}." for one in version.skipped]
    notes += [f"Left out: task {one.task} (“{one.text[:80]}”): {one.reason}." for one in version.unreachable]
    return notes


# ---- from the preview to the publishing --------------------------------------------------------------


def seal(secret: bytes, workflow: Workflow, over: int) -> str:
    """Return a previewed workflow as signed text: what is published is what was shown, over version ``over``."""
    return str(_signer(secret).dumps({"workflow": workflow.to_json(), "over": over}))


def unseal(secret: bytes, sealed: str) -> tuple[Workflow, int]:
    """Return what `seal` was given. Raises GreenpeaError where it is not ours, or older than a day."""
    try:
        content: dict[str, Any] = _signer(secret).loads(sealed, max_age=PREVIEW_LASTS)
    except (BadSignature, UnicodeError) as error:
        raise GreenpeaError("this preview is no longer valid: upload the workflow again") from error
    return Workflow.from_json(content["workflow"], "the preview"), int(content["over"])


def _signer(secret: bytes) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret, salt="greenpea.team.workflow")
