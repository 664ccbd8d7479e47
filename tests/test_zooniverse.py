"""Panoptes workflows become trees, and the classifications made on them are walks through those trees."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree, Parent
from greenpea.zooniverse import ImportedWorkflow, LeftOut, question_slug, workflow_versions

# ---- small workflows -------------------------------------------------------------------------------------

IMAGE = "![yes.png](https://example.org/a/b.png)"


def _task(kind: str, text: str, *answers: tuple[str, str | None], **keys: Any) -> dict[str, Any]:
    """A task with its texts inline, as old workflows have them; answers are (label, next)."""
    listed = [{"label": label, **({} if goal is None else {"next": goal})} for label, goal in answers]
    return {"type": kind, "question": text, "answers": listed, **keys}


def _version(tasks: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {
        "links": {"workflow": "77"},
        "major_number": 3,
        "minor_number": 10,
        "first_task": "T0",
        "tasks": tasks,
        "strings": {},
        **keys,
    }


def _write(folder: Path, content: Any) -> Path:
    file = folder / "workflow.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    return file


def _read(folder: Path, tasks: dict[str, Any], **keys: Any) -> ImportedWorkflow:
    (found,) = workflow_versions(_write(folder, _version(tasks)), **keys)
    return found


DISK = _task("single", "Is it a disk?", ("Yes", "T1"), ("No", None))
BAR = _task("single", "Is there a bar?", ("Yes", ""), ("No", None))


def test_a_workflow_becomes_a_tree(tmp_path: Path) -> None:
    strings = {
        "T0.question": "Is it a disk?",
        "T0.help": "Look twice.",
        "T0.answers.0.label": f"{IMAGE} Yes, a disk",
        "T0.answers.1.label": "No",
        "T1.question": "Do you see any of these features?",
        "T1.answers.0.label": "Ring",
        "T1.answers.1.label": "Lens  or arc",
        "T2.question": "Anything odd?",
        "T2.answers.0.label": "Oui",
        "T2.answers.1.label": "Non",
    }
    tasks = {
        "T0": {
            "type": "single",
            "question": "T0.question",
            "help": "T0.help",
            "answers": [
                {"label": "T0.answers.0.label", "next": "T1"},
                {"label": "T0.answers.1.label", "next": ""},
            ],
        },
        "T1": {
            "type": "multiple",
            "question": "T1.question",
            "answers": [{"label": "T1.answers.0.label"}, {"label": "T1.answers.1.label"}],
            "next": "T2",
        },
        "T2": {
            "type": "single",
            "question": "T2.question",
            "answers": [{"label": "T2.answers.0.label"}, {"label": "T2.answers.1.label"}],
        },
    }
    (found,) = workflow_versions(_write(tmp_path, _version(tasks, strings=strings, display_name="Disks & rings")))
    assert found.tree == DecisionTree.model_validate(
        {
            "name": "disks-rings",
            "version": "3.10",
            "title": "Disks & rings",
            "questions": [
                {
                    "slug": "disk",
                    "text": "Is it a disk?",
                    "help": "Look twice.",
                    "answers": [
                        {"slug": "yes-a-disk", "text": "Yes, a disk", "next": "features"},
                        {"slug": "no", "text": "No"},
                    ],
                },
                {
                    "slug": "features",
                    "kind": "multiple",
                    "text": "Do you see any of these features?",
                    "answers": [{"slug": "ring", "text": "Ring"}, {"slug": "lens-or-arc", "text": "Lens or arc"}],
                    "next": "anything-odd",
                },
                {
                    "slug": "anything-odd",
                    "text": "Anything odd?",
                    "answers": [{"slug": "oui", "text": "Oui"}, {"slug": "non", "text": "Non"}],
                },
            ],
        }
    )
    assert (found.workflow_id, found.version) == ("77", "3.10")
    assert found.questions == {"T0": "disk", "T1": "features", "T2": "anything-odd"}
    assert found.answers[("T0", 0)] == "yes-a-disk"
    assert found.labels[("T0", f"{IMAGE} Yes, a disk")] == "yes-a-disk"
    assert found.labels[("T1", "Lens  or arc")] == found.answers[("T1", 1)] == "lens-or-arc"
    assert found.unreachable == found.skipped == ()


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Is the galaxy currently merging, or is there any sign of tidal debris?", "galaxy-currently-merging"),
        ("Is the galaxy currently merging? Is there any sign of tidal debris?", "galaxy-currently-merging"),
        ("Could this be a disk viewed edge-on?", "disk-viewed-edge-on"),
        ("How rounded is it?", "how-rounded"),
        (f"{IMAGE} **Is there a bar?**\n\nNOTE: look twice", "bar"),
        ("So, what is it?", "what"),
        ("Is it there?", "is-it-there"),
        ("One two three four five six seven", "one-two-three-four-five"),
        ("これは?", ""),
    ],
)
def test_a_question_slug_is_the_first_words_that_matter(text: str, slug: str) -> None:
    assert question_slug(text) == slug


def test_questions_of_one_text_get_their_tasks_key_and_names_rename(tmp_path: Path) -> None:
    tasks = {
        "T0": _task("single", "Is it odd?", ("Yes", "T1"), ("No", "T2")),
        "T1": _task("single", "Is it odd, really?", ("Yes", "T2"), ("No", None)),
        "T2": _task("single", "これは?", ("Yes", None), ("No", None)),
    }
    assert _read(tmp_path, tasks).questions == {"T0": "odd-t0", "T1": "odd-t1", "T2": "t2"}
    renamed = _read(tmp_path, tasks, names={"T1": "really-odd"})
    assert renamed.questions == {"T0": "odd", "T1": "really-odd", "T2": "t2"}
    assert renamed.tree["odd"].followers == {"really-odd", "t2"}
    # A name given is kept; what it collides with gives way.
    assert _read(tmp_path, tasks, names={"T1": "odd"}).questions == {"T0": "odd-t0", "T1": "odd", "T2": "t2"}


def test_answers_of_one_slug_are_numbered_and_stray_text_stays(tmp_path: Path) -> None:
    tasks = {
        "T0": _task(
            "single",
            "Which?",
            (f"{IMAGE} Ring", None),
            ("Ring", None),
            ("Ring 2", None),
            (IMAGE, None),
            ("", None),
            ("Enter an answer Dominant", None),
            (f"(new image, edge and inclined){IMAGE} Yes", None),
            ("Reached", None),
        )
    }
    found = _read(tmp_path, tasks)
    assert found.tree["which"].answer_slugs == (
        "ring",
        "ring-2",
        "ring-2-2",
        "yes",
        "answer-5",
        "enter-an-answer-dominant",
        "new-image-edge-and-inclined-yes",
        "reached-2",
    )
    assert found.tree["which"].answers[6].label() == "(new image, edge and inclined) Yes"
    assert found.tree["which"].answers[3].text == {}


def test_exports_cannot_tell_answers_of_one_label_apart_so_the_first_is_read(tmp_path: Path) -> None:
    tasks = {"T0": _task("single", "Which?", ("Ring", None), ("Ring", None), ("Arc", None))}
    assert _read(tmp_path, tasks).labels == {("T0", "Ring"): "ring", ("T0", "Arc"): "arc"}


def test_what_cannot_be_reached_is_reported(tmp_path: Path) -> None:
    tasks = {"T0": BAR, "T1": _task("single", "Anything odd?", ("Yes", "T2"), ("No", None)), "T2": BAR}
    found = _read(tmp_path, tasks)
    assert found.tree.slugs == ("bar",)
    assert [(left.task, left.text) for left in found.unreachable] == [
        ("T1", "Anything odd?"),
        ("T2", "Is there a bar?"),
    ]


def test_next_on_the_answers_of_a_multiple_task_is_not_followed_and_said(tmp_path: Path) -> None:
    tasks = {"T0": _task("multiple", "Merging?", ("Merger", "T1"), ("Debris", "T1")), "T1": BAR}
    found = _read(tmp_path, tasks)
    assert found.tree["merging"].next is None
    assert found.unreachable == (
        LeftOut(
            "T1",
            "Is there a bar?",
            "only answers of the 'multiple' task T0 lead to it, which Panoptes does not follow",
        ),
    )


def test_tasks_without_fixed_answers_are_skipped_and_their_next_followed(tmp_path: Path) -> None:
    tasks = {
        "T0": {"type": "text", "instruction": "Say hello.", "next": "T1"},
        "T1": _task("single", "Is it a disk?", ("Yes", "T2"), ("No", "T5")),
        "T2": {"type": "drawing", "instruction": "Draw the bar.", "next": "T3"},
        "T3": _task("single", "Ready?", ("Continue", "T4")),
        "T4": BAR,
        "T5": {"type": "survey"},
    }
    found = _read(tmp_path, tasks)
    assert found.questions == {"T1": "disk", "T4": "bar"}
    assert found.tree.first == "disk"
    assert [answer.next for answer in found.tree["disk"].answers] == ["bar", None]
    assert [left.task for left in found.skipped] == ["T0", "T2", "T3", "T5"]
    assert found.skipped[1] == LeftOut("T2", "Draw the bar.", "tasks of type 'drawing' have no fixed answers to count")
    assert "too few answers (1)" in found.skipped[2].reason


def test_a_csv_export_with_a_byte_order_mark_and_json_in_its_cells(tmp_path: Path) -> None:
    strings = {"q": 'Is it a "disk",\nor not?', "y": "Yes", "n": "No"}
    task = {"type": "single", "question": "q", "answers": [{"label": "y"}, {"label": "n"}]}
    text = io.StringIO()
    rows = csv.writer(text)
    texts = ["primary_language", "first_task", "tasks", "strings"]
    rows.writerow(["workflow_id", "display_name", "version", "minor_version", *texts])
    for minor in ("09", "10"):
        rows.writerow(["0077", "Disks", "28", minor, "fr", "T0", json.dumps({"T0": task}), json.dumps(strings)])
    file = tmp_path / "workflows.csv"
    file.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    found = workflow_versions(file)
    assert [(one.workflow_id, one.version) for one in found] == [("0077", "28.09"), ("0077", "28.10")]
    assert found[0].tree.name == "disks"
    assert found[0].tree["disk"].text == {"fr": 'Is it a "disk",\nor not?'}


def test_a_workflow_and_a_version_can_be_chosen(tmp_path: Path) -> None:
    versions = [_version({"T0": BAR}, minor_number=minor) for minor in (1, 2)]
    versions.append(_version({"T0": BAR}, links={"workflow": "5"}))
    file = _write(tmp_path, versions)
    assert [v.version for v in workflow_versions(file, workflow="77")] == ["3.1", "3.2"]
    assert [v.workflow_id for v in workflow_versions(file, version="3.10")] == ["5"]
    with pytest.raises(GreenpeaError, match=r"no workflow 77 version 9\.9; it holds: workflow 77 version 3\.1, "):
        workflow_versions(file, workflow="77", version="9.9")


def test_the_api_reply_and_its_dotted_version_are_read(tmp_path: Path) -> None:
    record = {"id": "9", "version": "4.20", "first_task": "T0", "tasks": {"T0": BAR}, "display_name": "Bars"}
    (found,) = workflow_versions(_write(tmp_path, {"workflows": [record]}))
    assert (found.workflow_id, found.version, found.tree.name) == ("9", "4.20", "bars")


BROKEN: dict[str, tuple[Any, list[str]]] = {
    "circle": (
        _version({"T0": DISK, "T1": _task("single", "Bar?", ("Yes", "T0"), ("No", None))}),
        ["workflow 77, version 3.10", "task T1 leads back to task T0 (T0 → T1 → T0)", "change the 'next'"],
    ),
    "circle through a skipped task": (
        _version({"T0": DISK, "T1": {"type": "text", "next": "T1"}}),
        ["workflow 77, version 3.10", "task T1 leads back to task T1 (T1 → T1)"],
    ),
    "next of no task": (
        _version({"T0": DISK, "T11": BAR}),
        ["workflow 77, version 3.10", "task T0 leads to 'T1'", "did you mean 'T11'?", "correct its 'next'"],
    ),
    "no first task": (
        _version({"T0": BAR}, first_task="init"),
        ["workflow 77, version 3.10", "first task 'init'", "(T0)", "set first_task"],
    ),
    "nothing to count": (
        _version({"T0": {"type": "survey"}}),
        ["workflow 77, version 3.10", "types: survey", "choose another workflow or version"],
    ),
    "no tasks": (_version({}), ["workflow 77, version 3.10", "no tasks", "workflows.csv"]),
    "no version": (_version({"T0": BAR}, major_number=None), ["workflow 77", "no version number"]),
    "tasks that are no JSON": (_version("{oops"), ["workflow 77, version 3.10", "tasks are not JSON"]),  # type: ignore[arg-type]
    "strings that are a list": (_version({"T0": BAR}, strings=[]), ["strings are not a JSON object"]),
    "an answer that is text": (
        _version({"T0": {"type": "single", "answers": ["Yes", "No"]}}),
        ["workflow 77, version 3.10", "task T0", "correct the file"],
    ),
    "a list of numbers": ([1, 2], ["holds int", "JSON object"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_workflow_is_refused_by_name_with_the_remedy(name: str, tmp_path: Path) -> None:
    content, expected = BROKEN[name]
    with pytest.raises(GreenpeaError) as caught:
        workflow_versions(_write(tmp_path, content))
    assert "workflow.json" in str(caught.value)
    assert [words for words in expected if words not in str(caught.value)] == []


def test_files_that_hold_no_workflow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match=r"no file .*none\.json; give a workflow as JSON"):
        workflow_versions(tmp_path / "none.json")
    text = tmp_path / "notes.txt"
    text.write_text("dear diary")
    with pytest.raises(GreenpeaError, match=r"notes\.txt is not JSON .* give a workflow version as JSON"):
        workflow_versions(text)
    table = tmp_path / "classifications.csv"
    table.write_text("classification_id,workflow_id,annotations\n1,77,[]\n")
    with pytest.raises(GreenpeaError, match=r"classifications\.csv: workflow 77.*workflows\.csv export"):
        workflow_versions(table)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"T9": "odd"}, "no task 'T9'; its tasks are T0, T1"),
        ({"T0": "Is it?"}, "'Is it[?]' for task T0 is not a slug; try 'is-it'"),
        ({"T0": "odd", "T1": "odd"}, "tasks T0 and T1 are both named 'odd': rename one"),
    ],
)
def test_names_are_checked(names: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match=message):
        _read(tmp_path, {"T0": DISK, "T1": BAR}, names=names)


# ---- real workflows --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def galaxy_zoo(data_folder: Path) -> dict[str, ImportedWorkflow]:
    found = workflow_versions(data_folder / "zooniverse" / "galaxy-zoo-workflow-versions.txt")
    return {one.version: one for one in found}


@pytest.mark.data
def test_every_version_of_galaxy_zoo_is_read(galaxy_zoo: dict[str, ImportedWorkflow]) -> None:
    assert len(galaxy_zoo) == 24
    assert {one.workflow_id for one in galaxy_zoo.values()} == {"6122"}
    assert all(one.skipped == () for one in galaxy_zoo.values())
    assert {(version, left.task) for version, one in galaxy_zoo.items() for left in one.unreachable} == {
        ("28.30", "T9"),
        ("44.73", "T10"),
        ("46.73", "T10"),
        ("46.77", "T10"),
    }
    kinds = {v: {task: one.tree[slug].kind for task, slug in one.questions.items()} for v, one in galaxy_zoo.items()}
    assert {v for v, kind in kinds.items() if kind.get("T10") == "single"} == {"55.121", "55.132"}
    assert {v for v, kind in kinds.items() if kind["T11"] == "multiple"} == {"44.73", "46.73", "46.77"}
    assert not any(
        "![" in answer.label() for one in galaxy_zoo.values() for q in one.tree.questions for answer in q.answers
    )


@pytest.mark.data
def test_the_single_version_is_the_one_in_the_list(data_folder: Path, galaxy_zoo: dict[str, ImportedWorkflow]) -> None:
    (found,) = workflow_versions(data_folder / "zooniverse" / "galaxy-zoo-workflow-28.30.txt")
    assert found == galaxy_zoo["28.30"]
    assert [(left.task, left.text) for left in found.unreachable] == [("T9", "Is there anything odd?")]
    assert found.tree[found.questions["T8"]].answer_slugs == ("no-bulge", "obvious", "dominant")
    assert found.tree[found.questions["T2"]].answer_slugs == ("new-image-edge-and-inclined-yes", "no")
    tree = found.tree
    assert tree.parents[found.questions["T6"]] == (Parent(question=found.questions["T5"], answer="yes"),)
    assert {way.question for way in tree.parents[found.questions["T11"]]} == {
        found.questions[task] for task in ("T1", "T3", "T8")
    }


@pytest.mark.data
def test_the_final_tree_can_be_named_as_the_published_one(data_folder: Path) -> None:
    names = {
        "T0": "smooth-or-featured",
        "T1": "how-rounded",
        "T2": "disk-edge-on",
        "T3": "edge-on-bulge",
        "T4": "bar",
        "T5": "has-spiral-arms",
        "T6": "spiral-winding",
        "T7": "spiral-arm-count",
        "T8": "bulge-size",
        "T10": "rare-features",
        "T11": "merging",
    }
    file = data_folder / "zooniverse" / "galaxy-zoo-workflow-versions.txt"
    (found,) = workflow_versions(file, names, version="66.425")
    published = DecisionTree.load("gz-decals-5")
    assert set(found.tree.slugs) == set(published.slugs)
    for question in published.questions:
        imported = found.tree[question.slug]
        assert (imported.kind, len(imported.answers)) == (question.kind, len(question.answers))
        assert imported.followers == question.followers


@pytest.mark.data
def test_a_workflows_export_is_read(data_folder: Path) -> None:
    found = workflow_versions(data_folder / "zooniverse" / "workflows.csv")
    assert [one.version for one in found] == ["14.52", "14.53", "14.54", "14.55", "15.55", "16.55"]
    assert {one.tree.name for one in found} == {"superluminous-supernovae"}
    assert [one.tree.slugs for one in found] == [("lightcurve-rising-more-20-days", "cross-hair-image-close-faint")] * 6


def _follow(workflow: ImportedWorkflow, annotations: list[dict[str, Any]]) -> None:
    """Walk the tree by a classification's annotations; fail where it does not go as the volunteer went."""
    here: str | None = workflow.tree.first
    for annotation in annotations:
        assert here == workflow.questions[annotation["task"]]
        question = workflow.tree[here]
        values = annotation["value"] if question.kind == "multiple" else [annotation["value"]]
        slugs = [workflow.labels[(annotation["task"], value)] for value in values]
        assert set(slugs) <= set(question.answer_slugs)
        here = question.next
        if question.kind == "single":
            here = question.answers[question.answer_slugs.index(slugs[0])].next
    assert here is None, "the volunteer stopped where the tree goes on"


@pytest.mark.data
@pytest.mark.parametrize(
    ("workflows", "classifications", "count"),
    [
        ("galaxy-zoo-workflow-versions.txt", "galaxy-zoo-decals-classifications.csv", 9),
        ("workflows.csv", "supernovae-classifications.csv", 7),
    ],
)
def test_recorded_classifications_are_whole_walks_through_their_versions_tree(
    workflows: str, classifications: str, count: int, data_folder: Path
) -> None:
    folder = data_folder / "zooniverse"
    versions = {one.version: one for one in workflow_versions(folder / workflows)}
    with (folder / classifications).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    for row in rows:
        _follow(versions[row["workflow_version"]], json.loads(row["annotations"]))
