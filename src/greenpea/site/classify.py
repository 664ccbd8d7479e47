"""The volunteers' pages: home, the classify page with and without JavaScript, tutorial, field guide, about."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse

from greenpea.errors import GreenpeaError
from greenpea.site import identity, markdown, passes, tickets
from greenpea.site.api import feedback, take
from greenpea.site.context import Site, link, page, site_of
from greenpea.site.languages import LANGUAGES, chosen_language, translator
from greenpea.site.messages import NewClassification, NewFind
from greenpea.site.passes import Pass
from greenpea.site.pictures import NoPicture, pictures_of
from greenpea.site.security import protected
from greenpea.store import Counted, HandOut, Overview, Receipt, Subject, Version, Volunteer
from greenpea.tree import DecisionTree

router = APIRouter(include_in_schema=False)

Person = Annotated[Volunteer | None, Depends(identity.person)]
Someone = Annotated[Volunteer, Depends(identity.volunteer)]

YEAR = timedelta(days=365)
FRESH = timedelta(seconds=10)  # how long the numbers on the home page stand
TRUTH = "truth.parquet"  # the true answers, which only a simulated campaign's folder holds
MOST_LEFT_OUT = 20  # subjects without a picture that the form passes over to find one with
PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}

# What the classify page's script says; it is told the texts in the reader's language.
WORDS = (
    "{count} classified in this session",
    "All sent",
    "1 classification waits to be sent",
    "{count} classifications wait to be sent",
    "You are offline. Go on: what you do is kept on this device and sent when the connection is back.",
    "The site does not answer at the moment. What you did is kept on this device and sent as soon as it does.",
    "Your last classification is taken back. You can answer again.",
    "Thank you! The team will look at it.",
    "Kept among your favourites",
    "No longer among your favourites",
    "Image {number} of {count}",
    "Image of subject {subject}",
    "The workflow has been changed by the team: the page was loaded anew.",
    identity.BANNED,
    "This device cannot keep classifications while offline: stay connected until all are sent.",
    "Nothing to take back.",
    "Zoom {percent} %",
    "{theirs} (you said: {yours})",
    "nothing of these",
    "We went on where you left off.",
)


# ---- home and what there is to read ----------------------------------------------------------------


@router.get("/")
def home(request: Request, person: Person) -> HTMLResponse:
    site = site_of(request)
    overview = _overview(request)
    some, _ = site.store.subjects.browse(order="newest", limit=9)
    return page(
        request,
        "home.html",
        person,
        overview=overview,
        # What was taken back is stored, and is no progress.
        classifications=overview.classifications - overview.uncounted.get(Counted.UNDONE.value, 0),
        version=_active(site),
        some=some,
        about=_about(site, request, person)[:1],
        simulated=simulated(site),
    )


def _overview(request: Request) -> Overview:
    """Return the campaign's numbers, counted anew when they are older than a while: counting reads much."""
    site, state = site_of(request), request.app.state
    kept: tuple[datetime, Overview] | None = getattr(state, "overview", None)
    now = site.clock()
    if kept is None or not kept[0] <= now < kept[0] + FRESH:
        kept = state.overview = (now, site.store.statistics.overview(now))
    return kept[1]


@router.get("/about")
def about(request: Request, person: Person) -> HTMLResponse:
    site = site_of(request)
    return page(
        request,
        "about.html",
        person,
        words=_about(site, request, person),
        version=_active(site),
        ranked=site.store.rounds.active() is not None,
        gold=_overview(request).gold > 0,
        simulated=simulated(site),
    )


@router.get("/tutorial")
def tutorial(request: Request, person: Person) -> HTMLResponse:
    site = site_of(request)
    text = markdown.in_language(_active(site).workflow.tutorial, _language(request, person))
    return page(request, "tutorial.html", person, steps=markdown.steps(text, link(request, "")))


@router.get("/guide")
def guide(request: Request, person: Person) -> HTMLResponse:
    site = site_of(request)
    text = markdown.in_language(_active(site).workflow.guide, _language(request, person))
    return page(request, "guide.html", person, entries=markdown.entries(text, link(request, "")))


def _about(site: Site, request: Request, person: Volunteer | None) -> list[Any]:
    """Return the team's own words about the campaign, from about.md in its folder: one part per ``---`` line."""
    language = _language(request, person)
    for name in (f"about.{language}.md", "about.md"):
        if language in {*LANGUAGES, *_active(site).workflow.languages} and (site.folder / name).is_file():
            text = (site.folder / name).read_text(encoding="utf-8-sig", errors="replace")
            return list(markdown.steps(text, link(request, "")))
    return []


