"""What Greenpea writes for Zooniverse's tools: the columns and JSON of Panoptes' exports, as streams of CSV text.

Read back by this package, the classifications are the same. Questions become tasks ``T0``, ``T1``, … in the
order in which the tree lists them; answers become their labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from greenpea.classifications import Classification
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree, Question
from greenpea.votes import Votes
from greenpea.zooniverse import classifications as reading
from greenpea.zooniverse import subjects as subject_export
from greenpea.zooniverse.rows import created, timestamp, write_rows
from greenpea.zooniverse.subjects import PanoptesSubject, Status

VERSION = re.compile(r"(?P<major>\d+)(\.(?P<minor>\d+))?")
WORKFLOW_COLUMNS = (
    *("workflow_id", "display_name", "version", "active", "classifications_count", "pairwise", "grouped"),
    *("prioritized", "primary_language", "first_task", "tutorial_subject_id", "retired_set_member_subjects_count"),
    *("tasks", "retirement", "aggregation", "strings", "minor_version"),
)


# ---- workflows ---------------------------------------------------------------------------------------


def workflow_json(
    tree: DecisionTree, workflow_id: str | int = 1, version: str | None = None, language: str = "en"
) -> dict[str, Any]:
    """Return a tree as a Panoptes workflow version: tasks, strings, first task, version.

    ``version`` is ``major.minor`` (default: the tree's; ``"3"`` is 3.0). Tasks and answers carry their ``slug``,
    which Panoptes does not look at and `workflow_versions` takes the names from. Raises GreenpeaError where the
    version is of another form.
    """
    major, minor = _version(tree.version if version is None else version)
    keys = task_keys(tree)
    tasks: dict[str, Any] = {}
    strings: dict[str, str] = {}
    for question in tree.questions:
        task, texts = _task(question, keys, language)
        tasks[keys[question.slug]] = task
        strings |= texts
    return {
        "workflow_id": str(workflow_id),
        "display_name": tree.title.get(language) or tree.title.get("en") or tree.name,
        "version": major,
        "minor_version": minor,
        "primary_language": language,
        "first_task": keys[tree.first],
        "tasks": tasks,
        "strings": strings,
    }


def workflows_csv(
    trees: Mapping[str, DecisionTree],
    workflow_id: str | int = 1,
    name: str | None = None,
    language: str = "en",
    retire_after: int | None = None,
) -> Iterator[str]:
    """Yield a workflow export: one row per version of ``trees`` (version → tree).

    ``name`` is the workflow's (default: the tree's title); ``retire_after`` its limit of classifications.
    """
    return write_rows(
        WORKFLOW_COLUMNS,
        [
            _workflow_row(workflow_json(tree, workflow_id, version, language), name, retire_after)
            for version, tree in trees.items()
        ],
    )


def _workflow_row(workflow: Mapping[str, Any], name: str | None, retire_after: int | None) -> list[object]:
    retirement = {"criteria": "classification_count", "options": {"count": retire_after}} if retire_after else {}
    cells = {
        **workflow,
        "display_name": name or workflow["display_name"],
        **dict.fromkeys(("pairwise", "grouped", "prioritized"), "false"),
        "active": "true",
        "tasks": _json(workflow["tasks"]),
        "retirement": _json(retirement),
        "aggregation": "{}",
        "strings": _json(workflow["strings"]),
    }
    return [cells.get(column, "") for column in WORKFLOW_COLUMNS]


def task_keys(tree: DecisionTree) -> dict[str, str]:
    """Return question slug → task key."""
    return {slug: f"T{place}" for place, slug in enumerate(tree.slugs)}


def answer_labels(question: Question, language: str = "en") -> dict[str, str]:
    """Return answer slug → label; answers that read the same get their slug behind it, since the label is
    all that an export has of them."""
    plain = [answer.label(language) for answer in question.answers]
    labels: dict[str, str] = {}
    for answer, label in zip(question.answers, plain, strict=True):
        taken = plain.count(label) > 1
        while taken:
            label = f"{label} ({answer.slug})"
            taken = label in plain or label in labels.values()
        labels[answer.slug] = label
    return labels


def _task(question: Question, keys: Mapping[str, str], language: str) -> tuple[dict[str, Any], dict[str, str]]:
    key = keys[question.slug]
    help_text = question.help.get(language) or question.help.get("en") or ""
    strings = {f"{key}.question": question.label(language), f"{key}.help": help_text}
    answers: list[dict[str, Any]] = []
    for place, (answer, label) in enumerate(
        zip(question.answers, answer_labels(question, language).values(), strict=True)
    ):
        strings[f"{key}.answers.{place}.label"] = label
        goes_on = {"next": keys[answer.next]} if answer.next else {}
        answers.append({"label": f"{key}.answers.{place}.label", **goes_on, "slug": answer.slug})
    task = {
        "type": question.kind,
        "required": question.kind == "single",
        "question": f"{key}.question",
        "help": f"{key}.help",
        "answers": answers,
        **({"next": keys[question.next]} if question.next else {}),
        "slug": question.slug,
    }
    return task, strings


def _version(version: str) -> tuple[int, int]:
    found = VERSION.fullmatch(version)
    if found is None:
        raise GreenpeaError(
            f"version {version!r} is not of Panoptes' form: give the workflow's version as major.minor, such as 28.30"
        )
    return int(found["major"]), int(found["minor"] or 0)


# ---- classifications -----------------------------------------------------------------------------------


def classifications_csv(
    classifications: Iterable[Classification],
    trees: Mapping[str, DecisionTree],
    workflow_id: str | int = 1,
    workflow_name: str = "",
    subject_metadata: Callable[[str], Mapping[str, Any]] = lambda subject_id: {},
    language: str = "en",
) -> Iterator[str]:
    """Yield a Panoptes classification export, one row per classification, a piece of text at a time.

    ``trees`` maps each version on which votes were cast to its tree; one that is not there is written with the
    newest minor version of the same major one. ``subject_metadata`` gives what is known of a subject. How the
    subject was chosen, the classification's id and its metadata stand under ``greenpea`` in the metadata column.

    Raises GreenpeaError where a version is of another form than major.minor, or has no tree.
    """
    versions = {_version(version): _Labels(tree, language) for version, tree in trees.items()}
    fixed = [str(workflow_id), workflow_name]
    return write_rows(
        reading.COLUMNS, (_row(one, versions, fixed, subject_metadata(one.subject_id)) for one in classifications)
    )


class _Labels:
    """What is written for a tree's questions and answers."""

    def __init__(self, tree: DecisionTree, language: str) -> None:
        self.tree = tree
        self.keys = task_keys(tree)
        self.texts = {question.slug: question.label(language) for question in tree.questions}
        self.labels = {question.slug: answer_labels(question, language) for question in tree.questions}

    def annotation(self, question: str, answers: Sequence[str]) -> dict[str, Any]:
        single = self.tree[question].kind == "single"
        for answer in answers:
            self.tree[question].answer(answer)
        values = [self.labels[question][answer] for answer in answers]
        return {
            "task": self.keys[question],
            "task_label": self.texts[question],
            "value": values[0] if single and values else None if single else values,
        }


