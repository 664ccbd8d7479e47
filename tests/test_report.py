"""The report and its pictures: right numbers, hostile words, thin data, and nothing fetched from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from greenpea import information, plots, report
from greenpea.calibration import Evaluation, Interval, Score, constant, evaluate, log_floor, reliability
from greenpea.information import Information
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

SUBJECTS, DRAWS = 60, 20
HOSTILE = "</svg></title><script>alert('$x_{$')</script>"
TREE = DecisionTree.model_validate(
    {
        "name": "two",
        "questions": [
            {
                "slug": "shape",
                "text": {"en": "Which <b>shape</b> & why? $\\frac$"},
                "answers": [
                    {"slug": "round", "text": {"en": HOSTILE}, "next": "odd"},
                    {"slug": "long", "text": {"en": "Long $_{$"}, "next": "odd"},
                    {"slug": "none", "text": {"en": "星系 \U0001f600"}},
                ],
            },
            {"slug": "odd", "kind": "multiple", "answers": [{"slug": "ring"}, {"slug": "tail"}]},
        ],
    }
)


@dataclass(frozen=True, eq=False)
class Judged:
    evaluation: Evaluation
    posterior: Posterior
    votes: Votes
    how: str = "test subjects"
    left_out: int = 0


def a_posterior(rng: np.random.Generator, doubt: float = 0.3) -> Posterior:
    """A posterior whose draws differ by a factor exp(``doubt`` · normal)."""
    shape = rng.gamma(1.0, 6.0, (1, SUBJECTS, 3)) + 0.3
    odd = rng.gamma(1.0, 4.0, (1, SUBJECTS, 2, 2)) + 0.3
    parameters = {
        "shape": shape * np.exp(doubt * rng.normal(size=(DRAWS, SUBJECTS, 3))),
        "odd": odd * np.exp(doubt * rng.normal(size=(DRAWS, SUBJECTS, 2, 2))),
    }
    ids = np.array([f"subject {row}" for row in range(SUBJECTS)], dtype=object)
    families = {"shape": "dirichlet-multinomial", "odd": "beta-binomial"}
    return Posterior(TREE, ids, families, parameters, rng.gamma(9.0, 1 / 9, SUBJECTS))


def votes_from(posterior: Posterior, rng: np.random.Generator) -> Votes:
    """Votes of 12 volunteers a subject as the posterior says they come: it is calibrated."""
    everybody = np.full(SUBJECTS, 12)
    shape = posterior.sample("shape", everybody, 1, rng)[0]
    asked = shape[:, :2].sum(axis=1)
    counts = {"shape": shape, "odd": posterior.sample("odd", asked, 1, rng)[0]}
    return Votes(TREE, posterior.subject_ids, counts, {"shape": everybody, "odd": asked})


def judge(posterior: Posterior, votes: Votes, **more: Any) -> Judged:
    rng = np.random.default_rng(5)
    baseline = constant(votes, posterior.subject_ids)
    return Judged(evaluate(posterior, votes, baseline, rng, simulations=60), posterior, votes, **more)


def some_images(channels: int = 3, dtype: type = np.uint8, subjects: int = SUBJECTS) -> np.ndarray:
    pixels = np.random.default_rng(2).random((subjects, channels, 8, 8))
    return (255 * pixels).astype(np.uint8) if dtype is np.uint8 else pixels.astype(dtype)


@pytest.fixture(scope="module")
def judged() -> Judged:
    rng = np.random.default_rng(1)
    posterior = a_posterior(rng)
    votes = votes_from(posterior, rng)
    ids = posterior.subject_ids.copy()
    ids[:] = [f"{HOSTILE}\"'{row}" for row in range(SUBJECTS)]
    posterior, votes = replace(posterior, subject_ids=ids), replace(votes, subject_ids=ids)
    return judge(posterior, votes, how="the <i>test</i> subjects", left_out=1234)


@pytest.fixture(scope="module")
def learned(judged: Judged) -> Information:
    return information.of_tree(judged.posterior, 5, np.random.default_rng(3))


FACTS = {
    "fingerprint": "0123abcd",
    "settings": {"encoder": "residual", "freeze": False, "percentiles": [0.25, 99.75], "deep": {"er": None}},
    "unreadable": [["<img src=x>", "its file is cut short"]],
}
HISTORY = {"train": [3.0, 2.0, 1.5], "held_out": [3.1, 2.2, 2.3], "best_epoch": 1}


@pytest.fixture(scope="module")
def page(judged: Judged, learned: Information, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert report.write(judged, out, some_images(), "A & B", FACTS, HISTORY, learned, 5, True) == out
    return out.read_text(encoding="utf-8")


# ---- reading HTML ------------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What stands in a page: elements with their attributes, text by element; unbalanced tags are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.cells: list[list[str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(word for tag, word in self.words if tag != "style").split())

    def rows(self, first: str) -> Iterator[list[str]]:
        """The rows of tables whose first cell begins so, white space evened."""
        for row in self.cells:
            cells = [" ".join(cell.split()) for cell in row]
            if cells and cells[0].startswith(first):
                yield cells


def written(judged: Judged, folder: Path, images: np.ndarray, *rest: Any, **more: Any) -> Page:
    return Page(report.write(judged, folder / "r.html", images, "T", {}, *rest, **more).read_text(encoding="utf-8"))


# ---- the page ----------------------------------------------------------------------------------------


def test_a_page_is_whole_and_fetches_nothing(page: str) -> None:
    parsed = Page(page)
    assert "http" not in page
    assert "@import" not in page
    assert not {"script", "link", "iframe", "object", "base", "b", "i"} & {tag for tag, _ in parsed.elements}
    for _, attributes in parsed.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action", "poster"):
                assert (value or "").startswith(("data:image/png;base64,", "#")), (name, value)
            if "url(" in (value or ""):
                assert (value or "").count("url(") == (value or "").count("url(#")


def test_a_strangers_words_are_words(page: str) -> None:
    assert "<script" not in page
    text = Page(page).text
    assert f"{HOSTILE}\"'0"[:-1] in text
    assert "Which <b>shape</b> & why? $\\frac$" in text
    assert "Judged on the <i>test</i> subjects. 1,234 more subjects have votes" in text
    assert "A & B: how far to believe the network" in text
    assert "<img src=x> : its file is cut short" in text


def test_every_picture_has_an_alternative_text(page: str, judged: Judged) -> None:
    parsed = Page(page)
    images = [attributes for tag, attributes in parsed.elements if tag == "img"]
    drawn = [attributes for tag, attributes in parsed.elements if tag == "svg"]
    assert len(images) == 8 + 2 * report.THUMBNAILS
    assert all(image["alt"].startswith("Image of subject </svg>") for image in images)  # type: ignore[union-attr]
    # gallery, excess, fractions, three for all questions and for each, kinds of doubt, information, losses
    assert len(drawn) == 8 + 1 + 2 + 3 * 3 + 1 + 1 + 1
    assert all(svg["role"] == "img" and len(svg["aria-label"] or "") > 20 for svg in drawn)
    labels = [svg["aria-label"] or "" for svg in drawn]
    held = judged.evaluation["odd"].coverage["90"]
    assert any(
        "Coverage, odd: 50 % sets hold" in label and f"90 % sets hold {100 * held:.1f} %" in label for label in labels
    )
    assert any(label.startswith(f"Votes predicted for subject {HOSTILE}") for label in labels)


def test_a_page_says_how_to_read_each_kind_of_picture(page: str) -> None:
    assert Page(page).text.count("How to read this:") == 7


def test_the_tables_hold_the_scores(page: str, judged: Judged) -> None:
    parsed, evaluation = Page(page), judged.evaluation
    for name, score in (
        ("All questions", evaluation.overall),
        ("shape", evaluation["shape"]),
        ("odd", evaluation["odd"]),
    ):
        scores, coverage, *doubt = [row for row in parsed.rows(name) if len(row) in (5, 10)]
        assert [sum(map(float, row[2:])) for row in doubt] == pytest.approx(
            [100.0] * (score.question != "overall"), abs=0.2
        )
        if len(scores) == 5:
            scores, coverage = coverage, scores
        excess, constant_, gain, rmse, mae, accuracy, confident, subjects, votes = scores[1:]
        assert [int(subjects.replace(",", "")), int(votes.replace(",", ""))] == [score.subjects, score.votes]
        assert numbers(excess) == pytest.approx([score.excess.value, score.excess.low, score.excess.high], abs=0.006)
        assert numbers(gain) == pytest.approx([score.gain.value, score.gain.low, score.gain.high], abs=0.006)
        assert gain.endswith(report.verdict(score))
        assert numbers(constant_) == pytest.approx([score.constant_excess], abs=0.006)
        assert numbers(rmse) == pytest.approx([score.rmse, score.constant_rmse], abs=0.0006)
        assert numbers(mae) == pytest.approx([score.mae], abs=0.0006)
        assert numbers(accuracy) == pytest.approx([100 * score.accuracy], abs=0.06)
        assert numbers(confident) == pytest.approx([100 * score.confident_accuracy, score.confident_subjects], abs=0.06)
        wanted = [[100 * score.coverage[level], 100 * score.coverage_error[level]] for level in score.coverage]
        for cell, pair in zip(coverage[1:], wanted, strict=True):
            assert numbers(cell) == pytest.approx(pair, abs=0.06)


def test_coverage_that_is_off_is_marked(judged: Judged, tmp_path: Path) -> None:
    odd = judged.evaluation["odd"]
    held, error = {"50": 0.45, "80": 0.79, "90": 0.91, "95": 0.985}, dict.fromkeys(odd.coverage, 0.015)
    scores = (*judged.evaluation.scores[:2], replace(odd, coverage=held, coverage_error=error))
    changed = replace(judged, evaluation=replace(judged.evaluation, scores=scores))
    parsed = written(changed, tmp_path, some_images())
    row = next(row for row in parsed.rows("odd") if len(row) == 5)
    assert row == ["odd", "45.0 ± 1.5 ▼", "79.0 ± 1.5", "91.0 ± 1.5", "98.5 ± 1.5 ▲"]


def numbers(cell: str) -> list[float]:
    """The numbers in a cell; its brackets, words and signs of excess left out."""
    words = cell.replace("−", "-").replace(",", " ")
    for sign in "[]()±▲▼":
        words = words.replace(sign, " ")
    return [float(word) for word in words.split() if word.lstrip("-")[:1].isdigit()]


def test_the_first_words_are_in_the_page(page: str, judged: Judged) -> None:
    text, score = Page(page).text, judged.evaluation.overall
    assert f"On {SUBJECTS} held-out subjects with {score.votes:,} votes, the network predicts votes " in text
    for words in report.headline(judged.evaluation)[1:]:
        assert words in text


def test_simulated_data_say_so(page: str) -> None:
    assert "Simulated data." in Page(page).text


def test_how_it_was_trained_is_told(page: str) -> None:
    parsed = Page(page)
    assert ["fingerprint", "0123abcd"] in parsed.rows("fingerprint")
    assert ["freeze", "no"] in parsed.rows("freeze")
    assert ["percentiles", "0.25, 99.75"] in parsed.rows("percentiles")
    assert ["deep.er", "none"] in parsed.rows("deep.er")
    assert "1 image could not be read, and taught nothing" in parsed.text
    assert f"The posterior has {DRAWS} draws" in parsed.text


def test_the_same_input_gives_the_same_bytes(judged: Judged, learned: Information, page: str, tmp_path: Path) -> None:
    again = report.write(judged, tmp_path / "r.html", some_images(), "A & B", FACTS, HISTORY, learned, 5, True)
    assert again.read_text(encoding="utf-8") == page


@pytest.fixture(scope="module")
def bare(judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """No history, no information, no distance, grey images, many of them unreadable."""
    blind = replace(judged, posterior=replace(judged.posterior, distance=None))
    lost = [(f"lost-{number}", "gone") for number in range(report.LISTED + 1234)]
    return written(blind, tmp_path_factory.mktemp("bare"), some_images(1), unreadable=lost)


def test_without_history_information_and_distance_their_parts_are_missing(bare: Page) -> None:
    assert "What to ask next" not in bare.text
    assert "epochs" not in str(bare.elements)
    assert "imulated" not in bare.text
    assert "Every image it was to learn from could be read." in bare.text
    assert [word for word in report.KINDS if f" {word} " in bare.text] == ["Typical", "Worst predicted"]


def test_many_unreadable_images_are_counted_and_not_all_listed(bare: Page) -> None:
    assert f"{report.LISTED + 1234:,} images could not be read, and are not judged" in bare.text
    assert "lost-199 : gone" in bare.text
    assert "lost-200" not in bare.text
    assert "and 1,234 more" in bare.text


def first_image(page: Page) -> np.ndarray:
    data = next(attributes["src"] or "" for tag, attributes in page.elements if tag == "img")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data.removeprefix("data:image/png;base64,")))))


def test_grey_images_are_shown(bare: Page, judged: Judged) -> None:
    row = report.choose(judged.posterior, judged.votes, None)[0].row
    np.testing.assert_array_equal(first_image(bare), np.moveaxis(some_images(1)[row].repeat(3, axis=0), 0, 2))


def test_a_question_nobody_answered_is_named_and_distances_are_not_needed(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    posterior = replace(a_posterior(rng), distance=None)
    votes = votes_from(posterior, rng)
    votes.reached["odd"][:], votes.counts["odd"][:] = 0, 0
    learned = information.of_tree(posterior, 7, rng)
    parsed = written(judge(posterior, votes), tmp_path, some_images(), None, learned, 7)
    assert "Not judged, for want of a vote: odd." in parsed.text
    assert "about which 7 more volunteers" in parsed.text
    assert [word for word in report.KINDS if f" {word} " in parsed.text] == list(report.KINDS)[:3]


def test_one_subject_with_votes_is_judged_and_nothing_claimed(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    posterior = a_posterior(rng)
    votes = votes_from(posterior, rng)
    votes.reached["odd"][1:], votes.counts["odd"][1:] = 0, 0
    votes.reached["odd"][0] = 2
    votes.counts["odd"][0] = 1
    one = judge(posterior, votes)
    assert (one.evaluation["odd"].subjects, one.evaluation["odd"].confident_subjects) == (1, 0)
    parsed = written(one, tmp_path, some_images())
    row = next(row for row in parsed.rows("odd") if len(row) == 10)
    assert row[3].endswith("unclear")
    assert row[7] == "– (0)"  # no subject of which volunteers are sure: no accuracy on such
    assert "nan" not in str(parsed.cells).lower()


def test_a_single_subject_makes_a_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    posterior = a_posterior(rng)
    alone, votes = posterior.select([0]), votes_from(posterior, rng).select([0])
    learned = information.of_tree(alone, 5, rng)
    images = some_images(5, np.float32, 1)
    parsed = written(judge(alone, votes), tmp_path, images, None, learned)
    np.testing.assert_array_equal(first_image(parsed), plots.as_picture(images[0]))
    assert "On 1 held-out subject with" in parsed.text
    assert "Too few subjects to tell whether it is better than not looking at the image" in parsed.text


# ---- the first words ---------------------------------------------------------------------------------


def with_overall(judged: Judged, **changes: Any) -> report.Headline:
    overall = replace(judged.evaluation.overall, **changes)
    return report.headline(replace(judged.evaluation, scores=(overall,)))


@pytest.mark.parametrize(
    ("gain", "subjects", "verdict", "words"),
    [
        (
            Interval(0.035, 0.030, 0.040),
            1204,
            "better",
            "gains 0.0350 nats per vote (95 % interval [0.0300, 0.0400]), 35 %",
        ),
        (Interval(-0.02, -0.03, -0.01), 1204, "worse", "Worse than not looking at the image: it loses 0.020"),
        (Interval(0.01, -0.02, 0.04), 1204, "no better", "No better than not looking at the image"),
        (Interval(0.0, 0.0, 0.0), 1204, "no better", "No better than not looking at the image"),
        (Interval(0.2, 0.2, 0.2), 9, "unclear", "Too few subjects to tell"),
    ],
)
def test_the_verdict_follows_the_interval(
    judged: Judged, gain: Interval, subjects: int, verdict: str, words: str
) -> None:
    said = with_overall(judged, gain=gain, subjects=subjects, constant_excess=0.1)
    assert said.verdict == verdict
    assert words in said.comparison


@pytest.mark.parametrize(
    ("held", "error", "words"),
    [
        (
            (0.51, 0.80, 0.894, 0.95),
            0.009,
            "Calibrated, as far as these votes can tell: its 90 % sets hold 89.4 ± 0.9 %",
        ),
        (
            (0.50, 0.80, 0.84, 0.91),
            0.009,
            "Not calibrated, surer than it should be: its 90 % sets hold 84.0 ± 0.9 %",
        ),
        ((0.50, 0.80, 0.877, 0.95), 0.009, "Not calibrated, surer than it should be: its 90 % sets hold 87.7"),
        ((0.61, 0.80, 0.90, 0.95), 0.009, "Not calibrated, less sure than it could be: its 90 % sets hold 90.0"),
        ((0.61, 0.80, 0.90, 0.91), 0.009, "too sure at some levels, not sure enough at others"),
        ((0.50, 0.79, 0.89, 0.94), 0.001, "Calibrated to within 2 %, though not exactly"),
        ((0.50, 0.60, 0.70, 0.80), 0.2, "Calibrated, as far as these votes can tell"),
    ],
)
def test_calibration_is_put_in_words(judged: Judged, held: tuple[float, ...], error: float, words: str) -> None:
    levels = ("50", "80", "90", "95")
    changed = {"coverage": dict(zip(levels, held, strict=True)), "coverage_error": dict.fromkeys(levels, error)}
    said = with_overall(judged, **changed).coverage
    assert words in said
    assert ("its 50 % sets 61.0 %" in said) == (held[0] == 0.61)


def test_a_network_that_learned_nothing_is_said_to_be_no_better(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    votes = votes_from(a_posterior(rng), rng)
    blind = constant(votes, votes.subject_ids)
    said = report.headline(judge(blind, votes).evaluation)
    assert said.verdict == "no better"
    assert said.exceptions == "There is no question on which it is better than not looking."


def test_questions_that_are_no_better_are_named(judged: Judged) -> None:
    good = Interval(0.1, 0.05, 0.2)
    scores = [replace(score, gain=good) for score in judged.evaluation.scores]
    assert report.headline(replace(judged.evaluation, scores=tuple(scores))).exceptions == ""
    scores[2] = replace(scores[2], gain=Interval(0.0, -0.1, 0.1))
    said = report.headline(replace(judged.evaluation, scores=tuple(scores))).exceptions
    assert said == "On 1 of 2 questions it is no better than not looking: odd."


# ---- who is shown ------------------------------------------------------------------------------------


def test_the_gallery_follows_its_rules(judged: Judged, learned: Information) -> None:
    posterior, votes = judged.posterior, judged.votes
    chosen = report.choose(posterior, votes, learned)
    assert [one.kind for one in chosen] == [kind for kind in report.KINDS for _ in range(report.EACH)]
    rows = [one.row for one in chosen]
    assert len(set(rows)) == len(rows)
    above = np.stack([log_floor(votes, slug) - posterior.log_pmf(slug, votes) for slug in TREE.slugs])
    taken = set(rows[:4])
    worst = next(row for row in np.argsort(-above.sum(axis=0)) if row not in taken)
    assert chosen[4].row == worst
    assert chosen[4].question == TREE.slugs[above[:, worst].argmax()]
    farthest = next(row for row in np.argsort(-posterior.distance) if row not in set(rows[:6]))  # type: ignore[operator]
    assert chosen[6].row == farthest
    per_vote = above.sum(axis=0) / votes.total
    assert abs(per_vote[rows[0]] - np.median(per_vote)) == np.abs(per_vote - np.median(per_vote)).min()
    assert chosen[2].row in np.argsort(-learned.value)[:3]


def test_the_worst_predicted_subject_is_the_greatest_surprise_in_all_and_not_per_vote() -> None:
    alpha = np.array([[1.0, 1.0, 100.0], [500.0, 500.0, 1.0], *[[9.0, 9.0, 9.0]] * 4])
    parameters = {"shape": np.stack([alpha, alpha]), "odd": np.ones((2, 6, 2, 2))}
    families = {"shape": "dirichlet-multinomial", "odd": "beta-binomial"}
    posterior = Posterior(TREE, np.array(list("abcdef"), object), families, parameters)
    votes = Votes.empty(TREE, list("abcdef"))
    # One vote that had 1 % probability is 4.6 nats; twelve in a row, each with half, are 8.3.
    votes.counts["shape"][:] = [[1, 0, 0], [12, 0, 0], *[[4, 4, 4]] * 4]
    votes.reached["shape"][:] = votes.counts["shape"].sum(axis=1)
    chosen = {one.kind: one.row for one in report.choose(posterior, votes, None, each=1)}
    assert chosen["Worst predicted"] == 1


def test_a_subject_without_votes_is_not_in_the_gallery(judged: Judged) -> None:
    votes = judged.votes.select(np.arange(SUBJECTS))
    votes.reached["shape"][3:], votes.reached["odd"][3:] = 0, 0
    votes.counts["shape"][3:], votes.counts["odd"][3:] = 0, 0
    chosen = report.choose(judged.posterior, votes, None)
    assert sorted(one.row for one in chosen) == [0, 1, 2]
    assert all(votes.reached[one.question][one.row] > 0 for one in chosen)


# ---- JSON --------------------------------------------------------------------------------------------


def test_json_holds_every_field_of_every_score(judged: Judged) -> None:
    plain = report.to_json(judged.evaluation, how="so", simulated=True)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) == {"overall", "questions", "how", "simulated"}
    assert list(plain["questions"]) == ["shape", "odd"]
    for name, score in (("shape", judged.evaluation["shape"]), ("odd", judged.evaluation["odd"])):
        values = plain["questions"][name]
        assert set(values) == {field.name for field in fields(Score)}
        assert values["excess"] == {
            "value": score.excess.value,
            "low": score.excess.low,
            "high": score.excess.high,
        }
        assert values["coverage"]["90"] == score.coverage["90"]
        assert values["votes"] == score.votes


def test_json_says_null_for_what_does_not_exist(judged: Judged) -> None:
    odd = replace(judged.evaluation["odd"], confident_accuracy=float("nan"), rmse=np.float64("inf"), votes=3)
    evaluation = replace(judged.evaluation, scores=(judged.evaluation.overall, odd))
    values = json.loads(json.dumps(report.to_json(evaluation), allow_nan=False))["questions"]["odd"]
    assert (values["confident_accuracy"], values["rmse"], values["votes"]) == (None, None, 3)


def test_json_tells_a_question_called_overall_from_the_whole(judged: Judged) -> None:
    namesake = replace(judged.evaluation["odd"], question="overall", votes=7)
    plain = report.to_json(replace(judged.evaluation, scores=(judged.evaluation.overall, namesake)))
    assert plain["questions"]["overall"]["votes"] == 7
    assert plain["overall"]["votes"] == judged.evaluation.overall.votes


# ---- pictures ----------------------------------------------------------------------------------------


def lines_of(axes: Any, colour: str) -> list[np.ndarray]:
    return [line.get_xydata() for line in axes.lines if line.get_color() == colour]


def test_votes_predicted_draws_the_mixture_and_the_votes(judged: Judged) -> None:
    reached, counts = 12, judged.votes.counts["shape"][0]
    pmf = judged.posterior.select([0]).pmf("shape", reached)[:, 0]
    figure = plots.votes_predicted(some_images()[0], HOSTILE, TREE["shape"], pmf, counts, reached, answer=1)
    picture, one, many = figure.axes
    np.testing.assert_array_equal(picture.images[0].get_array(), plots.as_picture(some_images()[0]))
    np.testing.assert_allclose([bar.get_height() for bar in one.patches], pmf[0, 1])
    (mixture,) = lines_of(many, plots.GREEN)
    np.testing.assert_allclose(mixture, np.column_stack([np.arange(13), pmf[:, 1].mean(axis=0)]))
    assert len(lines_of(many, plots.DRAW)) == DRAWS
    for panel in (one, many):
        assert lines_of(panel, plots.INK)[0][:, 0].tolist() == [counts[1]] * 2
    assert len(plots.votes_predicted(None, "", TREE["shape"], pmf, counts, reached).axes) == 2


def test_the_answer_most_in_doubt_has_the_widest_mixture() -> None:
    # Answer 0 is sure of 1 of 2; answer 1 has draws that are each sure, and opposed.
    sure, low, high = [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    assert plots.most_in_doubt(np.array([[sure, low], [sure, high]])) == 1
    assert plots.most_in_doubt(np.array([[low, low], [high, high]])) == 0


def test_many_draws_are_thinned_and_few_are_not() -> None:
    pmf = np.full((200, 1, 3), 1 / 3)
    figure = plots.votes_predicted(None, "", TREE["odd"], pmf, np.array([1]), 2)
    assert len(lines_of(figure.axes[1], plots.DRAW)) == 50
    assert "200 draws" in figure.axes[1].get_title()


def test_the_coverage_curve_passes_through_the_table(judged: Judged) -> None:
    score = judged.evaluation["shape"]
    (axes,) = plots.coverage(judged.evaluation.ranks["shape"], "x").axes
    curve = max(lines_of(axes, plots.GREEN), key=len)
    for level, held in score.coverage.items():
        assert curve[round(float(level)), 1] == pytest.approx(held)
    band = axes.collections[0].get_paths()[0].vertices
    at_half = np.unique(band[np.isclose(band[:, 0], 0.5)][:, 1])
    # 95 % of Binomial(60, 1/2) lies in 22…38.
    np.testing.assert_allclose(at_half, [22 / 60, 38 / 60])


def test_pit_histograms_are_even_when_the_values_are() -> None:
    even = np.tile((np.arange(10) + 0.5) / 10, 30)
    predicted = np.repeat(np.linspace(0, 1, 30), 10)
    (axes,) = plots.pit(predicted, even, "x", groups=10).axes
    assert len(axes.patches) == 10
    for patch in axes.patches:
        np.testing.assert_allclose(patch.get_data().values, 1.0)
    (skewed,) = plots.pit(predicted, even**2, "x", groups=10).axes
    assert skewed.patches[0].get_data().values[0] == pytest.approx(3.0)
    assert len(plots.pit(predicted[:50], even[:50], "x").axes[0].patches) == 2


def test_excess_shows_network_constant_and_names(judged: Judged) -> None:
    scores = judged.evaluation.scores
    (axes,) = plots.excess(scores).axes
    offsets = axes.collections[0].get_offsets()
    np.testing.assert_allclose(offsets[:, 0], [score.constant_excess for score in scores])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all questions", "shape", "odd"]
    network = next(line for line in lines_of(axes, plots.GREEN) if len(line) == 3)
    np.testing.assert_allclose(network[:, 0], [score.excess.value for score in scores])


def test_reliability_shows_how_many_cells_there_are() -> None:
    points = reliability(np.array([0.05, 0.06, 0.95]), np.array([0.0, 0.2, 1.0]))
    top, bottom = plots.reliability(points, "x").axes
    np.testing.assert_allclose(lines_of(top, plots.GREEN)[0], [[0.055, 0.1], [0.95, 1.0]])
    assert [bar.get_height() for bar in bottom.patches] == [2, 1]


def test_information_marks_its_ceiling() -> None:
    value, distance = np.array([0.0, 0.1, 2.0]), np.array([0.5, 1.0, 3.0])
    (axes,) = plots.information(value, 30, distance).axes
    np.testing.assert_allclose(lines_of(axes, plots.ORANGE)[0][:, 1], np.log(30))
    np.testing.assert_allclose(axes.collections[0].get_offsets()[:, 0], distance)
    (axes,) = plots.information(value, 30).axes
    np.testing.assert_allclose(lines_of(axes, plots.ORANGE)[0][:, 0], np.log(30))
    assert sum(bar.get_height() for bar in axes.patches) == 3


def test_points_too_many_become_a_density_that_keeps_all_of_them() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(20_000), rng.random(20_000)
    for figure in (plots.information(y + 0.01, 30, x), plots.fractions(x, y, np.full(20_000, 9), "x")):
        mesh = figure.axes[0].collections[-1]
        assert mesh.get_array().shape == (40, 40, 4)
        text = plots.svg(figure)
        assert "data:image/png" in text
        assert len(text) < 100_000


def test_the_history_marks_the_epoch_that_was_kept() -> None:
    (axes,) = plots.history([3, 2, 1], [3.1, 2.5, 2.6], 1).axes
    assert lines_of(axes, plots.INK)[0][:, 0].tolist() == [2, 2]
    (short,) = plots.history([3], [3.1]).axes
    assert not lines_of(short, plots.INK)


def test_an_svg_takes_its_colours_from_the_page() -> None:
    figure = plots.history([3, 2, 1], [3.1, 2.5, 2.6], 1)
    text = plots.svg(figure)
    assert text == plots.svg(plots.history([3, 2, 1], [3.1, 2.5, 2.6], 1))
    assert not any(colour in text for colour in plots.PALETTE)
    assert "var(--fig-green)" in text
    assert not {"#000000", "xlink", "font-family"} & set(text.replace('"', " ").replace(":", " ").split())
    used = {part.split(")")[0].split('"')[0] for part in text.replace('href="#', "url(#").split("url(#")[1:]}
    assert used <= {part.split('"')[0] for part in text.split('id="')[1:]}


def test_dollars_in_names_are_not_mathematics(judged: Judged) -> None:
    name, even = "$_{$", np.linspace(0.01, 0.99, 40)
    figures = [
        plots.coverage(even, name),
        plots.pit(even, even, name),
        plots.reliability(reliability(even, even), name),
        plots.fractions(even, even, np.full(40, 9), name),
        plots.excess([judged.evaluation.overall, replace(judged.evaluation["odd"], question=name)]),
        plots.votes_predicted(some_images()[0], name, TREE["shape"], np.full((2, 3, 4), 0.25), np.ones(3, int), 3, 1),
    ]
    assert all(name in plots.svg(figure) for figure in figures)


def test_every_colour_of_the_pictures_is_defined_for_light_and_dark() -> None:
    css = (Path(report.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = css.split("prefers-color-scheme: dark")
    for name in plots.PALETTE.values():
        assert f"--fig-{name}:" in light
        follows = {"ink": "--ink:", "muted": "--muted:", "grid": "--line:"}
        assert follows.get(name, f"--fig-{name}:") in dark


def test_pictures_of_images_are_8_bit_rgb() -> None:
    rgb = some_images()[0]
    np.testing.assert_array_equal(plots.as_picture(rgb), np.moveaxis(rgb, 0, 2))
    np.testing.assert_array_equal(plots.as_picture(rgb / np.float32(255)), np.moveaxis(rgb, 0, 2))
    grey = np.array([[[0.0, 0.5], [1.0, 0.2]]])
    assert plots.as_picture(grey)[..., 1].tolist() == [[0, 128], [255, 51]]
    five = np.stack([np.full((2, 2), value, np.uint8) for value in (0, 10, 20, 30, 40)])
    assert plots.as_picture(five).tolist() == np.full((2, 2, 3), 20).tolist()
    raw = np.array([[[-100.0, 100.0], [np.nan, 300.0]]])
    assert plots.as_picture(raw)[..., 0].tolist() == [[0, 128], [64, 255]]