def simulated(site: Site) -> bool:
    """Whether the campaign's galaxies are simulated: whoever looks at them is told."""
    return (site.folder / TRUTH).is_file()


def _active(site: Site) -> Version:
    return site.store.workflows.active()


def _language(request: Request, person: Volunteer | None) -> str:
    return chosen_language(request, person, _active(site_of(request)).workflow.languages)


@router.get("/pictures/{name:path}")
def pictures(request: Request, name: str) -> Response:
    """Show a file of the campaign's folder: only one that the workflow's texts name."""
    site = site_of(request)
    if name in _named(site):
        folder = site.folder.resolve()
        file = (folder / name).resolve()
        kind = PICTURES.get(file.suffix.lower())
        if kind is not None and file.is_relative_to(folder) and file.is_file():
            return FileResponse(file, media_type=kind, headers={"Cache-Control": "public, max-age=3600"})
    raise HTTPException(404, "There is no such picture.")


def _named(site: Site) -> set[str]:
    """Return the files of the campaign's folder that the active workflow or the about page shows."""
    workflow = _active(site).workflow
    examples = {name for question in workflow.tree.questions for answer in question.answers for name in answer.examples}
    helps = [answer.help for question in workflow.tree.questions for answer in question.answers]
    helps += [question.help for question in workflow.tree.questions]
    texts = [text for by_language in (workflow.tutorial, workflow.guide, *helps) for text in by_language.values()]
    texts += [file.read_text(encoding="utf-8-sig", errors="replace") for file in site.folder.glob("about*.md")]
    return {name for name in examples if markdown.is_file(name)}.union(*map(markdown.pictures_in, texts))


# ---- choices kept in a cookie ------------------------------------------------------------------------


@router.post("/theme", dependencies=[Depends(protected)])
def theme(request: Request, theme: Annotated[str, Form()], back: Annotated[str, Form()] = "/") -> Response:
    return _remember(request, "theme", "light" if theme == "light" else "dark", back)


@router.post("/language", dependencies=[Depends(protected)])
def language(request: Request, language: Annotated[str, Form()], back: Annotated[str, Form()] = "/") -> Response:
    known = {*LANGUAGES, *_active(site_of(request)).workflow.languages}
    return _remember(request, "language", language if language in known else "en", back)


def _remember(request: Request, key: str, value: str, back: str) -> Response:
    identity.set_cookie(request, key, value, YEAR)
    return RedirectResponse(link(request, identity.own_path(back)), status_code=303)


# ---- the classify page ---------------------------------------------------------------------------------


@router.get("/classify")
def classify(request: Request, person: Person) -> HTMLResponse:
    site = site_of(request)
    version, language = _active(site), _language(request, person)
    workflow, base = version.workflow, link(request, "")
    return page(
        request,
        "classify.html",
        person,
        version=version,
        questions=[shown(workflow.tree, question.slug, language, base) for question in workflow.tree.questions],
        steps=markdown.steps(markdown.in_language(workflow.tutorial, language), base),
        entries=markdown.entries(markdown.in_language(workflow.guide, language), base),
        config=_config(version, language, base, person),
        simulated=simulated(site),
    )


def _config(version: Version, language: str, base: str, person: Volunteer | None) -> dict[str, Any]:
    """Return what the script is told: where it is, the tree's ways, and its texts."""
    tree, t = version.workflow.tree, translator(language)
    return {
        "base": base,
        "language": language,
        "who": person.public if person else None,
        "anonymous": person is None or person.anonymous,
        "version": {"id": version.id, "number": version.number},
        "tree": {
            "first": tree.first,
            "questions": {
                question.slug: {
                    "kind": question.kind,
                    "next": question.next,
                    "answers": {answer.slug: answer.next for answer in question.answers},
                }
                for question in tree.questions
            },
        },
        "words": {words: t(words) for words in WORDS},
    }


def shown(tree: DecisionTree, slug: str, language: str, base: str) -> dict[str, Any]:
    """Return a question as templates show it, in one language."""
    question = tree[slug]
    return {
        "slug": slug,
        "kind": question.kind,
        "text": question.label(language),
        "help": markdown.render(markdown.in_language(question.help, language), base),
        "answers": [
            {
                "slug": answer.slug,
                "text": answer.label(language),
                "help": markdown.render(markdown.in_language(answer.help, language), base),
                "pictures": [markdown.picture(name, base) for name in answer.examples if markdown.is_file(name)],
                "links": [name for name in answer.examples if name.startswith(("https://", "http://"))],
            }
            for answer in question.answers
        ],
    }


