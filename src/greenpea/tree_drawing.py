"""A decision tree drawn for the terminal: readable without colour, at any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text
from rich.tree import Tree

from greenpea.tree import Answer, DecisionTree, Question

MARKS = {"single": "○", "multiple": "□"}
GAP = 2  # columns between a slug and its text
LEAST_ROOM = 20  # columns; narrower than this, a text stands below its slug
LEGEND = "○ one of these   □ any number of these   → leads to"


def draw(tree: DecisionTree, language: str = "en") -> RenderableType:
    """Return the tree as something rich prints: each question in full once, a reference where it comes again.

    Answers that lead to the same question stand together above it. Texts are in ``language`` where the tree
    has it, else in English.
    """
    return Group(_title(tree, language), Text(LEGEND, style="dim"), Text(), _Drawing(tree, language).root())


def _title(tree: DecisionTree, language: str) -> Text:
    answers = sum(len(question.answers) for question in tree.questions)
    title = tree.title.get(language) or tree.title.get("en") or tree.name
    counted = f"{_count(len(tree.questions), 'question')}, {_count(answers, 'answer')}"
    return Text.assemble((title, "bold"), (f"  {tree.name}, version {tree.version}: {counted}", "dim"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Drawing:
    """One walk through a tree, remembering which questions stand on the page already."""

    def __init__(self, tree: DecisionTree, language: str) -> None:
        self.tree, self.language = tree, language
        self.drawn: set[str] = set()

    def root(self) -> Tree:
        first = self.tree[self.tree.first]
        root = Tree(self._heading(first), guide_style="dim")
        self._grow(root, first)
        return root

    def _grow(self, branch: Tree, question: Question) -> None:
        """Hang the answers of ``question`` on ``branch``, and below them the questions they lead to."""
        self.drawn.add(question.slug)
        slug_width = max(map(len, question.answer_slugs))
        for goal, answers in groupby(question.answers, key=lambda answer: question.next or answer.next):
            listed = self._answers(question, list(answers), slug_width)
            if goal is None:
                branch.add(Group(listed, Text("→ end", style="dim")))
            elif goal in self.drawn:  # never below: the walk goes down the page
                branch.add(Group(listed, Text(f"→ {goal} (above)", style="dim")))
            else:
                heading = self._heading(self.tree[goal], arrow="→ ")
                self._grow(branch.add(Group(listed, heading)), self.tree[goal])

    def _heading(self, question: Question, arrow: str = "") -> _Entry:
        text = Text(_unless_slug(question.label(self.language), question.slug))
        if question.kind == "multiple":
            text.append(f"{' ' if text else ''}(multiple: any number, or none)", style="dim")
        return _Entry(Text(arrow + question.slug, style="bold cyan"), text)

    def _answers(self, question: Question, answers: Sequence[Answer], slug_width: int) -> Group:
        mark = MARKS[question.kind]
        return Group(
            *(
                _Entry(
                    Text(f"{mark} {answer.slug}", style="green"),
                    Text(_unless_slug(answer.label(self.language), answer.slug)),
                    slug_width + 2,
                )
                for answer in answers
            )
        )


@dataclass(frozen=True)
class _Entry:
    """A slug and its text: side by side, the text wrapping in a column of its own, or below it without room."""

    slug: Text
    text: Text
    width: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.text:
            yield self.slug
            return
        indent = max(self.width, self.slug.cell_len) + GAP
        room = options.max_width - indent
        if room < min(LEAST_ROOM, self.text.cell_len):
            yield self.slug
            indent = 2 * GAP
            start, room = Text(" " * indent), max(options.max_width - indent, 1)
        else:
            start = Text.assemble(self.slug, " " * (indent - self.slug.cell_len))
        for line in self.text.wrap(console, room):
            whole = Text.assemble(start, line)
            whole.rstrip()
            yield whole
            start = Text(" " * indent)


def _unless_slug(label: str, slug: str) -> str:
    return "" if label == slug else " ".join(label.split())
