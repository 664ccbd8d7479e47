"""Workflows: a version of a Panoptes workflow becomes a decision tree.

What volunteers were shown is followed, not what may have been meant. Panoptes reads `next` from the answer
given to a `single` task and from the task itself otherwise, so the `next` that stays on the answers when a
task is changed to `multiple` is ignored here too: recorded classifications end at such a task. The tasks of a
combination, which share one page, are asked one after another.

Markdown images are taken out of texts and labels; other stray words ("Enter an answer Dominant") stay, in
the text and in the slug, since the exports hold them too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.tables import read_table
from greenpea.tree import RESERVED, SLUG, Answer, DecisionTree, Question, slugify
from greenpea.zooniverse.rows import unguarded

IMAGE = re.compile(r"!\[(?P<name>[^\]]*)\]\([^)]*\)")
CSV_COLUMNS = ("version", "minor_version", "workflow_id", "display_name", "first_task", "tasks", "strings")
SLUG_WORDS = 5
# What a question can lose and still be told apart: "Is there any sign of a bar?" → "sign-bar".
STOP_WORDS = (
    "a all also am an and any appear appears are as at be been being by can could did do does for from had has "
    "have i if in into is it its of on or please see so some than that the their them then there these they "
    "this those through to was we were will with would you your"
)


@dataclass(frozen=True)
class LeftOut:
    """A task that is not in the tree, and why."""

    task: str
    text: str
    reason: str


@dataclass(frozen=True)
class ImportedWorkflow:
    """One version of a workflow as a tree, with what is needed to read the annotations made on it.

    ``questions`` maps a task's key to its question's slug, ``answers`` a task's key and answer's index to the
    answer's slug, and ``labels`` the same by the label as classification exports write it, images included.
    """

    workflow_id: str
    tree: DecisionTree
    questions: Mapping[str, str]
    answers: Mapping[tuple[str, int], str]
    labels: Mapping[tuple[str, str], str]
    unreachable: tuple[LeftOut, ...]
    skipped: tuple[LeftOut, ...]

    @property
    def version(self) -> str:
        """The version as exports write it: ``"28.30"``, major and minor."""
        return self.tree.version


def workflow_versions(
    path: str | Path,
    names: Mapping[str, str] | None = None,
    workflow: str | None = None,
    version: str | None = None,
) -> list[ImportedWorkflow]:
    """Read every workflow version in a file: one JSON object, a JSON list, or a ``workflows.csv`` export.

    ``names`` (task key → question slug) names questions; the others take their slug from their text
    (`question_slug`), or from the ``slug`` that Greenpea's own exports carry. ``workflow`` and ``version`` keep
    those only. Tasks that ask nothing with fixed answers are skipped: their `next` is followed.

    Raises GreenpeaError naming workflow, version, task and remedy.
    """
    path, names = Path(path), names or {}
    found = [_Version.read(record, path.name) for record in _records(path)]
    chosen = [v for v in found if workflow in (None, v.workflow_id) and version in (None, v.number)]
    if not chosen:
        wanted = " ".join(filter(None, (workflow and f"workflow {workflow}", version and f"version {version}")))
        held = ", ".join(f"workflow {v.workflow_id} version {v.number}" for v in found[:12]) or "none"
        raise GreenpeaError(f"{path.name} has no {wanted or 'workflow'}; it holds: {held}")
    _check_names(names, chosen, path.name)
    return [_import(one, names) for one in chosen]


def question_slug(text: str) -> str:
    """Return a short slug for a question: the first five words that matter in its first clause that has any.

    ``"Is the galaxy currently merging, or is there any sign of tidal debris?"`` → ``galaxy-currently-merging``.
    The text alone decides, so a later clause may be reworded between versions; ``""`` where there is no word.
    """
    clauses = re.split(r"[?!.,;:\n]+", _without_images(text))
    for dropped in (["", *STOP_WORDS.split()], [""]):
        for clause in clauses:
            words = [slug for slug in map(slugify, clause.split()) if slug not in dropped]
            if words:
                return "-".join(words[:SLUG_WORDS])
    return ""


# ---- reading files -----------------------------------------------------------------------------------


def _records(path: Path) -> list[Mapping[str, Any]]:
    if path.name.lower().endswith((".csv", ".csv.gz")):
        records: list[Mapping[str, Any]] = read_table(path, text_columns=CSV_COLUMNS).to_pylist()
        return records
    if not path.is_file():
        raise GreenpeaError(f"there is no file {path}; give a workflow as JSON, or a workflows.csv export")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise GreenpeaError(
            f"{path} is not JSON ({error}); give a workflow version as JSON, or a workflows.csv export"
        ) from error
    if isinstance(content, dict) and "tasks" not in content:  # as the Panoptes API wraps its replies
        content = content.get("workflow_versions", content.get("workflows", content))
    records = content if isinstance(content, list) else [content]
    for record in records:
        if not isinstance(record, dict):
            raise GreenpeaError(f"{path} holds {type(record).__name__}; a workflow version is a JSON object")
    return records


@dataclass(frozen=True)
class _Version:
    """A workflow version as its file has it; ``where`` opens every message about it."""

    workflow_id: str
    number: str
    title: str
    language: str
    first: str
    tasks: Mapping[str, Mapping[str, Any]]
    strings: Mapping[str, Any]
    where: str

    @classmethod
    def read(cls, record: Mapping[str, Any], file: str) -> _Version:
        links = record.get("links")
        linked = links.get("workflow") if isinstance(links, dict) else None
        workflow_id = str(linked or record.get("workflow_id") or record.get("id") or "of no id")
        number = _number(record)
        where = f"{file}: workflow {workflow_id}, version {number or 'unknown'}"
        tasks = _json_object(record.get("tasks"), "tasks", where)
        if not tasks or not number:
            raise GreenpeaError(
                f"{where} has no {'tasks' if number else 'version number'}: "
                f"give a workflow version as JSON, or Zooniverse's workflows.csv export"
            )
        for key, task in tasks.items():
            parts = [task, *(task.get("answers") or [])] if isinstance(task, dict) else [task]
            if not all(isinstance(part, dict) for part in parts):
                raise GreenpeaError(f"{where}: task {key} and its answers must be JSON objects: correct the file")
        return cls(
            workflow_id=workflow_id,
            number=number,
            title=unguarded(str(record.get("display_name") or "")),
            language=str(record.get("primary_language") or "en"),
            first=str(record.get("first_task") or ""),
            tasks=_in_sequence(tasks),
            strings=_json_object(record.get("strings"), "strings", where),
            where=where,
        )

    # ---- what volunteers were shown ------------------------------------------------------------

    def text(self, key: object) -> str:
        """Return the text behind a key of ``strings``; old workflows have the text in the key's place."""
        return str(self.strings.get(str(key), key) or "") if key else ""

    def task_text(self, task: str) -> str:
        content = self.tasks[task]
        return _without_images(self.text(content.get("question") or content.get("instruction")))

    def labels(self, task: str) -> list[str]:
        return [self.text(answer.get("label")) for answer in self.tasks[task].get("answers") or []]

    def answers_next(self, task: str) -> list[str]:
        return [str(answer.get("next") or "") for answer in self.tasks[task].get("answers") or []]

    def followers(self, task: str) -> list[str]:
        """Return the tasks that can come next, as Panoptes follows them; ``""`` is the end."""
        if self.tasks[task].get("type") == "single":
            return self.answers_next(task)
        return [str(self.tasks[task].get("next") or "")]

    def why_skipped(self, task: str) -> str:
        """Return why a task is no question of a tree, or ``""`` if it is one."""
        kind, answers = self.tasks[task].get("type"), len(self.labels(task))
        if kind == "combo":
            return "the tasks it combines are asked one after another"
        if kind not in ("single", "multiple"):
            return f"tasks of type {kind!r} have no fixed answers to count"
        if answers < (2 if kind == "single" else 1):
            return f"it has too few answers ({answers}) to choose between"
        return ""

    def question_after(self, task: str) -> str:
        """Return ``task``, or the first question that follows where it is skipped; ``""`` at the end."""
        while task and self.why_skipped(task):
            task = next(iter(self.followers(task)), "")
        return task

    def reachable(self) -> tuple[str, ...]:
        """Return the tasks that volunteers can come to, in the file's order."""
        if self.first not in self.tasks:
            raise GreenpeaError(
                f"{self.where}: its first task {self.first!r} is not among its tasks "
                f"({', '.join(self.tasks)}): set first_task to one of them"
            )
        seen: set[str] = set()
        self._visit(self.first, (), seen)
        return tuple(task for task in self.tasks if task in seen)

    def _visit(self, task: str, path: tuple[str, ...], seen: set[str]) -> None:
        if task in path:
            circle = " → ".join((*path[path.index(task) :], task))
            raise GreenpeaError(
                f"{self.where}: task {path[-1]} leads back to task {task} ({circle}): "
                f"change the 'next' of one of them, or read another version"
            )
        if task in seen:
            return
        for follower in filter(None, self.followers(task)):
            if follower not in self.tasks:
                raise GreenpeaError(
                    f"{self.where}: task {task} leads to {follower!r}, which is not among its tasks"
                    f"{did_you_mean(follower, self.tasks)}; correct its 'next', or read another version"
                )
            self._visit(follower, (*path, task), seen)
        seen.add(task)