# ---- the form that works without JavaScript --------------------------------------------------------------


@router.get("/classify/form")
def form(request: Request, someone: Someone) -> HTMLResponse:
    return _fresh(request, someone)


@router.post("/classify/form", dependencies=[Depends(protected)])
async def step(request: Request, someone: Someone) -> HTMLResponse:
    """Take one step: answer, go back, point out as unusual, or undo. All that is needed stands in the form's fields."""
    sent = await request.form()
    fields = {name: [str(value) for value in sent.getlist(name)] for name in sent}
    try:
        version = await run_in_threadpool(_version, site_of(request), fields)
        under_way = passes.read(version.workflow.tree, fields)
        if fields.get("action") != ["answer"] and "action" in fields:
            return await run_in_threadpool(_aside, request, someone, version, under_way, fields)
        return await _answered(request, someone, version, under_way, fields.get("answer", []))
    except GreenpeaError as error:
        t = translator(_language(request, someone))
        words = f"{t('This could not be taken:')} {error}"
        return await run_in_threadpool(_fresh, request, someone, error=words, status=422)


def _version(site: Site, fields: Mapping[str, Sequence[str]]) -> Version:
    """Return the workflow's version that the form's ticket was made for."""
    return site.store.workflows.get(tickets.read(site, fields.get("ticket", [""])[0]).version)


async def _answered(
    request: Request, someone: Volunteer, version: Version, under_way: Pass, given: Sequence[str]
) -> HTMLResponse:
    """Go on to the next question; after the last, store the classification and show the next subject."""
    t = translator(_language(request, someone))
    tree = version.workflow.tree
    if tree[under_way.at].kind == "single" and len(given) != 1:
        again = partial(_question, error=t("Choose one of the answers."))
        return await run_in_threadpool(again, request, someone, version, under_way)
    done = under_way.answer(tree, given)
    if done.at:
        return await run_in_threadpool(_question, request, someone, version, done)
    receipt = await take(site_of(request), _new(done, request))
    return await run_in_threadpool(_fresh, request, someone, **_thanks(request, someone, version, done, receipt))


def _new(done: Pass, request: Request) -> NewClassification:
    now = site_of(request).clock()
    values = {"uuid": done.uuid, "ticket": done.ticket, "annotations": done.annotations, "finished_at": now}
    metadata = {"page": "form"}
    try:
        return NewClassification.model_validate({**values, "started_at": done.started_at, "metadata": metadata})
    except ValidationError:  # the time is a field like any other: a classification is not lost for it
        return NewClassification.model_validate({**values, "metadata": metadata})


def _thanks(request: Request, someone: Volunteer, version: Version, done: Pass, receipt: Receipt) -> dict[str, Any]:
    """Return what the page after a classification says of it: feedback where the answer was known, and undo."""
    language = _language(request, someone)
    t = translator(language)
    known = receipt.gold and feedback(version.workflow, done.annotations, receipt.gold, language)
    notice = None if known else t("Thank you! Your classification is stored.")
    return {
        "notice": notice,
        "judged": known and judged(version.workflow.tree, known, done, language),
        "previous": done,
    }


def judged(tree: DecisionTree, known: Mapping[str, Any], done: Pass, language: str) -> dict[str, Any]:
    """Return feedback in words: each known question with the known answers and the volunteer's."""

    def words(question: str, answers: Sequence[str]) -> str:
        return ", ".join(tree[question].answer(slug).label(language) for slug in answers)

    rows = [
        (tree[slug].label(language), words(slug, answers), words(slug, done.answers.get(slug, ())))
        for slug, answers in known["known"].items()
        if slug in tree
    ]
    return {"right": known["right"], "text": known["text"], "rows": rows}


def _aside(
    request: Request, someone: Volunteer, version: Version, under_way: Pass, fields: Mapping[str, Sequence[str]]
) -> HTMLResponse:
    """Do what is not an answer: go back, take the last classification back, or point out as unusual."""
    t = translator(_language(request, someone))
    match fields["action"][0]:
        case "back":
            return _question(request, someone, version, under_way.back(version.workflow.tree))
        case "undo":
            return _undone(request, someone, fields)
        case "unusual":
            _flag(site_of(request), fields)
            return _question(request, someone, version, under_way, notice=t("Thank you! The team will look at it."))
    raise GreenpeaError("the form knows answer, back, undo and unusual: use its buttons")


