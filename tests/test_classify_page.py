"""The volunteers' pages in a real browser, against a real server: by keyboard, offline, resumed, without JavaScript."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from greenpea.errors import GreenpeaError
from greenpea.site import identity, markdown, passes
from greenpea.site.passes import Pass
from greenpea.store import Counted, Role, Store
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow
from site_hands import free_port, make_site, serving

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install it to test the pages")

TREE: dict[str, Any] = {
    "name": "small",
    "title": {"en": "Small galaxies", "de": "Kleine Galaxien"},
    "questions": [
        {
            "slug": "shape",
            "text": {"en": "What shape is it?", "de": "Welche Form hat sie?"},
            "help": {"en": "Judge the **whole** galaxy."},
            "answers": [
                {
                    "slug": "smooth",
                    "text": {"en": "Smooth"},
                    "next": "round",
                    "help": {"en": "No structure at all."},
                    "examples": ["images/s00.png", "https://example.org/far.png"],
                },
                {"slug": "disk", "text": {"en": "Disk"}, "next": "arms"},
                {"slug": "artifact", "text": {"en": "Artifact"}},
            ],
        },
        {
            "slug": "round",
            "text": {"en": "How round?"},
            "answers": [
                {"slug": "round", "text": {"en": "Round"}, "next": "rare"},
                {"slug": "cigar", "text": {"en": "Cigar"}, "next": "rare"},
            ],
        },
        {
            "slug": "arms",
            "text": {"en": "Any spiral arms?"},
            "answers": [
                {"slug": "yes", "text": {"en": "Yes"}, "next": "rare"},
                {"slug": "no", "text": {"en": "No"}, "next": "rare"},
            ],
        },
        {
            "slug": "rare",
            "kind": "multiple",
            "text": {"en": "Anything rare?"},
            "answers": [
                {"slug": "ring", "text": {"en": "Ring"}},
                {"slug": "lens", "text": {"en": "Lens"}},
            ],
        },
    ],
}
TUTORIAL = "# Welcome\n\nLook closely.\n\n---\n\n# Answer\n\nWhat you see.\n"
GUIDE = "# Rings\n\nA circle of stars.\n\n# Lenses\n\nAn arc.\n"


def small(tutorial: str = "", **more: Any) -> Workflow:
    return Workflow.from_json(json.dumps(TREE | {"tutorial": tutorial, "guide": GUIDE} | more))


# ---- the hands -------------------------------------------------------------------------------------------


class Place:
    """A site that is served, and can go away and come back at the same address."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.app, self.store = make_site(folder, **({"chosen": small()} | options))
        self.folder = folder / "campaign"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._stack = ExitStack()

    def start(self) -> None:
        self._stack.enter_context(serving(self.app, self.port))

    def stop(self) -> None:
        self._stack.close()

    def stored(self, counted: Counted = Counted.YES) -> list[Any]:
        return [one for one in self.store.classifications.stream() if one.counted is counted]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(**options: Any) -> Place:
        made.append(Place(tmp_path, **options))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()
        one.store.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with watched(browser) as page:
        yield page


