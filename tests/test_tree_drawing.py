"""The drawing of a tree: complete, each question once, within the width, and the same without colour."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from rich.console import Console

from greenpea.tree import DecisionTree, shipped
from greenpea.tree_drawing import draw
from strategies import trees


def _drawn(tree: DecisionTree, width: int = 80, language: str = "en") -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(tree, language))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


SHARED = """{"name": "shared", "title": "Shared", "questions": [
  {"slug": "disk", "text": "Is it [bold]a disk[/bold]?", "answers": [
    {"slug": "yes", "text": {"en": "Yes", "fr": "Oui"}, "next": "rare"},
    {"slug": "maybe", "text": "May be", "next": "rare"},
    {"slug": "no", "next": "merging"},
    {"slug": "star"}]},
  {"slug": "rare", "text": "Any of these?", "kind": "multiple", "next": "merging",
   "answers": [{"slug": "ring", "text": "Ring"}]},
  {"slug": "merging", "text": "Merging?", "help": "unseen", "answers": [{"slug": "yes"}, {"slug": "no"}]}]}"""


def test_the_whole_drawing() -> None:
    assert _drawn(DecisionTree.from_json(SHARED)) == [
        "Shared  shared, version 1: 3 questions, 7 answers",
        "○ one of these   □ any number of these   → leads to",
        "",
        "disk  Is it [bold]a disk[/bold]?",
        "├── ○ yes    Yes",
        "│   ○ maybe  May be",
        "│   → rare  Any of these? (multiple: any number, or none)",
        "│   └── □ ring  Ring",
        "│       → merging  Merging?",
        "│       └── ○ yes",
        "│           ○ no",
        "│           → end",
        "├── ○ no",
        "│   → merging (above)",
        "└── ○ star",
        "    → end",
    ]


def test_without_room_a_text_stands_below_its_slug() -> None:
    tree = DecisionTree.from_json(
        """{"name": "narrow", "questions": [
          {"slug": "how-many-spiral-arms", "text": "How many\\narms are there?", "answers": [
            {"slug": "more-than-four", "text": "More than four arms"}, {"slug": "2", "text": "2 arms"}]}]}"""
    )
    assert _drawn(tree, width=36)[-6:] == [
        "how-many-spiral-arms",
        "    How many arms are there?",
        "└── ○ more-than-four",
        "        More than four arms",
        "    ○ 2               2 arms",
        "    → end",
    ]


def test_the_language_is_the_one_asked_for() -> None:
    assert any("yes    Oui" in line for line in _drawn(DecisionTree.from_json(SHARED), language="fr"))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", shipped())
def test_shipped_trees_fit_and_show_every_question_in_full_once(name: str, width: int) -> None:
    tree = DecisionTree.load(name)
    lines = _drawn(tree, width)
    assert max(map(len, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)
    for question in tree.questions:
        start = question.label().split()[0]
        heads = [line for line in lines if line.lstrip("│├└─ →").startswith(f"{question.slug}  {start}")]
        assert len(heads) == 1
        assert all(sum(f" {answer.slug}" in line for line in lines) >= 1 for answer in question.answers)


@given(trees(most=5))
def test_any_tree_is_drawn_at_any_width_without_losing_an_answer(tree: DecisionTree) -> None:
    for width in (30, 200):
        drawn = "\n".join(_drawn(tree, width))
        answers = sum(len(question.answers) for question in tree.questions)
        in_legend, in_texts = 2, _marks("".join(_texts(tree)) + tree.version)
        assert _marks(drawn) == answers + in_legend + in_texts
        assert drawn.count("(above)") == _references(tree)


def _marks(text: str) -> int:
    return text.count("○") + text.count("□")


def _texts(tree: DecisionTree) -> list[str]:
    title = tree.title.get("en", "")
    return [title, *(part.label() for question in tree.questions for part in (question, *question.answers))]


def _references(tree: DecisionTree) -> int:
    """Places that lead to a question, counted as the drawing groups them, less the first of each."""
    ways = 0
    for question in tree.questions:
        goals = [question.next] if question.kind == "multiple" else [answer.next for answer in question.answers]
        ways += sum(goal is not None and (i == 0 or goal != goals[i - 1]) for i, goal in enumerate(goals))
    return ways - (len(tree.questions) - 1)
