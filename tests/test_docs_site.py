"""The examples in the documents of site and store: each is read by what would read it, or run."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from greenpea import retirement
from greenpea.classifications import check
from greenpea.site.markdown import entries, pictures_in, steps
from greenpea.site.opening import MORE_IMAGES, read_gold
from greenpea.store import Counted, Stream
from greenpea.tree import Answer, DecisionTree, Question
from greenpea.workflow import RULES, Workflow

DOCS = Path(__file__).parent.parent / "docs"
OURS = [DOCS / name for name in ("architecture.md", "serving.md", "store.md", "workflow.md")]


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of a page's fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _block(page: str, language: str) -> str:
    (found,) = (text for kind, text in _blocks(DOCS / page) if kind == language)
    return found


@pytest.fixture(scope="module")
def workflow() -> Workflow:
    return Workflow.from_json(_block("workflow.md", "json"))


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    tested = {
        ("architecture.md", ""),
        ("serving.md", "console"),
        ("serving.md", "toml"),  # in test_docs
        ("serving.md", "ini"),
        ("store.md", "console"),
        ("store.md", "python"),
        ("workflow.md", "json"),
        ("workflow.md", "csv"),
    }
    assert {(page.name, language) for page in OURS for language, _ in _blocks(page)} == tested


# ---- docs/workflow.md --------------------------------------------------------------------------------


def test_the_workflow_has_every_kind_of_rule_that_can_stand_together(workflow: Workflow) -> None:
    assert {rule.rule for rule in workflow.retirement} == {*RULES} - {"never"}
    assert workflow.limit == 30
    assert Workflow.from_json(workflow.to_json()) == workflow


def test_the_workflow_shows_every_key(workflow: Workflow) -> None:
    text = _block("workflow.md", "json")
    keys = {*Workflow.model_fields, *DecisionTree.model_fields, *Question.model_fields, *Answer.model_fields}
    said = (DOCS / "workflow.md").read_text(encoding="utf-8")
    for key in keys - {"tree"}:
        assert f'"{key}":' in text or key == "version", key
        assert f"`{key}`" in said, key
    for name, rule in RULES.items():
        assert f"| `{name}` |" in said
        assert all(f"`{key}`" in said for key in rule.model_fields)


def test_the_rules_defaults_are_as_documented() -> None:
    said = (DOCS / "workflow.md").read_text(encoding="utf-8")
    for name, rule in RULES.items():
        (line,) = (line for line in said.splitlines() if line.startswith(f"| `{name}` |"))
        for key, field in rule.model_fields.items():
            if key != "rule" and not field.is_required():
                assert re.search(rf"`{key}` \({field.default}[,)]", line), (name, key)


def test_the_texts_are_what_the_page_makes_of_them(workflow: Workflow) -> None:
    assert workflow.languages == ("en", "de")
    assert {language: len(steps(text)) for language, text in workflow.tutorial.items()} == {"en": 2, "de": 2}
    assert [heading for heading, _ in entries(workflow.guide["en"])] == ["Disk", "Ring"]
    assert pictures_in(workflow.guide["en"]) == {"pictures/ring.jpg"}


def test_the_rules_retire_as_they_say(workflow: Workflow) -> None:
    assert retirement.decide(workflow.retirement, 5, {"shape": 5, "shape/artifact": 4}) == "answer artifact"
    assert retirement.decide(workflow.retirement, 5, {"shape": 5, "shape/artifact": 3}) is None
    assert retirement.decide(workflow.retirement, 20, {"ring": 12, "ring/no": 12}) == "consensus on ring"
    assert retirement.decide(workflow.retirement, 29, {"ring": 12, "ring/no": 12}, audit=True) is None


def test_the_known_answers_can_be_read(workflow: Workflow, tmp_path: Path) -> None:
    path = tmp_path / "gold.csv"
    path.write_text(_block("workflow.md", "csv"), encoding="utf-8")
    gold = read_gold(path, workflow.tree)
    assert gold == {
        "g17": {"shape": ["disk"], "ring": ["yes"], "odd": ["lens", "merger"]},
        "g23": {"shape": ["artifact"]},
        "g42": {"shape": ["disk"]},
    }
    for answers in gold.values():
        check(workflow.tree, answers, complete=False)


def test_as_many_images_as_documented() -> None:
    assert f"`image_2` to `image_{MORE_IMAGES}`" in (DOCS / "workflow.md").read_text(encoding="utf-8")


# ---- docs/store.md -----------------------------------------------------------------------------------


def test_the_store_works_without_the_site(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, object] = {}
    exec(compile(_block("store.md", "python"), "docs/store.md", "exec"), found)
    assert [one.counted for one in found["receipts"]] == [Counted.YES, Counted.YES]  # type: ignore[attr-defined]
    assert len(found["votes"]) == 1  # type: ignore[arg-type]  # of two, one was undone
    assert capsys.readouterr().out.endswith(" 0\n")  # the recount's differences


def test_every_state_and_stream_is_described() -> None:
    said = (DOCS / "store.md").read_text(encoding="utf-8")
    for state in Counted:
        assert f"| `{state}` |" in said, state
    for stream in Stream:
        assert f"`{stream}`" in said, stream


def test_every_table_is_described() -> None:
    from greenpea.store.schema import metadata

    said = (DOCS / "store.md").read_text(encoding="utf-8")
    for table in metadata.tables:
        assert f"`{table}`" in said, table


# ---- docs/serving.md ---------------------------------------------------------------------------------


def test_the_service_is_a_unit_that_starts_the_site() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment]  # systemd minds capitals
    unit.read_string(_block("serving.md", "ini"))
    assert " serve " in unit["Service"]["ExecStart"]