def _in_sequence(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return tasks with every combination leading to its first task, each of these to the one after it, and the
    last to where the combination led; Panoptes does not look at their own `next`."""
    ordered = dict(tasks)
    for key, task in tasks.items():
        listed = task.get("tasks")
        combined = [one for one in listed if one in tasks] if isinstance(listed, list) else []
        if task.get("type") != "combo" or not combined:
            continue
        ordered[key] = {**task, "next": combined[0]}
        for one, follower in zip(combined, [*combined[1:], task.get("next")], strict=True):
            answers = [{**answer, "next": follower} for answer in tasks[one].get("answers") or []]
            ordered[one] = {**tasks[one], "next": follower, **({"answers": answers} if answers else {})}
    return ordered


def _number(record: Mapping[str, Any]) -> str:
    """Return "28.30" from a version's two numbers, under the names that JSON and CSV have for them."""
    major = _present(record.get("major_number"), record.get("version"))
    minor = _present(record.get("minor_number"), record.get("minor_version"))
    return f"{major}.{minor}" if major and minor else major


def _present(*values: object) -> str:
    return next((str(value) for value in values if value is not None), "")


def _json_object(value: Any, what: str, where: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise GreenpeaError(f"{where}: its {what} are not JSON ({error}); export the workflow again") from error
    if not isinstance(value, dict | None):
        raise GreenpeaError(f"{where}: its {what} are not a JSON object; export the workflow again")
    return value or {}


# ---- making the tree ---------------------------------------------------------------------------------


def _import(version: _Version, names: Mapping[str, str]) -> ImportedWorkflow:
    reachable = version.reachable()
    asked = [task for task in reachable if not version.why_skipped(task)]
    if not asked:
        types = ", ".join(sorted({str(version.tasks[task].get("type")) for task in reachable}))
        raise GreenpeaError(
            f"{version.where}: none of its tasks is a question with fixed answers (types: {types}); "
            f"choose another workflow or version"
        )
    questions = _question_slugs(version, asked, names)
    answers = {task: _own_answer_slugs(version, task) or _answer_slugs(version.labels(task)) for task in asked}
    tree = DecisionTree(
        name=slugify(version.title) or slugify(f"workflow {version.workflow_id}"),
        version=version.number,
        title=_by_language(version.title, version.language),
        first=questions[version.question_after(version.first)],
        questions=tuple(_question(version, task, questions, answers[task]) for task in asked),
    )
    return ImportedWorkflow(
        workflow_id=version.workflow_id,
        tree=tree,
        questions=questions,
        answers={(task, index): slug for task in asked for index, slug in enumerate(answers[task])},
        labels={
            (task, label): slug
            for task in asked
            # Of answers with the very same label the first is meant: exports cannot tell them apart.
            for label, slug in reversed(list(zip(version.labels(task), answers[task], strict=True)))
        },
        unreachable=tuple(_unreachable(version, reachable)),
        skipped=tuple(
            LeftOut(task, version.task_text(task), version.why_skipped(task)) for task in reachable if task not in asked
        ),
    )


def _question(version: _Version, task: str, questions: Mapping[str, str], answers: Sequence[str]) -> Question:
    content = version.tasks[task]
    multiple = content["type"] == "multiple"
    goals = [questions.get(version.question_after(follower)) for follower in version.followers(task)]
    return Question(
        slug=questions[task],
        kind="multiple" if multiple else "single",
        text=_by_language(version.task_text(task), version.language),
        help=_by_language(version.text(content.get("help")).strip(), version.language),
        next=goals[0] if multiple else None,
        answers=tuple(
            Answer(
                slug=slug,
                text=_by_language(_without_images(label), version.language),
                next=None if multiple else goals[index],
            )
            for index, (slug, label) in enumerate(zip(answers, version.labels(task), strict=True))
        ),
    )


def _unreachable(version: _Version, reachable: Sequence[str]) -> Iterator[LeftOut]:
    for task in version.tasks:
        if task not in reachable:
            ignored = [one for one in reachable if task in version.answers_next(one)]
            reason = (
                f"only answers of the 'multiple' task {ignored[0]} lead to it, which Panoptes does not follow"
                if ignored
                else "no task that volunteers can come to leads to it"
            )
            yield LeftOut(task, version.task_text(task), reason)


def _question_slugs(version: _Version, tasks: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return task → slug: the caller's name, else the task's own, else from the text; what collides gets its
    task's key appended."""
    own = _own_question_slugs(version, tasks)
    names = {**{task: slug for task, slug in own.items() if slug not in names.values()}, **names}
    derived = {task: question_slug(version.task_text(task)) for task in tasks if task not in names}
    taken = Counter([*derived.values(), *names.values()])
    return {
        task: names[task]
        if task in names
        else derived[task]
        if derived[task] and taken[derived[task]] == 1
        else slugify(f"{derived[task]} {task}")
        for task in tasks
    }


def _own_question_slugs(version: _Version, tasks: Sequence[str]) -> dict[str, str]:
    """Return the slugs that tasks carry themselves, as Greenpea writes them; none where they are not sound."""
    own = {task: version.tasks[task].get("slug") for task in tasks}
    return {task: str(slug) for task, slug in own.items()} if _sound(list(own.values())) else {}


def _own_answer_slugs(version: _Version, task: str) -> list[str]:
    own = [answer.get("slug") for answer in version.tasks[task]["answers"]]
    return [str(slug) for slug in own] if _sound(own) and not RESERVED & set(own) else []


def _sound(slugs: Sequence[object]) -> bool:
    return all(isinstance(slug, str) and SLUG.fullmatch(slug) for slug in slugs) and len(set(slugs)) == len(slugs)


def _answer_slugs(labels: Sequence[str]) -> list[str]:
    """Return a slug per label, from its text, else from its image's name; repeated ones are numbered."""
    slugs: list[str] = []
    for index, label in enumerate(labels):
        image = IMAGE.search(label)
        stem = slugify(image["name"].rpartition(".")[0] or image["name"]) if image else ""
        base = slug = slugify(_without_images(label)) or stem or f"answer-{index + 1}"
        copy = 1
        while slug in slugs or slug in RESERVED:
            copy += 1
            slug = f"{base}-{copy}"
        slugs.append(slug)
    return slugs


def _check_names(names: Mapping[str, str], versions: Sequence[_Version], file: str) -> None:
    tasks = {task for version in versions for task in version.tasks}
    given: dict[str, str] = {}
    for task, slug in names.items():
        if task not in tasks:
            raise GreenpeaError(f"names: {file} has no task {task!r}; its tasks are {', '.join(sorted(tasks))}")
        if not SLUG.fullmatch(slug):
            raise GreenpeaError(f"names: {slug!r} for task {task} is not a slug; try {slugify(slug)!r}")
        if slug in given:
            raise GreenpeaError(f"names: tasks {given[slug]} and {task} are both named {slug!r}: rename one")
        given[slug] = task


def _without_images(text: str) -> str:
    return re.sub(r" {2,}", " ", IMAGE.sub(" ", text)).strip()


def _by_language(text: str, language: str) -> dict[str, str]:
    return {language: text} if text else {}
