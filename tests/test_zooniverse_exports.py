"""Classification and subject exports of Zooniverse are read without loss, and written so that they read the same."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import trees

from greenpea.classifications import Classification, check, count
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from greenpea.zooniverse import (
    ImportedWorkflow,
    PanoptesSubject,
    Reason,
    Report,
    Status,
    Unused,
    classifications_csv,
    keeping,
    read_classifications,
    read_subjects,
    reductions_csv,
    subjects_csv,
    workflow_json,
    workflow_versions,
    workflows_csv,
)
from greenpea.zooniverse.classifications import COLUMNS
from greenpea.zooniverse.rows import guarded, unguarded

# ---- a small project -------------------------------------------------------------------------------------

TASKS: dict[str, Any] = {
    "T0": {
        "type": "single",
        "question": "Smooth or disk?",
        "answers": [
            {"label": "![s.png](https://example.org/s.png) Smooth", "next": "T2"},
            {"label": "Disk", "next": "T1"},
            {"label": "Étoile"},
        ],
    },
    "T1": {
        "type": "multiple",
        "question": "Any features?",
        "answers": [{"label": "Ring"}, {"label": "Bar"}],
        "next": "T9",
    },
    "T9": {"type": "drawing", "instruction": "Mark the bar", "next": "T2"},
    "T2": {"type": "single", "question": "Merging?", "answers": [{"label": "Yes"}, {"label": "No"}]},
    "T8": {"type": "single", "question": "Never asked?", "answers": [{"label": "Yes"}, {"label": "No"}]},
}
SMOOTH, DISK, MERGING = TASKS["T0"]["answers"][0]["label"], "Disk", "Yes"


def _workflow(folder: Path, tasks: Mapping[str, Any] = TASKS, *versions: str) -> list[ImportedWorkflow]:
    records = [
        {
            "links": {"workflow": "77"},
            "major_number": int(version.split(".")[0]),
            "minor_number": int(version.split(".")[1]),
            "first_task": "T0",
            "tasks": tasks,
            "strings": {},
        }
        for version in versions or ("3.10",)
    ]
    file = folder / "workflow.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    return workflow_versions(file)


def _cells(*annotations: tuple[str, Any], **cells: str) -> dict[str, str]:
    return {
        "classification_id": "1",
        "user_name": "ada",
        "user_id": "5",
        "user_ip": "abc",
        "workflow_id": "77",
        "workflow_name": "Shapes",
        "workflow_version": "3.10",
        "created_at": "2024-02-03 04:05:06 UTC",
        "gold_standard": "",
        "expert": "",
        "metadata": json.dumps({"started_at": "2024-02-03T04:05:00.250Z", "finished_at": "2024-02-03T04:05:05.500Z"}),
        "annotations": json.dumps([{"task": task, "task_label": "?", "value": value} for task, value in annotations]),
        "subject_data": "{}",
        "subject_ids": "1001",
        **cells,
    }


def _text(rows: Iterable[Mapping[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _read(
    folder: Path, rows: Iterable[Mapping[str, str]] | bytes, workflows: Sequence[ImportedWorkflow] | None = None
) -> tuple[list[Classification], Report]:
    file = folder / "classifications.csv"
    file.write_bytes(rows if isinstance(rows, bytes) else _text(rows).encode())
    imported = read_classifications(file, _workflow(folder) if workflows is None else workflows)
    found = list(imported)
    assert imported.report.rows == imported.report.used + len(imported.report.unused)
    assert imported.report.classifications == len(found)
    return found, imported.report


WHOLE = _cells(("T0", DISK), ("T1", ["Ring"]), ("T9", [{"x": 1.5, "y": 2}]), ("T2", "Yes"))


def test_a_row_becomes_a_classification_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    (one,), report = _read(tmp_path, [WHOLE | {"gold_standard": "true", "expert": "NA"}])
    assert one == Classification(
        uuid="zooniverse-1",
        subject_id="1001",
        volunteer="ada",
        annotations={"smooth-disk": ("disk",), "features": ("ring",), "merging": ("yes",)},
        version="3.10",
        started_at=datetime(2024, 2, 3, 4, 5, 0, 250000, UTC),
        finished_at=datetime(2024, 2, 3, 4, 5, 5, 500000, UTC),
        stream="import",
        metadata={
            "zooniverse": {
                "classification_id": "1",
                "user_id": "5",
                "user_ip": "abc",
                "workflow_id": "77",
                "workflow_name": "Shapes",
                "workflow_version": "3.10",
                "created_at": "2024-02-03 04:05:06 UTC",
                "gold_standard": "true",
                "metadata": json.loads(WHOLE["metadata"]),
            },
            "raw": [{"task": "T9", "task_label": "?", "value": [{"x": 1.5, "y": 2}]}],
        },
    )
    assert [(fault.row, fault.classification_id, fault.reason) for fault in report.partly] == [
        (2, "1", Reason.TASK_TYPE)
    ]
    assert "tasks of type 'drawing'" in report.partly[0].detail


def _answers(*annotations: tuple[str, Any]) -> list[tuple[str, Any]]:
    return list(annotations)


# annotations → the answers used, the reasons for what was not, the number of annotations kept raw
READINGS: dict[str, tuple[list[tuple[str, Any]], dict[str, tuple[str, ...]] | None, list[Reason], int]] = {
    "image in the label": (
        _answers(("T0", SMOOTH), ("T2", "No")),
        {"smooth-disk": ("smooth",), "merging": ("no",)},
        [],
        0,
    ),
    "a walk that ends early by the tree": (_answers(("T0", "Étoile")), {"smooth-disk": ("etoile",)}, [], 0),
    "a single answer in a list": (_answers(("T0", ["Étoile"])), {"smooth-disk": ("etoile",)}, [], 0),
    "an index": (_answers(("T0", 0), ("T2", 1)), {"smooth-disk": ("smooth",), "merging": ("no",)}, [], 0),
    "nothing ticked": (
        _answers(("T0", DISK), ("T1", []), ("T2", "No")),
        {"smooth-disk": ("disk",), "features": (), "merging": ("no",)},
        [],
        0,
    ),
    "null where any number is allowed": (
        _answers(("T0", DISK), ("T1", None), ("T2", "No")),
        {"smooth-disk": ("disk",), "features": (), "merging": ("no",)},
        [],
        0,
    ),
    "one label, not in a list, and twice": (
        _answers(("T0", DISK), ("T1", "Bar"), ("T1", ["Ring", "Bar", "Ring"]), ("T2", "No")),
        {"smooth-disk": ("disk",), "features": ("ring", "bar"), "merging": ("no",)},
        [Reason.AGAIN],
        1,
    ),
    "a combination": (
        _answers(("T7", [{"task": "T0", "value": DISK}, {"task": "T1", "value": ["Bar"]}]), ("T2", "No")),
        {"smooth-disk": ("disk",), "features": ("bar",), "merging": ("no",)},
        [],
        0,
    ),
    "a combination that refers to its replies": (
        _answers(("T7", [{"task": "T0", "taskType": "single"}]), ("T0", "Étoile")),
        {"smooth-disk": ("etoile",)},
        [],
        0,
    ),
    "unfinished": (_answers(("T0", DISK)), {"smooth-disk": ("disk",)}, [Reason.UNFINISHED], 0),
    "skipped in the middle": (
        _answers(("T0", SMOOTH), ("T2", None)),
        {"smooth-disk": ("smooth",)},
        [Reason.SKIPPED],
        1,
    ),
    "a stale branch": (
        _answers(("T0", SMOOTH), ("T1", ["Bar"]), ("T2", "No")),
        {"smooth-disk": ("smooth",), "merging": ("no",)},
        [Reason.ASTRAY],
        1,
    ),
    "an unknown label later": (
        _answers(("T0", DISK), ("T1", ["Bar", None]), ("T2", "No")),
        {"smooth-disk": ("disk",)},
        [Reason.LABEL, Reason.ASTRAY],
        2,
    ),
    "a task nobody comes to": (
        _answers(("T0", "Étoile"), ("T8", "Yes")),
        {"smooth-disk": ("etoile",)},
        [Reason.TASK],
        1,
    ),
    "an unknown label first": (_answers(("T0", "Spiral"), ("T2", "No")), None, [Reason.LABEL], 0),
    "Panoptes' own unknown label": (_answers(("T0", "unknown answer label")), None, [Reason.LABEL], 0),
    "several labels where one is asked": (_answers(("T0", [DISK, SMOOTH])), None, [Reason.LABEL], 0),
    "true is no index": (_answers(("T0", True)), None, [Reason.LABEL], 0),
    "skipped at once": (_answers(("T0", None)), None, [Reason.SKIPPED], 0),
    "a drawing only": (_answers(("T9", [])), None, [Reason.TASK_TYPE], 0),
    "off the walk only": (_answers(("T2", "Yes")), None, [Reason.ASTRAY], 0),
    "nothing": (_answers(), None, [Reason.EMPTY], 0),
}


@pytest.mark.parametrize("name", READINGS)
def test_answers_are_read_as_far_as_they_are_a_walk(name: str, tmp_path: Path) -> None:
    annotations, expected, reasons, raw = READINGS[name]
    found, report = _read(tmp_path, [_cells(*annotations)])
    assert [fault.reason for fault in (report.unused or report.partly)] == reasons
    assert [dict(one.annotations) for one in found] == ([] if expected is None else [expected])
    for one in found:
        check(_workflow(tmp_path)[0].tree, one.annotations, complete=False)
        assert len(one.metadata.get("raw", [])) == raw


UNUSABLE = {
    "workflow": ({"workflow_id": "78"}, Reason.WORKFLOW, "workflow 78"),
    "version": ({"workflow_version": "4.1"}, Reason.VERSION, "workflow 77, version 4.1"),
    "no version": ({"workflow_version": ""}, Reason.VERSION, "workflow 77"),
    "annotations": ({"annotations": '[{"task": "T0"'}, Reason.JSON, '[{"task": "T0"'),
    "annotations of another kind": ({"annotations": '{"task": "T0"}'}, Reason.JSON, ""),
    "deep annotations": ({"annotations": "[" * 100_000}, Reason.JSON, ""),
    "subject": ({"subject_ids": " "}, Reason.SUBJECT, ""),
    "id": ({"classification_id": ""}, Reason.NO_ID, ""),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_row_that_cannot_be_used_is_reported_and_the_others_are_read(name: str, tmp_path: Path) -> None:
    cells, reason, detail = UNUSABLE[name]
    found, report = _read(
        tmp_path, [WHOLE | {"classification_id": "8"}, WHOLE | cells, WHOLE | {"classification_id": "9"}]
    )
    assert [one.uuid for one in found] == ["zooniverse-8", "zooniverse-9"]
    (fault,) = report.unused
    assert (fault.row, fault.reason) == (3, reason)
    assert detail in fault.detail
    assert any(str(reason) in line and "row 3" in line for line in report.summary())


def test_unreadable_metadata_cost_the_times_and_nothing_else(tmp_path: Path) -> None:
    broken = WHOLE | {"metadata": "{oops", "created_at": "yesterday"}
    (one,), report = _read(tmp_path, [broken])
    assert (one.started_at, one.finished_at) == (None, None)
    assert [fault.reason for fault in report.partly] == [Reason.TASK_TYPE, Reason.METADATA, Reason.TIME]
    assert one.metadata["zooniverse"]["metadata"] == {"text": "{oops"}
    (one,), report = _read(tmp_path, [WHOLE | {"metadata": ""}])
    assert (one.started_at, one.finished_at) == (None, datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC))


def test_a_classification_counts_once_however_often_it_stands(tmp_path: Path) -> None:
    found, report = _read(tmp_path, [WHOLE | {"annotations": "["}, WHOLE, WHOLE, WHOLE | {"classification_id": "2"}])
    assert [one.uuid for one in found] == ["zooniverse-1", "zooniverse-2"]
    assert [(fault.row, fault.reason) for fault in report.unused] == [(2, Reason.JSON), (4, Reason.REPEATED)]


def test_a_row_about_several_subjects_is_one_classification_of_each(tmp_path: Path) -> None:
    found, report = _read(tmp_path, [WHOLE | {"subject_ids": "1001;1002;1001"}])
    assert [(one.uuid, one.subject_id) for one in found] == [
        ("zooniverse-1-1001", "1001"),
        ("zooniverse-1-1002", "1002"),
    ]
    assert [one.metadata["together"] for one in found] == [["1001", "1002"]] * 2
    assert (report.rows, report.used, report.classifications) == (1, 1, 2)
    (one,), _ = _read(tmp_path, [WHOLE | {"subject_ids": "a;b", "subject_data": '{"a;b": {}}'}])
    assert one.subject_id == "a;b"


def test_a_row_without_a_name_is_somebody_of_whom_nothing_is_known(tmp_path: Path) -> None:
    rows = [WHOLE | {"user_name": ""}, WHOLE | {"user_name": "", "user_ip": "", "classification_id": "2"}]
    found, _ = _read(tmp_path, rows)
    assert [one.volunteer for one in found] == ["not-logged-in-abc", "not-logged-in-2"]


def test_answers_are_read_at_their_own_version_or_the_newest_of_its_major_one(tmp_path: Path) -> None:
    workflows = _workflow(tmp_path, TASKS, "3.9", "3.10", "3.30", "4.1")
    rows = [
        WHOLE | {"workflow_version": version, "classification_id": str(place)}
        for place, version in enumerate(["3.9", "3.10", "3.3", "3.11", "4", "4.1"])
    ]
    found, report = _read(tmp_path, rows, workflows)
    assert [one.version for one in found] == ["3.9", "3.10", "3.30", "3.30", "4.1", "4.1"]
    assert report.other_versions == {("77", "3.3", "3.30"): 1, ("77", "3.11", "3.30"): 1, ("77", "4", "4.1"): 1}
    assert "1 × workflow 77 version 3.11 read as version 3.30, the nearest given" in report.summary()


def test_a_combination_asks_its_tasks_one_after_another(tmp_path: Path) -> None:
    tasks = {
        "T0": {"type": "combo", "tasks": ["T1", "T2"], "next": "T3"},
        "T1": {"type": "single", "question": "Disk?", "answers": [{"label": "Yes", "next": "T9"}, {"label": "No"}]},
        "T2": {"type": "multiple", "question": "Odd?", "answers": [{"label": "Ring"}]},
        "T3": {"type": "single", "question": "Merging?", "answers": [{"label": "Yes"}, {"label": "No"}]},
    }
    (workflow,) = _workflow(tmp_path, tasks)
    combined = [{"task": "T1", "value": "No"}, {"task": "T2", "value": ["Ring"]}]
    (one,), report = _read(tmp_path, [_cells(("T0", combined), ("T3", "Yes"))], [workflow])
    assert one.annotations == {"disk": ("no",), "odd": ("ring",), "merging": ("yes",)}
    assert report.partly == []
    check(workflow.tree, one.annotations)


# ---- files as they come --------------------------------------------------------------------------------


def test_byte_order_marks_latin_1_and_compression_are_read(tmp_path: Path) -> None:
    rows = [_cells(("T0", "Étoile")), _cells(("T0", "Étoile"), user_name="Zoë", classification_id="2")]
    text = _text(rows).replace("\\u00c9", "É")
    for data, odd in ((b"\xef\xbb\xbf" + text.encode(), 0), (text.encode("latin-1"), 2)):
        found, report = _read(tmp_path, data)
        assert [(one.volunteer, one.annotations["smooth-disk"]) for one in found] == [
            ("ada", ("etoile",)),
            ("Zoë", ("etoile",)),
        ]
        assert report.latin_1_lines == odd
    # One line in Latin-1 does not spoil those in UTF-8.
    first, second, third = text.splitlines(keepends=True)
    found, report = _read(tmp_path, (first + second).encode() + third.encode("latin-1"))
    assert (len(found), report.latin_1_lines) == (2, 1)
    packed = tmp_path / "classifications.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert len(list(read_classifications(packed, _workflow(tmp_path)))) == 2


@pytest.mark.parametrize("names_subjects", [True, False])
def test_of_a_file_cut_anywhere_the_whole_rows_are_read_and_the_last_is_reported(
    names_subjects: bool, tmp_path: Path
) -> None:
    rows = [
        _cells(
            ("T0", "Étoile"),
            classification_id=str(place),
            subject_ids="1001",
            subject_data='{"1001": {"a": "x"}}' if names_subjects else "",
        )
        for place in (1, 2)
    ]
    data = _text(rows).replace("\\u00c9", "É").encode()
    workflows = _workflow(tmp_path)
    start = data.index(b"\n2,") + 1
    for end in range(start + 1, len(data)):
        found, report = _read(tmp_path, data[:end], workflows)
        whole = data[start:end].rstrip().endswith(b",1001") and (names_subjects or data[end - 1 : end] == b"\n")
        assert [one.uuid for one in found] == ["zooniverse-1", "zooniverse-2"][: 2 if whole else 1]
        assert [fault.reason for fault in report.unused] == ([] if whole else [Reason.CUT_OFF])
        assert [one.subject_id for one in found] == ["1001"] * len(found)


def test_a_compressed_file_that_breaks_off_gives_what_was_read(tmp_path: Path) -> None:
    text = _text(_cells(("T0", "Étoile"), classification_id=str(place)) for place in range(2000))
    packed = tmp_path / "classifications.csv.gz"
    whole = gzip.compress(text.encode())
    packed.write_bytes(whole[: len(whole) // 2])
    imported = read_classifications(packed, _workflow(tmp_path))
    assert 0 < len(list(imported)) < 2000
    assert len(imported.report.unused) <= 1


@pytest.mark.parametrize(
    "content",
    [b"classification_id\n", b"\x1f\x8b no such method", gzip.compress(_text([WHOLE]).encode())[:-8] + b"8" * 8],
    ids=["plain", "another method", "a wrong sum"],
)
def test_what_is_not_compressed_as_its_name_says_is_told(tmp_path: Path, content: bytes) -> None:
    packed = tmp_path / "classifications.csv.gz"
    packed.write_bytes(content)
    with pytest.raises(GreenpeaError, match="not compressed as its name says"):
        list(read_classifications(packed, _workflow(tmp_path)))


def test_rows_with_other_numbers_of_cells_are_reported(tmp_path: Path) -> None:
    lines = _text([WHOLE, WHOLE | {"classification_id": "2"}]).splitlines(keepends=True)
    found, report = _read(tmp_path, "".join([lines[0], "5,too,short\r\n", "\r\n", *lines[1:]]).encode())
    assert [one.uuid for one in found] == ["zooniverse-1", "zooniverse-2"]
    assert [(fault.row, fault.classification_id, fault.reason) for fault in report.unused] == [(2, "5", Reason.CELLS)]


def test_files_that_are_no_classification_export_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match=r"no file .*none\.csv"):
        read_classifications(tmp_path / "none.csv", [])
    other = tmp_path / "other.csv"
    other.write_text("subject_id;metadata\n1;{}\n")
    with pytest.raises(GreenpeaError, match=r"other\.csv has no column 'classification_id': give a classification"):
        read_classifications(other, [])
    other.write_text("")
    with pytest.raises(GreenpeaError, match="no column"):
        read_subjects(other)


def test_rows_not_used_are_kept_in_a_file_that_can_be_read_again(tmp_path: Path) -> None:
    rows = [WHOLE, WHOLE | {"classification_id": "2", "workflow_version": "5.1", "user_name": "=cmd"}]
    file, kept = tmp_path / "classifications.csv", tmp_path / "unused.csv"
    file.write_bytes(_text(rows).encode())
    with keeping(kept) as unused:
        assert len(list(read_classifications(file, _workflow(tmp_path), unused))) == 1
    (row,) = csv.DictReader(io.StringIO(kept.read_bytes().decode(), newline=""))
    assert (row["row"], row["reason"], row["user_name"]) == ("3", str(Reason.VERSION), "'=cmd")
    (found,) = read_classifications(kept, _workflow(tmp_path, TASKS, "5.1"))
    assert (found.uuid, found.volunteer) == ("zooniverse-2", "=cmd")


# ---- what is written reads the same ----------------------------------------------------------------------


@given(st.text(alphabet=st.sampled_from("'=+-@\t\rab")))
def test_a_guarded_cell_is_no_formula_and_comes_back(text: str) -> None:
    assert guarded(text)[:1] not in {"=", "+", "-", "@", "\t", "\r"}
    assert unguarded(guarded(text)) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
TIMES = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
NAMES = st.text(st.sampled_from("'=+-@;,\"\n\r\t aé"), min_size=1, max_size=6).filter(lambda name: bool(name.strip()))


@st.composite
def _annotations(draw: st.DrawFn, tree: DecisionTree) -> dict[str, tuple[str, ...]]:
    """A walk through the tree, whole or stopped after any question."""
    given_answers: dict[str, tuple[str, ...]] = {}
    slug: str | None = tree.first
    while slug is not None and (not given_answers or draw(st.integers(0, 9))):
        question = tree[slug]
        if question.kind == "multiple":
            given_answers[slug] = tuple(draw(st.lists(st.sampled_from(question.answer_slugs), unique=True)))
            slug = question.next
        else:
            answer = draw(st.sampled_from(question.answers))
            given_answers[slug] = (answer.slug,)
            slug = answer.next
    return given_answers


@st.composite
def _campaigns(draw: st.DrawFn) -> tuple[dict[str, DecisionTree], list[Classification]]:
    numbers = draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=2, unique=True))
    versions = {f"{major}.{minor}": draw(trees(most=4)) for major, minor in numbers}
    ids = st.uuids().map(str) | st.integers(1, 10**12).map(lambda number: f"zooniverse-{number}")
    found = []
    for uuid in draw(st.lists(ids, max_size=4, unique=True)):
        version = draw(st.sampled_from(sorted(versions)))
        found.append(
            Classification(
                uuid=uuid,
                subject_id=draw(NAMES),
                volunteer=draw(NAMES),
                annotations=draw(_annotations(versions[version])),
                version=version,
                started_at=draw(TIMES),
                finished_at=draw(TIMES),
                stream=draw(st.sampled_from(["random", "rank", "audit"])),
                round=draw(st.none() | st.integers(0, 9)),
                probability=draw(st.none() | st.floats(0, 1)),
                metadata=draw(st.dictionaries(st.text(max_size=4), JSON, max_size=2)),
            )
        )
    return versions, found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(campaign=_campaigns())
def test_an_export_reads_back_as_the_same_classifications(
    campaign: tuple[dict[str, DecisionTree], list[Classification]], tmp_path: Path
) -> None:
    versions, classifications = campaign
    workflow = tmp_path / "export.json"
    written = [workflow_json(tree, 77, version) for version, tree in versions.items()]
    workflow.write_text(json.dumps(written), encoding="utf-8")
    imported = workflow_versions(workflow)
    assert {one.version: one.tree.structure for one in imported} == {v: t.structure for v, t in versions.items()}
    file = tmp_path / "export.csv"
    file.write_bytes("".join(classifications_csv(classifications, versions, 77, "=Shapes")).encode())
    found = read_classifications(file, imported)
    assert list(found) == classifications
    assert found.report.unused == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(tree=trees(most=4))
def test_a_workflows_export_reads_back_as_the_same_tree(tree: DecisionTree, tmp_path: Path) -> None:
    file = tmp_path / "workflows.csv"
    file.write_bytes("".join(workflows_csv({"2": tree, "2.7": tree}, 77, "=Shapes", retire_after=40)).encode())
    found = workflow_versions(file)
    assert [(one.workflow_id, one.version) for one in found] == [("77", "2.0"), ("77", "2.7")]
    assert all(one.tree.structure == tree.structure for one in found)
    assert found[0].tree.title == {"en": "=Shapes"}


def test_given_names_go_before_a_tasks_own(tmp_path: Path) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(workflow_json(DecisionTree.load("gz-decals-5"), version="5.0")), encoding="utf-8")
    (found,) = workflow_versions(file, names={"T0": "bar"})
    assert found.questions["T0"] == "bar"
    assert len(set(found.questions.values())) == len(found.questions)


def test_a_zooniverse_export_goes_through_greenpea_unchanged(tmp_path: Path) -> None:
    workflows = _workflow(tmp_path)
    found, _ = _read(tmp_path, [WHOLE | {"gold_standard": "true"}, _cells(("T0", "Étoile"), classification_id="2")])
    (tmp_path / "back").mkdir()
    trees_by_version = {one.version: one.tree for one in workflows}
    text = "".join(classifications_csv(found, trees_by_version, 77, "Shapes"))
    (tmp_path / "back.json").write_text(json.dumps(workflow_json(workflows[0].tree, 77)))
    again, _ = _read(tmp_path / "back", text.encode(), workflow_versions(tmp_path / "back.json"))
    assert again == found
    first = next(csv.DictReader(io.StringIO(text, newline="")))
    assert (first["classification_id"], first["user_id"], first["gold_standard"]) == ("1", "5", "true")


def test_an_export_has_the_shape_that_panoptes_and_its_aggregation_give_it() -> None:
    """``panoptes_aggregation`` selects rows by whole-number workflow_id and by workflow_version as text, groups
    annotations by ``task`` and takes the slug of each label in ``value``; it evaluates ``strings`` as Python."""
    tree = DecisionTree.load("gz-decals-5")
    one = Classification(
        uuid="0f3c",
        subject_id="J1",
        volunteer="@ada",
        annotations={"smooth-or-featured": ("artifact",)},
        version="5.2",
        finished_at=datetime(2024, 2, 3, 4, 5, 6, 999999, tzinfo=UTC),
    )
    text = "".join(classifications_csv([one], {"5.2": tree}, 6122, "DECaLS", lambda subject: {"ra": 1.5}))
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert tuple(row) == COLUMNS
    assert {name: row[name] for name in ("workflow_id", "workflow_version", "created_at", "subject_ids")} == {
        "workflow_id": "6122",
        "workflow_version": "5.2",
        "created_at": "2024-02-03 04:05:06 UTC",
        "subject_ids": "J1",
    }
    assert row["user_name"] == "'@ada"
    question = tree["smooth-or-featured"]
    assert json.loads(row["annotations"]) == [
        {"task": "T0", "task_label": question.label(), "value": question.answer("artifact").label()}
    ]
    assert json.loads(row["subject_data"]) == {"J1": {"retired": None, "ra": 1.5}}
    assert json.loads(row["metadata"])["finished_at"] == "2024-02-03T04:05:06.999999Z"
    (workflow,) = csv.DictReader(io.StringIO("".join(workflows_csv({"5.2": tree}, 6122)), newline=""))
    assert (workflow["version"], workflow["minor_version"], workflow["first_task"]) == ("5", "2", "T0")
    assert eval(workflow["strings"])["T0.question"] == question.label()
    assert {task["type"] for task in json.loads(workflow["tasks"]).values()} == {"single", "multiple"}


def test_answers_that_read_the_same_are_told_apart_by_their_slugs() -> None:
    answers = [
        {"slug": "a", "text": "Yes"},
        {"slug": "b", "text": "Yes"},
        {"slug": "c", "text": "Yes (a)"},
        {"slug": "d"},
    ]
    tree = DecisionTree.model_validate({"name": "t", "questions": [{"slug": "q", "answers": answers}]})
    strings = workflow_json(tree)["strings"]
    assert [strings[f"T0.answers.{place}.label"] for place in range(4)] == ["Yes (a) (a)", "Yes (b)", "Yes (a)", "d"]


def test_versions_that_cannot_be_written_are_refused_by_name() -> None:
    tree = DecisionTree.load("gz-decals-5")
    one = Classification("1", "J1", "ada", {"smooth-or-featured": ("artifact",)}, version="6.1")
    with pytest.raises(GreenpeaError, match=r"version 6\.1, whose tree was not given \(given: 5\.0, 5\.2\)"):
        list(classifications_csv([one], {"5": tree, "5.2": tree}))
    with pytest.raises(GreenpeaError, match=r"version 'beta' .* major\.minor, such as 28\.30"):
        workflow_json(tree, version="beta")
    assert "T0" in "".join(classifications_csv([one], {"6.0": tree}))


# ---- subjects ---------------------------------------------------------------------------------------------

SUBJECT = PanoptesSubject(
    subject_id="1001",
    images=("https://example.org/0.png", "https://example.org/1.png"),
    metadata={"ra": 1.5, "#file": "a.png", "//note": "x", "!truth": "spiral", "name": "é"},
    workflows={"77": Status(40, datetime(2024, 2, 3, tzinfo=UTC), "consensus"), "78": Status(3)},
    subject_sets=("5", "6", "7"),
    project_id="9",
    created_at=datetime(2024, 1, 1, tzinfo=UTC),
)


def test_subjects_are_merged_over_workflows_and_read_back_the_same(tmp_path: Path) -> None:
    assert SUBJECT.hidden == {"#file", "//note", "!truth"}
    assert SUBJECT.shown == {"ra": 1.5, "name": "é"}
    assert SUBJECT.classifications_count == 43
    alone = PanoptesSubject(subject_id="=1", images=tuple(f"https://example.org/{place}" for place in range(12)))
    file = tmp_path / "subjects.csv"
    file.write_bytes("".join(subjects_csv([SUBJECT, alone])).encode())
    found = read_subjects(file)
    assert list(found) == [SUBJECT, alone]
    assert (found.rows, found.used, found.unused, found.differing) == (4, 4, (), ())


def test_bad_subject_rows_are_reported_and_the_others_read(tmp_path: Path) -> None:
    header = "subject_id,metadata,locations,classifications_count,retired_at\n"
    rows = ["1,{},{},3,", "2,{oops,{},3,", '3,{},"[""x""]",3,', "4,{},{},many,", "5,{},{},3,soon", ",{},{},3,", "6,{}"]
    rows += ['1,"{""a"":1}",{},3,', "7,{},{},3,"]
    file = tmp_path / "subjects.csv"
    file.write_text(header + "\n".join(rows))
    found = read_subjects(file)
    assert [one.subject_id for one in found] == ["1"]
    assert found.differing == ("1",)
    assert found.rows == found.used + len(found.unused) == 9
    assert [(bad.row, bad.reason.split(":")[0]) for bad in found.unused] == [
        (3, "its metadata are not JSON"),
        (4, "its locations are not a JSON object"),
        (5, "its classifications_count is no number"),
        (6, "its retired_at is no time"),
        (7, "it has no subject_id"),
        (8, "2 cells, where the header has 5"),
        (10, "the file breaks off in this row; end it with a line end if the row is whole"),
    ]


# ---- reductions ---------------------------------------------------------------------------------------------


def test_reductions_have_a_row_per_subject_and_question_that_was_reached() -> None:
    tree = DecisionTree.load("gz-decals-5")
    votes = count([Classification("1", "J1", "ada", {"smooth-or-featured": ("artifact",)})] * 3, tree)
    (row,) = csv.DictReader(io.StringIO("".join(reductions_csv(votes, 6122)), newline=""))
    filled = {name: cell for name, cell in row.items() if cell}
    assert filled == {
        "subject_id": "J1",
        "workflow_id": "6122",
        "task": "smooth-or-featured",
        "reducer": "question_reducer",
        "reached": "3",
        "data.smooth": "0",
        "data.featured-or-disk": "0",
        "data.artifact": "3",
    }
    assert "".join(reductions_csv(Votes.empty(tree, ["J1"]))).count("\n") == 1


@pytest.mark.data
def test_real_extracts_reduce_to_the_published_aggregate(data_folder: Path) -> None:
    """7,568 replies to one question, counted as they stand, resubmissions included, as the reference was."""
    folder = data_folder / "zooniverse"
    slugs = {"Yes!": "yes", "No.": "no", "null": "nothing"}
    answers = [{"slug": slug} for slug in slugs.values()]
    tree = DecisionTree.model_validate({"name": "presence", "questions": [{"slug": "present", "answers": answers}]})
    with (folder / "presence-absence-extracts.csv").open(encoding="utf-8-sig", newline="") as file:
        votes = count(
            (
                Classification(
                    f"zooniverse-{row['classification_id']}",
                    row["subject_ids"],
                    row["user_name"],
                    {"present": (slugs[row["val"]],)},
                )
                for row in csv.DictReader(file)
            ),
            tree,
        )
    reductions = {row["subject_id"]: row for row in csv.DictReader(io.StringIO("".join(reductions_csv(votes))))}
    with (folder / "presence-absence-reference.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            ours = reductions.pop(row["# subject_ids"])
            theirs = [row[name] for name in ("num_classifications", "frac_yes", "frac_no", "frac_null")]
            assert [int(ours[name]) for name in ("reached", "data.yes", "data.no", "data.nothing")] == [
                int(float(number)) for number in theirs
            ]
    assert reductions == {}


# ---- real exports ------------------------------------------------------------------------------------------


def _real(
    folder: Path, name: str, workflows: Sequence[ImportedWorkflow]
) -> tuple[list[Classification], Report, list[Unused]]:
    unused: list[Unused] = []
    imported = read_classifications(folder / f"{name}-classifications.csv", workflows, unused.append)
    found = list(imported)
    with (folder / f"{name}-classifications.csv").open(encoding="utf-8-sig", newline="") as file:
        ids = [row["classification_id"] for row in csv.DictReader(file)]
    used = [one.metadata["zooniverse"]["classification_id"] for one in found]
    assert sorted(used + [one.cells["classification_id"] for one in unused]) == sorted(ids)
    assert imported.report.rows == len(ids) == imported.report.used + len(imported.report.unused)
    return found, imported.report, unused


@pytest.fixture
def folder(data_folder: Path) -> Path:
    return data_folder / "zooniverse"


@pytest.fixture
def galaxy_zoo(folder: Path) -> list[ImportedWorkflow]:
    return workflow_versions(folder / "galaxy-zoo-workflow-versions.txt")


@pytest.mark.data
def test_galaxy_zoo_is_read_whole_each_row_at_its_version(folder: Path, galaxy_zoo: list[ImportedWorkflow]) -> None:
    found, report, _ = _real(folder, "galaxy-zoo-decals", galaxy_zoo)
    assert (report.rows, report.used, report.partly, report.other_versions) == (9, 9, [], {})
    assert [one.version for one in found] == [
        *("28.30", "28.30", "39.61", "39.61", "44.73", "46.73", "46.77", "55.121", "55.121")
    ]
    assert "raw" not in set().union(*(one.metadata for one in found))
    by_version = {one.version: one.tree for one in galaxy_zoo}
    for one in found:
        check(by_version[one.version], one.annotations)
    # Row 8, read by eye: "No - Something Else", "Strong Bar", "No", "No bulge", and at this version T11 was a
    # question with any number of answers: ["Neither"].
    assert found[6].annotations == {
        "galaxy-simply-smooth-rounded": ("features-or-disk",),
        "disk-viewed-edge-on": ("no-something-else",),
        "bar-feature-centre-galaxy": ("strong-bar",),
        "sign-spiral-arm-pattern": ("no",),
        "how-prominent-central-bulge": ("no-bulge",),
        "galaxy-currently-merging": ("neither",),
    }
    assert (found[6].uuid, found[6].subject_id, found[6].volunteer) == (
        "zooniverse-92539107",
        "15715673",
        "volunteer-0001",
    )


@pytest.mark.data
def test_without_its_version_a_row_is_read_at_the_nearest_or_not_at_all(
    folder: Path, galaxy_zoo: list[ImportedWorkflow]
) -> None:
    some = [one for one in galaxy_zoo if one.version in ("39.61", "46.77", "55.132")]
    found, report, _ = _real(folder, "galaxy-zoo-decals", some)
    assert report.reasons == {Reason.VERSION: 3}
    assert [fault.detail for fault in report.unused] == [
        f"workflow 6122, version {version}" for version in ("28.30", "28.30", "44.73")
    ]
    assert report.other_versions == {("6122", "46.73", "46.77"): 1, ("6122", "55.121", "55.132"): 2}
    assert len(found) == 6


@pytest.mark.data
def test_supernovae_are_read_whole_from_people_not_logged_in(folder: Path) -> None:
    found, report, _ = _real(folder, "supernovae", workflow_versions(folder / "workflows.csv"))
    assert (report.used, report.partly) == (7, [])
    assert {one.volunteer for one in found} == {"not-logged-in-afece71a1635684e9657"}
    assert Counter(one.annotations["lightcurve-rising-more-20-days"] for one in found) == {("yes",): 3, ("no",): 4}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "workflows"),
    [
        ("kenya", 2000, {"workflow 2030": 1992, "workflow 3461": 8}),
        ("gorongosa", 20, {"workflow 2649": 20}),
        ("cat-project", 153, {"workflow 28090": 153}),
    ],
)
def test_projects_whose_workflow_is_not_at_hand_are_handed_over_row_by_row(
    name: str, rows: int, workflows: dict[str, int], folder: Path, galaxy_zoo: list[ImportedWorkflow]
) -> None:
    found, report, unused = _real(folder, name, galaxy_zoo)
    assert (len(found), len(unused), report.rows) == (0, rows, rows)
    assert report.reasons == {Reason.WORKFLOW: rows}
    assert Counter(fault.detail for fault in report.unused) == workflows


@pytest.mark.data
def test_surveys_and_drawings_stay_raw_beside_the_question_they_came_with(folder: Path, tmp_path: Path) -> None:
    """Kenya's tasks at version 90.71, put together from its rows: a survey, a drawing, then a question."""
    tasks = {
        "T3": {"type": "survey", "next": "T2"},
        "T2": {"type": "drawing", "instruction": "Draw a rectangle", "next": "T1"},
        "T1": {
            "type": "single",
            "question": "What time of day was this photo taken?",
            "answers": [{"label": "Daytime"}, {"label": "NIghttime"}],
        },
    }
    record = {"workflow_id": "2030", "version": 90, "minor_version": 71, "first_task": "T3", "tasks": tasks}
    (tmp_path / "kenya.json").write_text(json.dumps(record))
    found, report, _ = _real(folder, "kenya", workflow_versions(tmp_path / "kenya.json"))
    assert report.reasons == {Reason.VERSION: 1908, Reason.WORKFLOW: 8, Reason.TASK_TYPE: 23, Reason.SKIPPED: 1}
    assert Counter(one.annotations["what-time-day-photo-taken"] for one in found) == {("daytime",): 60}
    for one in found:
        assert [annotation["task"] for annotation in one.metadata["raw"]] == ["T3", "T2"]
        assert one.metadata["raw"][0]["value"][0]["choice"]