def _row(
    one: Classification,
    versions: Mapping[tuple[int, int], _Labels],
    workflow: Sequence[str],
    subject: Mapping[str, Any],
) -> list[object]:
    version = _version(one.version)
    labels = _labels_of(version, versions)
    origin = one.metadata.get("zooniverse")
    origin = origin if isinstance(origin, Mapping) else {}
    return [
        _classification_id(one.uuid),
        one.volunteer,
        *(origin.get(name, "") for name in ("user_id", "user_ip")),
        *workflow,
        f"{version[0]}.{version[1]}",
        created(one.finished_at or one.started_at),
        *(origin.get(name, "") for name in ("gold_standard", "expert")),
        _json(_session(one)),
        _json([labels.annotation(question, answers) for question, answers in one.annotations.items()]),
        _json({one.subject_id: {"retired": None, **subject}}),
        one.subject_id,
    ]


def _labels_of(version: tuple[int, int], versions: Mapping[tuple[int, int], _Labels]) -> _Labels:
    if version in versions:
        return versions[version]
    near = max((known for known in versions if known[0] == version[0]), default=None)
    if near is None:
        held = ", ".join(f"{major}.{minor}" for major, minor in sorted(versions)) or "none"
        raise GreenpeaError(
            f"classifications were cast on version {version[0]}.{version[1]}, whose tree was not given (given: "
            f"{held}): give every version of the workflow"
        )
    return versions[near]


def _classification_id(uuid: str) -> str:
    number = uuid.removeprefix(reading.IMPORTED)
    return number if number.isdecimal() else uuid


def _session(one: Classification) -> dict[str, Any]:
    times = {"started_at": timestamp(one.started_at), "finished_at": timestamp(one.finished_at)}
    own = {"stream": one.stream, "round": one.round, "probability": one.probability, "metadata": one.metadata}
    return {**{name: time for name, time in times.items() if time}, "greenpea": own}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


# ---- subjects ------------------------------------------------------------------------------------------


def subjects_csv(subjects: Iterable[PanoptesSubject]) -> Iterator[str]:
    """Yield a Panoptes subject export: a row per subject and workflow, and at least one per subject set."""
    return write_rows(subject_export.COLUMNS, (row for one in subjects for row in _subject_rows(one)))


def _subject_rows(one: PanoptesSubject) -> Iterator[list[object]]:
    workflows = list(one.workflows.items()) or [("", Status())]
    sets = list(one.subject_sets) or [""]
    # The last of the shorter list stands again beside the rest of the longer.
    more = len(sets) - len(workflows)
    for (workflow, status), subject_set in zip(
        workflows + workflows[-1:] * more, sets + sets[-1:] * -more, strict=True
    ):
        yield [
            one.subject_id,
            one.project_id,
            workflow,
            subject_set,
            _json(one.metadata),
            _json({str(place): address for place, address in enumerate(one.images)}),
            status.classifications_count,
            timestamp(status.retired_at),
            status.reason,
            timestamp(one.created_at),
            timestamp(one.updated_at),
        ]


# ---- votes ---------------------------------------------------------------------------------------------


def reductions_csv(votes: Votes, workflow_id: str | int = 1) -> Iterator[str]:
    """Yield votes as ``panoptes_aggregation``'s question reducer writes them: a row per subject and question.

    ``task`` is the question's slug; ``data.<answer slug>`` counts the answers, blank where the row's question does
    not offer it. ``reached`` is how many volunteers came to the question, which the answers of a `multiple` one
    do not tell. Questions that nobody reached have no row.
    """
    answers = list(dict.fromkeys(answer for question in votes.tree.questions for answer in question.answer_slugs))
    header = ("subject_id", "workflow_id", "task", "reducer", "reached", *(f"data.{answer}" for answer in answers))
    return write_rows(header, _reductions(votes, str(workflow_id), answers))


def _reductions(votes: Votes, workflow_id: str, answers: Sequence[str]) -> Iterator[list[object]]:
    for row, subject in enumerate(votes.subject_ids):
        for question in votes.tree.questions:
            reached = int(votes.reached[question.slug][row])
            if reached:
                counts = dict(zip(question.answer_slugs, votes.counts[question.slug][row].tolist(), strict=True))
                yield [
                    *(subject, workflow_id, question.slug, "question_reducer", reached),
                    *(counts.get(answer, "") for answer in answers),
                ]
