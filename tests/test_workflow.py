"""Workflow files: read back equal, wrong ones explained so that they can be mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea.errors import GreenpeaError
from greenpea.retirement import Confident, Consensus, Count, Early, Never, Rules, Settled
from greenpea.tree import DecisionTree
from greenpea.workflow import Feedback, Workflow
from hands import galaxy_tree
from site_hands import workflow
from strategies import TEXTS, trees


@st.composite
def rules(draw: st.DrawFn, tree: DecisionTree) -> Rules:
    """Rules that hold on the tree: at most one count, consensus on questions with one answer, or never."""
    if draw(st.booleans()) and draw(st.booleans()):
        return (Never(rule="never"),)
    shares = st.floats(0.51, 1)
    found: list[Any] = []
    for question in draw(st.lists(st.sampled_from(tree.questions), max_size=3)):
        if question.kind == "single" and draw(st.booleans()):
            found.append(
                Consensus(rule="consensus", question=question.slug, share=draw(shares), votes=draw(st.integers(2, 50)))
            )
        else:
            answer = draw(st.sampled_from(question.answer_slugs))
            found.append(Early(rule="answer", question=question.slug, answer=answer, share=draw(shares)))
    if draw(st.booleans()):
        named = draw(st.sampled_from([None, *tree.slugs]))
        found.append(Confident(rule="confident", question=named, below=draw(st.floats(0.001, 0.5))))
    if draw(st.booleans()) or not found:
        found.append(Count(classifications=draw(st.integers(1, 100))))
        named = draw(st.sampled_from([None, *tree.slugs]))
        found += [Settled(rule="settled", question=named, gain=draw(st.floats(0.001, 0.5)))] * draw(st.integers(0, 1))
    return tuple(draw(st.permutations(found)))


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    tree = draw(trees())
    return Workflow(
        tree=tree,
        retirement=draw(rules(tree)),
        tutorial=draw(TEXTS),
        guide=draw(TEXTS),
        feedback=draw(st.builds(Feedback, right=TEXTS, wrong=TEXTS)),
    )


@given(workflows())
def test_json_reads_back_to_an_equal_workflow(chosen: Workflow) -> None:
    text = chosen.to_json()
    again = Workflow.from_json(text)
    assert again == chosen
    assert again.to_json() == text


@given(trees())
def test_a_file_with_a_tree_alone_is_a_workflow_with_the_defaults(tree: DecisionTree) -> None:
    found = Workflow.from_json(tree.to_json())
    assert found == Workflow(tree=tree)
    assert found.retirement == (Count(classifications=40),)
    assert found.limit == 40
    assert json.loads(found.to_json()) == json.loads(tree.to_json()) | {
        "retirement": [{"rule": "count", "classifications": 40}]
    }


def test_texts_may_be_plain_english() -> None:
    found = workflow(tutorial="Look.\n---\nAnswer.", guide={"de": "Sieh hin."})
    assert found.tutorial == {"en": "Look.\n---\nAnswer."}
    assert found.guide == {"de": "Sieh hin."}


# ---- files ---------------------------------------------------------------------------------------------


def test_files_are_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    chosen, file = workflow(7, guide="Größe"), tmp_path / "workflow.json"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text(chosen.to_json(), encoding=encoding)
        assert Workflow.load(file) == chosen
        assert Workflow.load(str(file)) == chosen


def test_shipped_trees_are_workflows_by_their_name() -> None:
    assert Workflow.load("gz2") == Workflow(tree=DecisionTree.load("gz2"))


def _spoiled(**more: object) -> str:
    return json.dumps(json.loads(galaxy_tree().to_json()) | more)


def _ruled(*given: object) -> str:
    return _spoiled(retirement=list(given))


CONSENSUS = {"rule": "consensus", "question": "bar"}
EARLY = {"rule": "answer", "question": "smooth", "answer": "artifact"}
FAULTS = {
    "no JSON": ('{"name": "x",\n  "questions": [}', ["not JSON", "line 2, column 17"]),
    "a list": ("[]", ["JSON object", "'name' and 'questions'"]),
    "a key of its own": (_spoiled(retirment=[]), ["unknown key 'retirment'", "did you mean 'retirement'?"]),
    "a key that is nothing like any": (_spoiled(zzz=1), ["unknown key 'zzz'", "remove it"]),
    "the tree is at fault": (_spoiled(first="smoth"), ["'smoth' does not exist", "did you mean 'smooth'?"]),
    "no rules": (_ruled(), ["'retirement'", "empty", "leave it out"]),
    "rules that are no list": (_spoiled(retirement={"rule": "count"}), ["'retirement'", "must be a list of rules"]),
    "a rule that is text": (_ruled("count"), ["retirement rule 1", "must be a JSON object"]),
    "a rule without a name": (_ruled({"classifications": 3}), ["retirement rule 1", "the key 'rule'", "consensus"]),
    "a rule that does not exist": (
        _ruled({"rule": "count"}, {"rule": "concensus"}),
        [
            "retirement rule 2",
            "no rule 'concensus'",
            "did you mean 'consensus'?",
            "answer, confident, settled, never",
        ],
    ),
    "an unknown key in a rule": (
        _ruled({"rule": "count", "clasifications": 3}),
        ["retirement rule 1 (count), 'clasifications'", "did you mean 'classifications'?"],
    ),
    "a key of another rule": (_ruled(CONSENSUS | {"answer": "no"}), ["(consensus), 'answer'", "remove it"]),
    "a rule without its question": (_ruled({"rule": "consensus"}), ["(consensus), 'question'", "add it"]),
    "an early rule without its answer": (
        _ruled({"rule": "answer", "question": "bar"}),
        ["retirement rule 1 (answer), 'answer'", "add it"],
    ),
    "an unknown question": (_ruled(CONSENSUS | {"question": "bars"}), ["no question 'bars'", "did you mean 'bar'?"]),
    "an unknown answer": (
        _ruled(EARLY | {"answer": "artefact"}),
        ["question 'smooth' has no answer 'artefact'", "did you mean 'artifact'?"],
    ),
    "no slug": (_ruled(CONSENSUS | {"question": "Bar!"}), ["(consensus), 'question'", "use lower-case", "'bar'"]),
    "two counts": (_ruled({"rule": "count"}, {"rule": "count", "classifications": 3}), ["two", "'count'", "keep one"]),
    "never with others": (_ruled({"rule": "count"}, {"rule": "never"}), ["'never' stands alone", "remove"]),
    "consensus on a multiple question": (_ruled(CONSENSUS | {"question": "rare"}), ["'rare' is 'multiple'"]),
    "a count of nothing": (_ruled({"rule": "count", "classifications": 0}), ["'classifications'", "equal to 1"]),
    "half a count": (_ruled({"rule": "count", "classifications": 2.5}), ["(count), 'classifications'", "integer"]),
    "a share of half": (_ruled(CONSENSUS | {"share": 0.5}), ["(consensus), 'share'", "greater than 0.5"]),
    "a share above one": (_ruled(EARLY | {"share": 1.01}), ["(answer), 'share'", "less than or equal to 1"]),
    "a share that is no number": (_ruled(EARLY | {"share": float("nan")}), ["(answer), 'share'"]),
    "consensus of one": (_ruled(CONSENSUS | {"votes": 1}), ["(consensus), 'votes'", "equal to 2"]),
    "feedback with another key": (
        _spoiled(feedback={"rigth": "Yes!"}),
        ["'feedback', 'rigth'", "did you mean 'right'?"],
    ),
    "feedback that is text": (_spoiled(feedback="Yes!"), ["'feedback'", "must be a JSON object"]),
    "a tutorial that is a list": (_spoiled(tutorial=["Look."]), ["'tutorial'", "must be a JSON object"]),
    "a guide that is a number": (_spoiled(guide={"en": 3}), ["'guide', 'en'", "string"]),
}


@pytest.mark.parametrize(("text", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_wrong_is_said_with_file_place_and_remedy(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "my workflow.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(GreenpeaError) as error:
        Workflow.load(file)
    said = str(error.value)
    assert all(line.startswith(f"{file}") for line in said.splitlines())
    assert "pydantic" not in said
    for some in words:
        assert some in said


def test_every_fault_gets_a_line() -> None:
    with pytest.raises(GreenpeaError) as error:
        Workflow.from_json(_ruled({"rule": "counts"}, {"rule": "consensus"}, EARLY | {"share": 2}), "w.json")
    lines = str(error.value).splitlines()
    assert ["rule 1:" in lines[0], "rule 2 (consensus)" in lines[1], "rule 3 (answer)" in lines[2]] == [True] * 3


def test_a_file_that_is_no_utf8_and_one_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "workflow.json"
    file.write_bytes(_spoiled(guide="Größe").encode("latin-1", "replace").replace(b"\\u00f6", "ö".encode("latin-1")))
    with pytest.raises(GreenpeaError, match="is not UTF-8 text: save it as UTF-8"):
        Workflow.load(file)
    with pytest.raises(GreenpeaError, match=r"no tree .*other\.json"):
        Workflow.load(tmp_path / "other.json")


def test_consistency_is_checked_without_a_file_as_well() -> None:
    with pytest.raises(ValueError, match="did you mean 'bar'"):
        Workflow(tree=galaxy_tree(), retirement=(Consensus(rule="consensus", question="bars"),))


# ---- versions ------------------------------------------------------------------------------------------


def _edited(edit: Any) -> Workflow:
    values = json.loads(Workflow(tree=galaxy_tree()).to_json())
    edit(values)
    return Workflow.from_json(json.dumps(values))


TEXT_EDITS = {
    "texts": lambda v: v["questions"][1].update(text={"en": "A bar?", "de": "Ein Balken?"}),
    "help": lambda v: v["questions"][0]["answers"][0].update(help={"en": "Round."}),
    "examples": lambda v: v["questions"][0]["answers"][0].update(examples=["round.png"]),
    "title": lambda v: v.update(title={"en": "Galaxies"}),
    "name": lambda v: v.update(name="galaxies"),
    "version": lambda v: v.update(version="2"),
    "rules": lambda v: v.update(retirement=[{"rule": "never"}]),
    "tutorial": lambda v: v.update(tutorial="Look."),
    "feedback": lambda v: v.update(feedback={"right": "Yes."}),
}
STRUCTURE_EDITS = {
    "another answer": lambda v: v["questions"][1]["answers"].append({"slug": "weak"}),
    "an answer less": lambda v: v["questions"][0]["answers"].pop(),
    "answers in another order": lambda v: v["questions"][1]["answers"].reverse(),
    "another way": lambda v: v["questions"][1]["answers"][0].update(next="rare"),
    "another kind": lambda v: v["questions"][1].update(
        kind="multiple", next="merging", answers=[{"slug": "no"}, {"slug": "yes"}]
    ),
    "another name of an answer": lambda v: v["questions"][0]["answers"][2].update(slug="star"),
    "another question": lambda v: (
        v["questions"][3].update(next="new"),
        v["questions"].append({"slug": "new", "answers": [{"slug": "a"}, {"slug": "b"}]}),
    ),
}


@pytest.mark.parametrize("edit", TEXT_EDITS.values(), ids=TEXT_EDITS.keys())
def test_votes_hold_when_texts_or_rules_change(edit: Any) -> None:
    before, after = Workflow(tree=galaxy_tree()), _edited(edit)
    assert after != before
    assert after.follows(before)
    assert before.follows(after)


@pytest.mark.parametrize("edit", STRUCTURE_EDITS.values(), ids=STRUCTURE_EDITS.keys())
def test_votes_do_not_hold_when_questions_answers_or_ways_change(edit: Any) -> None:
    before, after = Workflow(tree=galaxy_tree()), _edited(edit)
    assert not after.follows(before)
    assert not before.follows(after)


def test_languages_are_those_of_title_first_question_and_tutorial_english_first() -> None:
    assert Workflow(tree=galaxy_tree()).languages == ("en",)

    def edit(values: dict[str, Any]) -> None:
        values["title"] = {"fr": "Galaxies"}
        values["questions"][0]["text"] = {"de": "Glatt?", "es": "¿Liso?"}
        values["questions"][1]["text"] = {"nl": "Een balk?"}
        values["tutorial"] = {"cs": "Podívej se."}

    assert _edited(edit).languages == ("en", "cs", "de", "es", "fr")


def test_the_limit_is_that_of_the_count_rule() -> None:
    assert workflow(12).limit == 12
    assert Workflow(tree=galaxy_tree(), retirement=(Never(rule="never"),)).limit is None
    mixed = (Consensus(rule="consensus", question="bar"), Count(classifications=9))
    assert Workflow(tree=galaxy_tree(), retirement=mixed).limit == 9
    assert Workflow(tree=galaxy_tree(), retirement=mixed[:1]).limit is None