@pytest.mark.data
@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.93])
def test_half_a_real_export_gives_its_whole_rows(
    share: float, folder: Path, galaxy_zoo: list[ImportedWorkflow], tmp_path: Path
) -> None:
    data = (folder / "galaxy-zoo-decals-classifications.csv").read_bytes()
    data = data[: int(len(data) * share)]
    found, report = _read(tmp_path, data, galaxy_zoo)
    assert report.used == data.count(b"\n") - 1
    assert report.reasons == {Reason.CUT_OFF: 1}
    assert len(found) == report.used


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "subjects", "workflows", "hidden"),
    [("galaxy-zoo", 690, 173, {4: 172, 2: 1}, {"#MANGA_TILEID"}), ("cat-project", 30, 30, {1: 30}, set())],
)
def test_real_subjects_are_merged(
    name: str, rows: int, subjects: int, workflows: dict[int, int], hidden: set[str], folder: Path
) -> None:
    found = read_subjects(folder / f"{name}-subjects.csv")
    assert (found.rows, found.used, len(found), found.unused, found.differing) == (rows, rows, subjects, (), ())
    assert Counter(len(one.workflows) for one in found) == workflows
    assert set().union(*(one.hidden for one in found)) == hidden
    assert all(len(one.images) == 1 and one.images[0].startswith("https://") for one in found)


def test_the_documents_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parent.parent / "docs" / "zooniverse.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    tree = DecisionTree.load("gz-decals-5")
    ones = [
        Classification(f"zooniverse-{place}", "J1", "ada", {"smooth-or-featured": ("artifact",)}, version="5.2")
        for place in range(3)
    ]
    Path("workflows.csv").write_bytes("".join(workflows_csv({"5.2": tree})).encode())
    Path("classifications.csv").write_bytes("".join(classifications_csv(ones, {"5.2": tree})).encode())
    Path("subjects.csv").write_bytes("".join(subjects_csv([SUBJECT])).encode())
    names: dict[str, Any] = {}
    exec(compile(example, str(page), "exec"), names)
    assert names["votes"].reached["smooth-or-featured"].tolist() == [3]