class watched:
    """A page in a context of its own; leaving it fails where a script failed or the policy was broken."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.context.set_default_timeout(10_000)
        self.faults: list[str] = []

    def __enter__(self) -> Any:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self._heard(message))
        return page

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.faults == []


def ready(page: Any, question: str = "shape") -> None:
    page.locator(f'.questions:not(.unseen) .question[data-question="{question}"]').wait_for(state="visible")


def open_page(page: Any, place: Place) -> None:
    page.goto(f"{place.url}/classify")
    ready(page)


def all_sent(page: Any) -> None:
    playwright.expect(page.locator("#sending")).to_have_attribute("data-waiting", "0")


def classify_disk(page: Any) -> None:
    """Disk, no arms, nothing rare: by keyboard."""
    for key, question in (("2", "arms"), ("2", "rare")):
        page.keyboard.press(key)
        ready(page, question)
    page.keyboard.press("Enter")


def subject_shown(page: Any) -> str:
    return str(page.locator("#image").get_attribute("src"))


# ---- the walk ----------------------------------------------------------------------------------------------


def test_the_script_walks_the_tree_as_the_server_does(place: Callable[..., Place], page: Any) -> None:
    """Random steps through two trees, by walk.js and by passes.py: the same answers kept, the same questions passed."""
    site = place()
    page.goto(f"{site.url}/about")
    rng = random.Random(5)
    for tree in (small().tree, DecisionTree.load("gz-decals-5"), DecisionTree.load("gz2")):
        plans = [_plan(tree, rng) for _ in range(40)]
        shown = page.evaluate(
            """async ([tree, plans]) => {
                const walks = await import("/static/walk.js");
                return plans.map((plan) => {
                    let walk = walks.begin(tree);
                    for (const given of plan) {
                        walk = given === null ? walks.back(tree, walk) : walks.answer(tree, walk, given);
                    }
                    return [walk.at, walk.answers, walks.path(tree, walk)];
                });
            }""",
            [_plain(tree), plans],
        )
        assert [[*row] for row in shown] == [_walked(tree, plan) for plan in plans]


def _plain(tree: DecisionTree) -> dict[str, Any]:
    questions = {
        one.slug: {"kind": one.kind, "next": one.next, "answers": {answer.slug: answer.next for answer in one.answers}}
        for one in tree.questions
    }
    return {"first": tree.first, "questions": questions}


def _plan(tree: DecisionTree, rng: random.Random) -> list[list[str] | None]:
    """Return random steps: answers to the question then shown, or None to go back."""
    plan: list[list[str] | None] = []
    under_way = Pass("", "", "", tree.first)
    for _ in range(rng.randrange(25)):
        if not under_way.at:
            break
        question = tree[under_way.at]
        if rng.random() < 0.35:
            plan.append(None)
            under_way = under_way.back(tree)
            continue
        some = rng.sample(question.answer_slugs, rng.randrange(len(question.answer_slugs) + 1))
        plan.append([rng.choice(question.answer_slugs)] if question.kind == "single" else some)
        under_way = under_way.answer(tree, plan[-1] or [])
    return plan


def _walked(tree: DecisionTree, plan: list[list[str] | None]) -> list[Any]:
    under_way = Pass("", "", "", tree.first)
    for given in plan:
        under_way = under_way.back(tree) if given is None else under_way.answer(tree, given)
    return [under_way.at or None, under_way.annotations, under_way.path(tree)]


def test_later_answers_stay_until_the_branch_changes() -> None:
    tree = small().tree
    done = Pass("", "", "", "shape")
    for given in (["smooth"], ["cigar"], ["ring"]):
        done = done.answer(tree, given)
    assert done.at == ""
    first = done.back(tree).back(tree).back(tree)
    assert first.at == "shape"
    assert first.answer(tree, ["smooth"]).answers == done.answers, "the same answer again changes nothing"
    assert first.answer(tree, ["disk"]).answers == {"shape": ("disk",)}
    second = first.answer(tree, ["smooth"])
    assert second.answer(tree, ["round"]).answers["rare"] == ("ring",), "the next question is the same: kept"


def test_a_form_carries_a_pass_and_nothing_else() -> None:
    tree = small().tree
    under_way = Pass("ticket", str(uuid4()), "now", "shape").answer(tree, ["disk"]).answer(tree, ["yes"])
    fields: dict[str, list[str]] = {}
    for name, value in under_way.fields():
        fields.setdefault(name, []).append(value)
    assert passes.read(tree, fields) == under_way
    for name, value in [
        ("at", "shape-2"),
        ("at", "round"),
        ("given", "shape:nonsense"),
        ("given", "shape:smooth,disk"),
        ("uuid", "1"),
        ("uuid", "'; DROP TABLE"),
    ]:
        with pytest.raises(GreenpeaError):
            passes.read(tree, fields | {name: [value]})


# ---- by keyboard -------------------------------------------------------------------------------------------


def test_ten_subjects_by_keyboard_only(place: Callable[..., Place], page: Any) -> None:
    site = place(subjects=12)
    open_page(page, site)
    shown = []
    for _ in range(10):
        ready(page)
        shown.append(subject_shown(page))
        classify_disk(page)
    ready(page)
    all_sent(page)
    assert len(set(shown)) == 10, "nobody is asked twice"
    stored = site.stored()
    assert len(stored) == 10
    assert all(one.annotations == {"shape": ["disk"], "arms": ["no"], "rare": []} for one in stored)
    assert len({one.volunteer.id for one in stored}) == 1
    assert "10 classified" in page.locator("#count").inner_text()
    assert site.store.classifications.recount() == 0


def test_back_keeps_answers_until_the_branch_changes(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    for key, question in (("1", "round"), ("2", "rare"), ("1", "rare")):  # smooth, cigar, tick the ring
        page.keyboard.press(key)
        ready(page, question)
    for question in ("round", "shape"):
        page.keyboard.press("Backspace")
        ready(page, question)
    assert page.locator('[data-answer="smooth"]').get_attribute("aria-pressed") == "true"
    page.keyboard.press("Enter")  # the same answer again
    ready(page, "round")
    assert page.locator('[data-answer="cigar"]').get_attribute("aria-pressed") == "true"
    page.locator("#trail button").first.click()
    ready(page, "shape")
    page.keyboard.press("2")  # another branch
    ready(page, "arms")
    assert page.locator('.question:visible [aria-pressed="true"]').count() == 0
    page.keyboard.press("1")
    ready(page, "rare")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    ready(page)
    all_sent(page)
    assert [one.annotations for one in site.stored()] == [{"shape": ["disk"], "arms": ["yes"], "rare": ["lens"]}]


def test_keys_are_left_alone_where_one_types_or_holds_a_modifier(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    page.keyboard.press("Control+1")
    page.keyboard.press("Alt+2")
    ready(page)
    page.keyboard.press("f")
    page.locator("#comment").type("1 u f ? i")
    assert page.locator("#comment").input_value() == "1 u f ? i"
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    ready(page)
    assert site.store.finds.all()[0] == []
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("2")
    page.keyboard.press("Escape")
    ready(page)


def test_the_image_zooms_turns_and_inverts(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)

    def style(name: str) -> str:
        return str(page.locator("#image").evaluate(f"image => image.style.{name}"))

    for key in ("z", "z", "r", "i", "b", "ArrowLeft"):
        page.keyboard.press(key)
    assert re.search(r"translate\([1-9].*scale\(1\.9.*rotate\(90deg\)", style("transform"))
    assert style("filter").startswith("invert(1) brightness(1.5)")
    assert page.locator("#zoom-shown").inner_text() == "Zoom 196 %"
    page.keyboard.press("x")
    assert "scale(1)" in style("transform")
    assert style("filter") == "invert(0) brightness(1) contrast(1)"
    page.locator("#stage").hover()
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.getElementById('image').style.transform.includes('scale(2')")
    classify_disk(page)
    ready(page)
    all_sent(page)
    assert "zoom" in site.stored()[0].metadata["tools"]


def test_several_images_of_one_subject(place: Callable[..., Place], page: Any) -> None:
    site = place(subjects=1)
    from greenpea.store import NewSubject

    site.store.subjects.add([NewSubject("s00", ("images/s00.png", "images/s00.png"))], datetime.now(UTC))
    open_page(page, site)
    assert page.locator("#thumbs button").count() == 2
    before = subject_shown(page)
    page.keyboard.press("ArrowRight")
    assert subject_shown(page) != before
    assert "2 of 2" in str(page.locator("#image").get_attribute("alt"))


# ---- what must not be lost ---------------------------------------------------------------------------------


def test_the_server_goes_away_and_comes_back(place: Callable[..., Place], page: Any) -> None:
    """Nothing is lost, nothing is counted twice, and the volunteer goes on meanwhile."""
    site = place()
    open_page(page, site)
    classify_disk(page)
    ready(page)
    all_sent(page)
    page.wait_for_load_state("networkidle")
    site.stop()
    for _ in range(2):
        classify_disk(page)
        ready(page)
    playwright.expect(page.locator("#sending")).to_contain_text("2 classifications wait")
    assert page.locator("#banner").is_visible()
    assert len(site.stored()) == 1
    site.start()
    all_sent(page)
    playwright.expect(page.locator("#banner")).to_be_hidden()
    stored = site.stored()
    assert len(stored) == 3
    assert len({one.uuid for one in stored}) == len({one.subject for one in stored}) == 3
    assert site.store.classifications.recount() == 0


def test_subjects_that_were_lost_on_their_way_are_handed_out_again(place: Callable[..., Place], page: Any) -> None:
    """The site has handed out all it has; the page has heard of none, and must not call them seen."""
    site = place(subjects=4)
    lost: list[int] = []

    def lose_the_subjects(route: Any) -> None:
        if not lost:
            lost.append(route.fetch().status)
            return route.abort()
        return route.continue_()

    page.route("**/api/v1/next", lose_the_subjects)
    page.goto(f"{site.url}/classify")
    for _ in range(4):
        ready(page)
        classify_disk(page)
    page.locator("#exhausted").wait_for(state="visible")
    all_sent(page)
    assert lost == [200]
    assert len({one.subject for one in site.stored()}) == 4
    assert len({one.volunteer.id for one in site.stored()}) == 1
    with site.store.database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM volunteers")).scalar_one() == 1


def test_an_answer_that_was_lost_on_its_way_back_counts_once(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    lost: list[int] = []

    def lose_the_answer(route: Any) -> None:
        if not lost:
            lost.append(route.fetch().status)
            return route.abort()
        return route.continue_()

    page.route("**/api/v1/classifications", lose_the_answer)
    classify_disk(page)
    ready(page)
    page.wait_for_function("document.getElementById('sending').textContent.includes('waits')")
    all_sent(page)
    assert lost == [201]
    assert len(list(site.store.classifications.stream())) == 1


def test_what_waits_survives_the_page_and_two_tabs_send_it_once(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    for _ in range(3):
        classify_disk(page)
        ready(page)
    playwright.expect(page.locator("#sending")).to_have_attribute("data-waiting", "3")
    other = page.context.new_page()
    posts: list[str] = []
    for tab in (page, other):
        tab.on("request", lambda request: posts.append(request.url) if "classifications" in request.url else None)
    page.context.set_offline(False)
    other.goto(f"{site.url}/classify")
    all_sent(page)
    all_sent(other)
    assert len(site.stored()) == 3
    assert subject_shown(page) != subject_shown(other), "two tabs do not go on with the same subject"


def test_a_refused_classification_is_kept_apart_and_shown(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    page.route(
        "**/api/v1/classifications",
        lambda route: route.fulfill(status=422, json={"detail": "question 'shape' has no answer 'disk'"}),
    )
    classify_disk(page)
    ready(page)
    page.locator("#refused-open").click()
    assert "has no answer" in page.locator("#refused-list").inner_text()
    all_sent(page)
    page.reload()
    ready(page)
    page.locator("#refused-open").click()
    page.locator("#refused-list button").click()
    playwright.expect(page.locator("#refused-open")).to_be_hidden()


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_what_may_be_taken_later_is_kept(place: Callable[..., Place], page: Any, status: int) -> None:
    site = place()
    open_page(page, site)
    page.route("**/api/v1/classifications", lambda route: route.fulfill(status=status, json={"detail": "later"}))
    classify_disk(page)
    ready(page)
    playwright.expect(page.locator("#banner")).to_be_visible()
    playwright.expect(page.locator("#sending")).to_have_attribute("data-waiting", "1")
    page.unroute("**/api/v1/classifications")
    page.reload()
    all_sent(page)
    assert len(site.stored()) == 1


def test_an_unfinished_classification_is_taken_up_again(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    page.keyboard.press("1")
    ready(page, "round")
    page.keyboard.press("2")
    ready(page, "rare")
    before = subject_shown(page)
    page.reload()
    ready(page, "rare")
    assert subject_shown(page) == before
    page.keyboard.press("Enter")
    ready(page)
    all_sent(page)
    assert [one.annotations for one in site.stored()] == [{"shape": ["smooth"], "round": ["cigar"], "rare": []}]


def test_what_one_person_began_is_not_finished_under_the_name_of_another(
    place: Callable[..., Place], page: Any
) -> None:
    site = place()
    now = datetime.now(UTC)
    people = [site.store.people.sign_up(name, "correct horse battery", now) for name in ("ada", "bea")]
    for person in people:
        token = identity.open_session(site.app.state.site, person)
        page.context.add_cookies([{"name": identity.SESSION, "value": token, "url": site.url}])
        open_page(page, site)  # shape is asked, so nothing that was begun before is taken up
        page.keyboard.press("1")
        ready(page, "round")
    page.reload()
    ready(page, "round")
    page.keyboard.press("1")
    ready(page, "rare")
    page.keyboard.press("Enter")
    ready(page)
    all_sent(page)
    assert [one.volunteer.name for one in site.stored()] == ["bea"]


def test_a_new_version_of_the_workflow_is_taken_up(place: Callable[..., Place], page: Any) -> None:
    site = place(subjects=12)
    open_page(page, site)
    changed = json.loads(json.dumps(TREE))
    changed["questions"][0]["text"] = {"en": "Which form has it?"}
    site.store.workflows.publish(Workflow.from_json(json.dumps(changed)), datetime.now(UTC))
    for _ in range(9):
        if page.locator("h1:visible").first.inner_text() == "Which form has it?":
            break
        before = subject_shown(page)
        page.keyboard.press("3")
        page.wait_for_function("url => document.getElementById('image')?.getAttribute('src') !== url", arg=before)
        ready(page)
        page.wait_for_load_state("networkidle")
    playwright.expect(page.locator("h1:visible").first).to_have_text("Which form has it?")
    all_sent(page)


# ---- undo, unusual, favourites, feedback -------------------------------------------------------------------


def test_undo_takes_the_last_classification_back(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    first = subject_shown(page)
    classify_disk(page)
    ready(page)
    second = subject_shown(page)
    page.keyboard.press("u")
    ready(page, "rare")
    assert subject_shown(page) == first
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    ready(page)
    assert subject_shown(page) == second, "what was shown in between comes back"
    all_sent(page)
    assert [one.annotations["rare"] for one in site.stored(Counted.UNDONE)] == [[]]
    assert [one.annotations["rare"] for one in site.stored()] == [["ring"]]
    assert site.store.classifications.recount() == 0


def test_this_is_unusual(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    page.keyboard.press("f")
    page.locator("#comment").fill("A green pea? <b>really</b>")
    page.keyboard.press("Control+Enter")
    playwright.expect(page.locator("#toast")).to_contain_text("Thank you!")
    all_sent(page)
    found, _ = site.store.finds.all()
    assert [find.comment for find in found] == ["A green pea? <b>really</b>"]
    page.goto(f"{site.url}/finds")
    assert "A green pea? <b>really</b>" in page.locator(".find").inner_text()
    page.locator(".like").click()
    assert page.locator(".like").get_attribute("aria-pressed") == "true"
    assert site.store.finds.all()[0][0].likes == 1
    page.locator(".like").click()
    assert site.store.finds.all()[0][0].likes == 0
    assert page.locator("text=Hide").count() == 0


def test_favourites(place: Callable[..., Place], page: Any) -> None:
    site = place()
    open_page(page, site)
    page.keyboard.press("h")
    all_sent(page)
    public = page.evaluate("async () => (await (await fetch('/api/v1/me')).json()).public")
    volunteer = site.store.people.by_public(public).id
    assert len(site.store.people.favourites(volunteer)) == 1
    page.keyboard.press("h")
    playwright.expect(page.locator("#toast")).to_contain_text("No longer")
    all_sent(page)
    assert site.store.people.favourites(volunteer) == []


GOLD = "subject_id,shape,arms\n" + "".join(f"s{i:02d},disk,yes\n" for i in range(12))
ALWAYS_GOLD = ("site.gold_first=1", "site.gold_last=1")


def test_feedback_on_known_subjects(place: Callable[..., Place], page: Any) -> None:
    site = place(gold=GOLD, settings=ALWAYS_GOLD)
    open_page(page, site)
    classify_disk(page)  # right about the disk, wrong about the arms
    page.locator("#feedback").wait_for(state="visible")
    assert "differently" in page.locator("#feedback-words").inner_text()
    rows = page.locator("#feedback-rows li").all_inner_texts()
    assert rows == ["What shape is it?\nDisk", "Any spiral arms?\nYes (you said: No)"]
    page.wait_for_timeout(400)  # keys are ignored at first, on purpose
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#feedback")).to_be_hidden()
    ready(page)
    page.keyboard.press("3")  # strays at once: the arms are never asked
    page.locator("#feedback").wait_for(state="visible")
    assert "Disk (you said: Artifact)" in page.locator("#feedback-rows li.other").inner_text()
    assert page.locator("#feedback-rows li.unasked").count() == 1
    assert len(site.stored(Counted.GOLD)) == 2


# ---- the end, the beginning --------------------------------------------------------------------------------


def test_you_have_seen_everything(place: Callable[..., Place], page: Any) -> None:
    site = place(subjects=2)
    open_page(page, site)
    classify_disk(page)
    ready(page)
    classify_disk(page)
    page.locator("#exhausted").wait_for(state="visible")
    all_sent(page)
    assert len(site.stored()) == 2
    page.keyboard.press("u")
    ready(page, "rare")
    page.keyboard.press("Enter")
    page.locator("#exhausted").wait_for(state="visible")
    all_sent(page)
    assert len(site.stored()) == 2


def test_the_tutorial_is_shown_once_and_can_be_read_again(place: Callable[..., Place], page: Any) -> None:
    site = place(chosen=small(TUTORIAL))
    open_page(page, site)
    page.locator("#tutorial").wait_for(state="visible")
    page.keyboard.press("2")
    assert page.locator("#tutorial").is_visible()
    page.get_by_role("button", name="Next").click()
    assert "What you see." in page.locator("#tutorial").inner_text()
    assert not page.get_by_role("button", name="Skip").is_visible()
    page.get_by_role("button", name="Begin").click()
    page.reload()
    ready(page)
    page.wait_for_load_state("networkidle")
    assert not page.locator("#tutorial").is_visible()
    page.keyboard.press("t")
    assert page.locator("#tutorial").is_visible()
    page.get_by_role("button", name="Skip").click()
    assert not page.locator("#tutorial").is_visible()
    page.keyboard.press("g")
    page.keyboard.press("2")  # hidden behind the guide: not answered
    page.keyboard.press("i")  # the image stays in reach
    assert page.locator('[data-do="invert"]').get_attribute("aria-pressed") == "true"
    assert "A circle of stars." in page.locator("#guide").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#guide").is_visible()
    ready(page)


def test_an_image_that_has_vanished(place: Callable[..., Place], page: Any) -> None:
    site = place()
    page.route("**/images/**", lambda route: route.fulfill(status=404, body="gone"))
    page.goto(f"{site.url}/classify")
    page.locator("#image-trouble").wait_for(state="visible")
    for key in ("1", "2", "Enter", "f", "h"):
        page.keyboard.press(key)
    assert page.locator('.question[data-question="shape"]').is_visible(), "nobody answers about what they did not see"
    assert page.locator(".question:visible .answer:enabled").count() == 0
    assert page.locator("dialog[open]").count() == 0
    before = subject_shown(page)
    page.get_by_role("button", name="Next image").click()
    assert subject_shown(page) != before
    page.locator("#image-trouble").wait_for(state="visible")
    page.unroute("**/images/**")
    page.get_by_role("button", name="Try again").click()
    playwright.expect(page.locator("#image-trouble")).to_be_hidden()
    ready(page)
    page.keyboard.press("3")
    ready(page)
    all_sent(page)
    assert len(site.stored()) == 1


def test_answers_wait_for_the_image(place: Callable[..., Place], page: Any) -> None:
    site = place()
    held: list[Any] = []
    waiting = [True]
    page.route("**/images/**", lambda route: held.append(route) if waiting else route.continue_())
    page.goto(f"{site.url}/classify", wait_until="domcontentloaded")
    page.locator('.question[data-question="shape"]').wait_for(state="visible")
    page.keyboard.press("3")
    assert page.locator(".questions.unseen").count() == 1
    waiting.clear()
    for route in held:
        route.continue_()
    ready(page)
    assert list(site.store.classifications.stream()) == []
    page.keyboard.press("3")
    ready(page)
    all_sent(page)
    assert len(site.stored()) == 1


def test_the_form_leaves_out_what_cannot_be_seen(place: Callable[..., Place], plain: Any) -> None:
    site = place(subjects=4)
    for broken in ("s00", "s02", "s03"):
        (site.folder / "images" / f"{broken}.png").write_bytes(b"")
    plain.goto(f"{site.url}/classify/form")
    plain.get_by_role("button", name="Artifact").click()
    assert plain.locator("h1").inner_text() == "No image at the moment"
    assert "Nothing is sent for them" in plain.locator(".lead").inner_text()
    assert [one.subject_id for one in site.stored()] == ["s01"]


# ---- trouble and bans --------------------------------------------------------------------------------------

TROUBLE = """async () => {
    const { Outbox, Storage } = await import("/static/outbox.js");
    const [sleep, pauses, posts] = [setTimeout, [], []];
    let status = 500;
    let due = null;
    window.setTimeout = (work, pause) => { pauses.push(pause); due = work; return pauses.length; };
    window.clearTimeout = () => { due = null; };
    window.fetch = async (path, { body }) => {
        posts.push(JSON.parse(body).uuid);
        return new Response("{}", { status });
    };
    const storage = new Storage(null);
    const outbox = new Outbox(storage, "trouble", "", { onChange: () => {}, onReply: () => {} });
    const settled = async () => { do await new Promise((go) => sleep(go, 5)); while (outbox.sending); };
    for (let i = 0; i < 30; i++) {
        const uuid = String(i);
        await outbox.add([{ kind: "classification", uuid, ticket: uuid, method: "POST", path: "/", body: { uuid } }]);
    }
    await settled();
    const first = posts.length;
    for (let i = 0; i < 9; i++) { due(); await settled(); }
    const tries = posts.length;
    status = 201;
    posts.length = 0;
    due();
    await settled();
    return { first, tries, pauses, posts, left: (await storage.all("waiting")).length, trouble: outbox.trouble };
}"""


def test_a_failing_server_is_asked_ever_more_rarely(place: Callable[..., Place], page: Any) -> None:
    """Thirty that wait make one request a try, and more work makes no more tries; then all are sent, in order."""
    site = place()
    page.goto(f"{site.url}/about")
    told = page.evaluate(TROUBLE)
    assert told["first"] == 1
    assert told["tries"] == 10
    assert len(told["pauses"]) == 10
    for number, pause in enumerate(told["pauses"]):
        usual = min(1000 * 2**number, 48_000)
        assert 0.75 * usual <= pause <= 1.25 * usual
    assert told["posts"] == [str(i) for i in range(30)]
    assert (told["left"], told["trouble"]) == (0, None)


def test_a_ban_is_said_where_one_classifies(place: Callable[..., Place], page: Any) -> None:
    site = place(subjects=12)
    now = datetime.now(UTC)
    ada = site.store.people.sign_up("ada", "correct horse battery", now)
    token = identity.open_session(site.app.state.site, ada)
    page.context.add_cookies([{"name": identity.SESSION, "value": token, "url": site.url}])
    open_page(page, site)
    site.store.people.ban(ada.id, now, recount=True)
    page.keyboard.press("3")
    page.locator("#stuck").wait_for(state="visible")
    assert "A moderator has paused" in page.locator("#stuck-words").inner_text()
    page.reload()
    page.locator("#stuck").wait_for(state="visible")
    assert "A moderator has paused" in page.locator("#stuck-words").inner_text()
    assert site.stored() == []
    assert {one.volunteer.id for one in site.store.classifications.stream()} <= {ada.id}, "no new anonymous volunteer"


# ---- without JavaScript ------------------------------------------------------------------------------------


@pytest.fixture
def plain(browser: Any) -> Iterator[Any]:
    with watched(browser, java_script_enabled=False) as page:
        yield page


def test_the_form_without_javascript(place: Callable[..., Place], plain: Any) -> None:
    site = place(subjects=3)
    plain.goto(f"{site.url}/classify")
    plain.wait_for_url("**/classify/form")
    plain.get_by_role("button", name="Smooth").click()
    plain.get_by_role("button", name="Cigar").click()
    plain.get_by_label("Ring").check()
    plain.get_by_role("button", name="Back").click()
    assert plain.locator("h1").inner_text() == "How round?"
    plain.get_by_role("button", name="Back").click()
    plain.get_by_role("button", name="Disk").click()
    plain.get_by_role("button", name="Yes").click()
    plain.get_by_label("Lens").check()
    plain.get_by_text("This is unusual").click()
    plain.locator("#comment").fill("odd one")
    plain.get_by_role("button", name="Tell the team").click()
    plain.get_by_label("Lens").check()
    plain.get_by_role("button", name="Next").click()
    assert "Thank you!" in plain.locator(".messages").inner_text()
    assert [one.annotations for one in site.stored()] == [{"shape": ["disk"], "arms": ["yes"], "rare": ["lens"]}]
    assert [find.comment for find in site.store.finds.all()[0]] == ["odd one"]
    plain.get_by_role("button", name="Take the last one back").click()
    assert site.stored() == []
    plain.get_by_role("button", name="Artifact").click()
    for _ in range(2):
        plain.get_by_role("button", name="Artifact").click()
    assert plain.locator("h1").inner_text() == "You have seen everything"
    assert len(site.stored()) == 3
    assert len({one.volunteer.id for one in site.stored()}) == 1


def test_the_form_sent_twice_counts_once_and_gives_feedback(place: Callable[..., Place], plain: Any) -> None:
    site = place(subjects=3, gold="subject_id,shape\ns00,disk\ns01,disk\ns02,disk\n", settings=ALWAYS_GOLD)
    plain.goto(f"{site.url}/classify/form")
    plain.get_by_role("button", name="Artifact").click()
    assert "differently" in plain.locator(".judged").inner_text()
    plain.reload()  # the browser sends the form again
    assert len(list(site.store.classifications.stream())) == 1


def fields_of(html: str) -> dict[str, str]:
    pairs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', html.split("plain-form")[1])
    return dict(pairs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ticket", "forged"),
        ("ticket", ""),
        ("uuid", "1' OR 1=1"),
        ("at", "rare"),
        ("at", "__proto__"),
        ("given", "shape:sm<b>ooth"),
        ("answer", "<script>alert(1)</script>"),
        ("action", "format"),
        ("action", "undo"),
        ("started_at", "yesterday"),
    ],
)
def test_a_form_that_was_tampered_with_is_refused_in_words(place: Callable[..., Place], name: str, value: str) -> None:
    site = place()
    with httpx.Client(base_url=site.url, headers={"Origin": site.url}) as client:
        fields = fields_of(client.get("/classify/form").text)
        answer = client.post("/classify/form", data=fields | {"answer": "artifact", name: value})
        assert answer.status_code == (200 if name == "started_at" else 422)
        assert "<script>alert" not in answer.text
        assert "plain-form" in answer.text, "there is always a next question to go on with"
    assert len(site.stored()) == (name == "started_at")


def test_nobody_takes_back_the_classification_of_another(place: Callable[..., Place]) -> None:
    site = place()
    with (
        httpx.Client(base_url=site.url, headers={"Origin": site.url}) as one,
        httpx.Client(base_url=site.url, headers={"Origin": site.url}) as other,
    ):
        mine = fields_of(one.get("/classify/form").text)
        one.post("/classify/form", data=mine | {"answer": "artifact"})
        theirs = fields_of(other.get("/classify/form").text)
        forged = {"action": "undo", "previous_uuid": mine["uuid"], "previous_ticket": theirs["ticket"]}
        assert other.post("/classify/form", data=theirs | forged).status_code == 422
    assert len(site.stored()) == 1


# ---- every page --------------------------------------------------------------------------------------------

PAGES = ("/", "/classify", "/classify/form", "/finds", "/about", "/tutorial", "/guide", "/nowhere")


@pytest.fixture
def lively(place: Callable[..., Place]) -> Place:
    """A site with a find and a classification, so that pages show what they can."""
    site = place(chosen=small(TUTORIAL))
    now = datetime.now(UTC)
    volunteer = site.store.people.anonymous(now)
    handed = site.store.queue.next(volunteer.id, 1, now)[0]
    site.store.finds.flag(str(uuid4()), volunteer.id, handed.subject.id, "What a ring!", now)
    return site


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(lively: Place, browser: Any, theme: str) -> None:
    found = []
    # The inspector is a script of another origin than ours: the policy is lifted for it, and tested elsewhere.
    with watched(browser, bypass_csp=True) as page:
        page.context.add_cookies([{"name": "theme", "value": theme, "url": lively.url}])
        for path in PAGES:
            page.goto(lively.url + path)
            page.wait_for_load_state("networkidle")
            found += _violations(page, path)
            if path == "/classify":
                page.keyboard.press("Escape")
                page.locator("#tutorial").wait_for(state="hidden")
                found += _violations(page, path)
                for key, dialog in (("?", "#keys"), ("f", "#unusual"), ("g", "#guide")):
                    page.keyboard.press(key)
                    page.locator(dialog).wait_for(state="visible")
                    found += _violations(page, path + dialog)
                    page.keyboard.press("Escape")
                    page.locator(dialog).wait_for(state="hidden")
    assert found == []


def _violations(page: Any, where: str) -> list[str]:
    page.wait_for_timeout(250)  # until nothing moves: colours in between are not judged
    results = axe.Axe().run(page)
    return [
        f"{where}: {one['id']}: {one['nodes'][0]['html'][:120]}"
        for one in results.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(lively: Place, browser: Any, width: int) -> None:
    with watched(browser, viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True) as page:
        for path in PAGES:
            page.goto(lively.url + path)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.goto(f"{lively.url}/classify")
        page.keyboard.press("Escape")
        ready(page)
        page.locator('[data-answer="artifact"]').tap()
        all_sent(page)
    assert len(lively.stored()) == 1


def test_the_theme_is_right_at_first_paint_and_changes_without_and_with_scripts(
    lively: Place, plain: Any, page: Any
) -> None:
    for one in (plain, page):
        one.goto(f"{lively.url}/about?x=1")
        assert one.locator("html").get_attribute("data-theme") == "dark"
        with one.expect_response("**/theme"):
            one.locator("#theme-form button").click()
        playwright.expect(one.locator("html")).to_have_attribute("data-theme", "light")
        one.goto(f"{lively.url}/finds")
        assert one.locator("html").get_attribute("data-theme") == "light"


def test_pages_speak_the_language_asked_for(lively: Place, page: Any) -> None:
    page.goto(f"{lively.url}/")
    page.get_by_role("button", name="Deutsch").click()
    assert page.locator("html").get_attribute("lang") == "de"
    assert page.get_by_role("link", name="Anfangen").count() == 1
    page.goto(f"{lively.url}/classify")
    ready(page)
    assert page.locator("h1:visible").first.inner_text() == "Welche Form hat sie?"


LOCALES = Path(__file__).parent.parent / "src" / "greenpea" / "site" / "locales"
ROOM = Path(__file__).parent.parent / "src" / "greenpea" / "site"
CALLS = (r'\bt\("([^"]+)"', r"\bt\('([^']+)'")
OURS = ("base", "home", "classify", "form", "tutorial", "guide", "finds", "about", "error", "help")


@pytest.mark.parametrize("language", ["de", "es"])
def test_every_text_of_these_pages_is_translated(language: str) -> None:
    from greenpea.site.classify import WORDS
    from greenpea.site.languages import translations

    templates = [(ROOM / "templates" / f"{name}.html").read_text(encoding="utf-8") for name in OURS]
    sources = [*templates, (ROOM / "classify.py").read_text(encoding="utf-8")]
    texts = {text for source in sources for pattern in CALLS for text in re.findall(pattern, source)} | set(WORDS)
    known = translations(language)
    assert sorted(texts - set(known)) == []
    for text in texts:
        assert known[text].strip()
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", known[text])), text


def test_the_script_has_every_text_it_says() -> None:
    from greenpea.site.classify import WORDS

    script = (ROOM / "static" / "classify.js").read_text(encoding="utf-8")
    assert set(re.findall(r'\bt\("([^"]+)"', script)) == set(WORDS)


@pytest.mark.parametrize("back", ["https://e.org/", "//e.org", "/\\e.org", "javascript:alert(1)", "\n/x", ""])
def test_a_choice_leads_nowhere_else(lively: Place, back: str) -> None:
    with httpx.Client(base_url=lively.url, headers={"Origin": lively.url}) as client:
        csrf = re.findall(r'name="csrf" value="([^"]+)"', client.get("/about").text)[0]
        answer = client.post("/language", data={"csrf": csrf, "language": "xx\r\nSet-Cookie: a=b", "back": back})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/"
        assert answer.cookies.get("language") == "en"
        assert client.post("/theme", data={"theme": "light", "back": "/"}).status_code == 403


@pytest.mark.parametrize(
    "name",
    [
        "campaign.toml",
        "../campaign.toml",
        "images/s01.png",
        "..%2Fcampaign.toml",
        "%2Fetc%2Fpasswd",
        "images%00/s00.png",
    ],
)
def test_pictures_are_those_the_workflow_names(lively: Place, name: str) -> None:
    with httpx.Client(base_url=lively.url) as client:
        assert client.get("/pictures/images/s00.png").headers["content-type"] == "image/png"
        assert client.get(f"/pictures/{name}").status_code == 404


def test_moderators_hide_finds_and_the_team_may_keep_them_to_itself(place: Callable[..., Place]) -> None:
    site = place(settings=("site.open_finds=false",))
    now = datetime.now(UTC)
    someone = site.store.people.anonymous(now)
    handed = site.store.queue.next(someone.id, 1, now)[0]
    find = site.store.finds.flag(str(uuid4()), someone.id, handed.subject.id, "secret ring", now)
    moderator = site.store.people.sign_up("mod", "correct horse battery", now, role=Role.MODERATOR)
    with httpx.Client(base_url=site.url, headers={"Origin": site.url}) as visitor:
        shown = visitor.get("/finds").text
        assert "secret ring" not in shown
        csrf = re.findall(r'name="csrf" value="([^"]+)"', shown)[0]
        assert visitor.post(f"/finds/{find.id}/like", data={"csrf": csrf, "on": "1"}).status_code == 403
        assert visitor.post(f"/finds/{find.id}/hide", data={"csrf": csrf, "hidden": "1"}).status_code in (303, 403)
    assert not site.store.finds.all()[0][0].hidden
    with httpx.Client(base_url=site.url, headers={"Origin": site.url}) as team:
        team.cookies.set("greenpea_session", identity.open_session(site.app.state.site, moderator))
        shown = team.get("/finds").text
        assert "secret ring" in shown
        csrf = re.findall(r'name="csrf" value="([^"]+)"', shown)[0]
        assert team.post(f"/finds/{find.id}/hide", data={"csrf": csrf, "hidden": "1"}).status_code == 303
        assert "secret ring" not in team.get("/finds").text
        assert "secret ring" in team.get("/finds?hidden=1").text


def test_the_teams_own_words_are_on_home_and_about(place: Callable[..., Place]) -> None:
    site: Place = place()
    (site.folder / "about.md").write_text("We look for **peas**.\n\n---\n\nMore <b>words</b>.", encoding="utf-8")
    (site.folder / "about.de.md").write_text("Wir suchen Erbsen.", encoding="utf-8")
    with httpx.Client(base_url=site.url) as client:
        assert "We look for <strong>peas</strong>." in client.get("/").text
        assert "&lt;b&gt;words" in client.get("/about").text
        assert "Wir suchen Erbsen." in client.get("/about", headers={"Accept-Language": "de"}).text


def test_about_says_what_is_so_in_this_campaign(place: Callable[..., Place]) -> None:
    site = place(subjects=3)
    now = datetime.now(UTC)
    known, network, demo = "whose answer the team knows", "A neural network", "a demonstration"
    with httpx.Client(base_url=site.url) as client:
        shown = client.get("/about").text
        assert [words in shown for words in (known, network, demo, "By chance, among")] == [False, False, False, True]
        publish_round(site.store, now)
        (site.folder / "truth.parquet").write_bytes(b"")
        shown = client.get("/about").text
        assert [words in shown for words in (known, network, demo, "By chance, among")] == [False, True, True, False]
        for path in ("/", "/classify", "/classify/form"):
            assert "Simulated galaxies: a demonstration" in client.get(path).text


def publish_round(store: Store, now: datetime) -> None:
    number = store.rounds.create("0123abcd", 0, {}, now)
    store.rounds.publish(number, [("s00", 1.0)])
    store.rounds.activate(number, now)


def test_about_tells_of_known_answers_where_there_are_any(place: Callable[..., Place]) -> None:
    site = place(subjects=3, gold="subject_id,shape\ns00,disk\n")
    with httpx.Client(base_url=site.url) as client:
        assert "whose answer the team knows" in client.get("/about").text


def test_home_counts_what_stands(place: Callable[..., Place]) -> None:
    site = place(subjects=3)
    now = datetime.now(UTC)
    _classify_all_but_one(site.store)
    one = site.stored()[0]
    site.store.classifications.undo(one.uuid, one.volunteer.id, now)
    with httpx.Client(base_url=site.url) as client:
        assert "<dt>classifications</dt><dd>1</dd>" in client.get("/").text
        changed = json.loads(json.dumps(TREE))
        changed["questions"][2]["answers"].append({"slug": "unsure", "text": {"en": "Unsure"}})
        site.store.workflows.publish(Workflow.from_json(json.dumps(changed)), now)
        site.app.state.overview = None
        assert "<dt>classifications of version 2</dt><dd>0</dd>" in client.get("/").text


def test_a_paragraph_of_keys_is_marked_so_that_phones_leave_it_out() -> None:
    assert markdown.render("Look.\n\n⌨ Press **1**.\n\n- ⌨ x") == (
        '<p>Look.</p>\n<p class="keyboard">⌨ Press <strong>1</strong>.</p>\n<ul>\n<li>⌨ x</li>\n</ul>\n'
    )


def test_home_is_honest_about_progress(place: Callable[..., Place]) -> None:
    site = place(subjects=3, chosen=small(retirement=[{"rule": "count", "classifications": 1}]))
    _classify_all_but_one(site.store)
    with httpx.Client(base_url=site.url) as client:
        assert "2 of 3 images have been seen by enough people." in client.get("/").text


def _classify_all_but_one(store: Store) -> None:
    from site_hands import sending

    now = datetime.now(UTC)
    for handed in store.queue.next(store.people.anonymous(now).id, 2, now):
        store.classifications.submit([sending(handed, {"shape": ["artifact"]})], now)