def _undone(request: Request, someone: Volunteer, fields: Mapping[str, Sequence[str]]) -> HTMLResponse:
    """Take the last classification back and show its subject again, from the first question on."""
    site = site_of(request)
    ticket = fields.get("previous_ticket", [""])[0]
    before = tickets.read(site, ticket)
    site.store.classifications.undo(_uuid(fields, "previous_uuid"), before.volunteer, site.clock())
    version = site.store.workflows.get(before.version)
    again = Pass(ticket, str(uuid4()), site.clock().isoformat(), version.workflow.tree.first)
    t = translator(_language(request, someone))
    notice = t("Your last classification is taken back. You can answer again.")
    return _question(request, someone, version, again, notice=notice)


def _flag(site: Site, fields: Mapping[str, Sequence[str]]) -> None:
    ticket, comment = fields["ticket"][0], fields.get("comment", [""])[0].strip()
    try:
        find = NewFind(uuid=UUID(_uuid(fields, "find_uuid")), ticket=ticket, comment=comment)
    except ValidationError as error:
        raise GreenpeaError("a comment has at most 2000 characters: shorten it") from error
    at = tickets.read(site, ticket)
    site.store.finds.flag(str(find.uuid), at.volunteer, at.subject, find.comment, site.clock())


def _uuid(fields: Mapping[str, Sequence[str]], name: str) -> str:
    try:
        return str(UUID(fields.get(name, [""])[0]))
    except ValueError as error:
        raise GreenpeaError("the form's number is not a UUID: begin again") from error


def _fresh(request: Request, someone: Volunteer, status: int = 200, **values: Any) -> HTMLResponse:
    """Show the next subject's first question, or say that there is none. Raises 403 for a banned volunteer."""
    if someone.banned_at:
        raise HTTPException(403, identity.BANNED)
    site = site_of(request)
    handout, left_out = _next_with_picture(request, someone)
    if handout is None:
        values = {"notice": None, "error": None, "judged": None, "previous": None} | values
        return page(request, "form.html", someone, status, question=None, left_out=left_out, **values)
    version = site.store.workflows.get(handout.version)
    ticket = tickets.make(site, handout)
    begun = Pass(ticket, str(uuid4()), site.clock().isoformat(), version.workflow.tree.first)
    return _question(request, someone, version, begun, status, **values)


def _next_with_picture(request: Request, someone: Volunteer) -> tuple[HandOut | None, int]:
    """Return the next subject of which something can be seen, and how many were passed over for want of a picture."""
    site = site_of(request)
    left_out: list[int] = []
    while len(left_out) < MOST_LEFT_OUT:
        # The form holds nothing but what it shows: an image left unanswered comes again before another.
        handouts = site.store.queue.next(someone.id, 1, site.clock(), holding=left_out)
        if not handouts:
            break
        if _can_be_seen(request, handouts[0].subject):
            return handouts[0], len(left_out)
        left_out.append(handouts[0].id)
    return None, len(left_out)


def _can_be_seen(request: Request, subject: Subject) -> bool:
    """Whether at least one picture of a subject can be shown."""
    pictures = pictures_of(request, site_of(request))
    for index in range(len(subject.images)):
        if pictures.kept(subject.id, index):
            return True
        with contextlib.suppress(NoPicture):
            pictures.get(subject, index)
            return True
    return False


def _question(
    request: Request, someone: Volunteer, version: Version, under_way: Pass, status: int = 200, **values: Any
) -> HTMLResponse:
    """Show the question a pass has come to, with the subject's pictures."""
    site, tree = site_of(request), version.workflow.tree
    number = tickets.read(site, under_way.ticket).subject
    subject = site.store.subjects.by_number(number)
    if subject is None:
        raise GreenpeaError("the subject of this form is not here any more: go on with another")
    defaults = {"notice": None, "error": None, "judged": None, "previous": None}
    return page(
        request,
        "form.html",
        someone,
        status,
        question=shown(tree, under_way.at, _language(request, someone), link(request, "")),
        under_way=under_way,
        path=under_way.path(tree),
        subject=subject,
        find_uuid=str(uuid4()),
        simulated=simulated(site),
        **(defaults | values),
    )
