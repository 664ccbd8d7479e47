"""A release: the folder one would upload for a DOI, from a campaign that has a model and votes to judge it by.

::

    README.md           what is what, how to open it, how to cite it
    catalogue.parquet   the catalogue; catalogue.fits: the same
    subjects.csv        the role of each subject, and whether the model has learned from it
    votes.parquet       volunteers' counts, as the settings say
    data-card.md        where the numbers come from, and what they are not
    model-card.md       what made them, how far to believe it; figures/
    evaluation.json     every score; report.html: the same to look at
    checkpoint/         the model: safetensors and JSON
    workflow.json       the questions; campaign.toml: the settings
    CITATION.cff SHA256SUMS
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Bool
from matplotlib.figure import Figure

from greenpea import catalogue as catalogues
from greenpea import converting, plots, selections
from greenpea import report as reports
from greenpea.calibration import reliability
from greenpea.campaign import ROLES, SETTINGS, WORKFLOW, Campaign, Judged, write_report
from greenpea.errors import GreenpeaError
from greenpea.files import replacing, sha256
from greenpea.learning import checkpoint
from greenpea.learning.model import Report, silent
from greenpea.settings import Release
from greenpea.votes import about_votes

CATALOGUE, SUMS = "catalogue.parquet", "SHA256SUMS"
CARDS = {"README.md": "release-readme.md", "data-card.md": "release-data.md", "model-card.md": "release-model.md"}
FEWEST = reports.FEWEST  # subjects with votes never seen, below which no verdict means anything


@dataclass(frozen=True)
class Released:
    """What `release` wrote."""

    folder: Path
    subjects: int
    files: tuple[str, ...]  # as seen from the folder


def missing(campaign: Campaign, run: Path | None = None) -> list[str]:
    """Return, each with its remedy, what has to be there before a catalogue is published."""
    chosen, found = campaign.settings.release, []
    where = campaign.folder / SETTINGS
    if not chosen.title:
        found.append(f'a title: write title = "…" under [release] in {where}')
    if not chosen.authors:
        found.append(f'authors: write authors = ["Family, Given", …] under [release] in {where}')
    if not chosen.licence:
        found.append(f'a licence: write licence = "CC-BY-4.0", or another of SPDX, under [release] in {where}')
    if run is None and not campaign.runs:
        return [*found, f"a model: run 'greenpea train {campaign.folder}'"]
    judges = _judges(campaign, run or campaign.runs[-1])
    if judges < FEWEST:
        found.append(
            f"votes that the model has never seen, to judge it by: {judges} subjects have any, and it takes {FEWEST}. "
            f"Gather votes on test and audit subjects, or raise split.test and train anew"
        )
    return found


def _judges(campaign: Campaign, run: Path) -> int:
    """Return how many subjects have votes that the model has not learned from."""
    seen = json.loads((run / checkpoint.SUBJECTS).read_text(encoding="utf-8"))
    voted = campaign.subjects.subject_ids[campaign.votes.total > 0]
    return int((~np.isin(voted.astype(str), seen)).sum())


def release(
    campaign: Campaign,
    out: str | Path,
    today: date,
    catalogue: str | Path | None = None,
    run: str | Path | None = None,
    report: Report = silent,
) -> Released:
    """Write the folder to publish, whole or not at all.

    By default all subjects are predicted by the newest model, or the one in ``run``; ``catalogue`` is one that it
    has written before. Raises GreenpeaError, naming all that is missing at once, and where ``out`` is not empty or
    ``catalogue`` is another model's.
    """
    out, run = Path(out), None if run is None else Path(run)
    if lacks := missing(campaign, run):
        raise GreenpeaError("this campaign cannot be published yet. It lacks\n- " + "\n- ".join(lacks))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GreenpeaError(f"{out} is there already and is not empty: give --out the name of a new folder")
    run = run or campaign.runs[-1]
    with replacing(out) as folder:
        folder.mkdir()
        _write_catalogue(campaign, folder, run, catalogue, report)
        judged = campaign.evaluate(model=run, report=report)
        _write_evaluation(campaign, judged, folder, report)
        _write_sources(campaign, folder, run, judged.model.learned_from)
        _write_cards(campaign, judged, folder, today)
        files = tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
        lines = [f"{sha256(folder / name)}  {name}" for name in files]
        (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = pq.read_metadata(folder / CATALOGUE).num_rows
    return Released(out, rows, (*files, SUMS))


# ---- files -------------------------------------------------------------------------------------------


def _write_catalogue(campaign: Campaign, folder: Path, run: Path, catalogue: str | Path | None, report: Report) -> None:
    whole = folder / "whole.parquet"
    if catalogue is None:
        campaign.predict(folder / CATALOGUE, model=run, report=report)
        (folder / CATALOGUE).rename(whole)
    source = converting.Catalogue.open(catalogue or whole)
    _take(source, folder / CATALOGUE, checkpoint.facts(run)["fingerprint"], _withheld(campaign, source.schema.names))
    whole.unlink(missing_ok=True)
    fits = folder / CATALOGUE.replace(".parquet", ".fits")
    converting.convert(
        folder / CATALOGUE, fits, lambda done, rows: report("FITS", done / rows, f"{done:,} of {rows:,}")
    )


def _withheld(campaign: Campaign, names: Sequence[str]) -> list[str]:
    """Return the columns of a catalogue that came along from the table of subjects and hold votes, unless all votes are
    published: the judges' stand there too."""
    if campaign.settings.release.votes == "all":
        return []
    own = about_votes(campaign.subjects.metadata.column_names, campaign.tree)
    return [clash if (clash := f"subject_{name}") in names else name for name in own]  # as catalogues rename them


def _take(source: converting.Catalogue, out: Path, model: str, without: Sequence[str]) -> None:
    """Copy a catalogue, but for some columns to one file. Raises GreenpeaError where another model made it."""
    if source.about.get("model") != model:
        raise GreenpeaError(
            f"{source.parts[0]} was made by the model {source.about.get('model', 'of another program')[:12]}, and "
            f"the one that is judged is {model[:12]}: predict again, or name its run with --model"
        )
    kept = [name for name in source.schema.names if name not in without]
    writer = catalogues.Writer(out, {f"{converting.ABOUT}{key}": value for key, value in source.about.items()})
    for block in source.blocks(kept):
        writer.write(block.replace_schema_metadata())
    writer.close()


def _write_evaluation(campaign: Campaign, judged: Judged, folder: Path, report: Report) -> None:
    report("report", 0.0, "")
    write_report(campaign, judged, folder / "report.html", folder / "evaluation.json")
    (folder / "figures").mkdir()
    for name, figure in figures(judged).items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=150, facecolor="white")


def figures(judged: Judged) -> dict[str, Figure]:
    """Return what a model card shows: scores by question, and coverage, reliability and PIT of all questions."""
    evaluation = judged.evaluation
    predicted, observed, pit, ranks = (
        np.concatenate([values.ravel() for values in part.values()])
        for part in (evaluation.predicted, evaluation.observed, evaluation.pit, evaluation.ranks)
    )
    return {
        "scores": plots.excess(evaluation.scores),
        "coverage": plots.coverage(ranks, "coverage, all questions"),
        "reliability": plots.reliability(reliability(predicted, observed), "reliability, all questions"),
        "pit": plots.pit(predicted, pit, "PIT, all questions"),
    }


def _write_sources(campaign: Campaign, folder: Path, run: Path, seen: tuple[str, ...]) -> None:
    """Copy what the catalogue was made of: model, questions, settings; and the votes that may be published."""
    (folder / "checkpoint").mkdir()
    for name in (checkpoint.NUMBERS, checkpoint.FACTS, checkpoint.SUBJECTS):
        shutil.copyfile(run / name, folder / "checkpoint" / name)
    shutil.copyfile(campaign.folder / WORKFLOW, folder / WORKFLOW)
    (folder / SETTINGS).write_text(campaign.settings.to_toml(), encoding="utf-8")
    who = {
        "subject_id": pa.array(campaign.subjects.subject_ids, pa.string()),
        "role": pa.array(campaign.roles.astype(str), pa.string()),
        "learned_from": pa.array(_learned(campaign, seen)),
    }
    pa_csv.write_csv(pa.table(who), folder / "subjects.csv")
    rows = published(campaign, seen)
    if len(rows):
        pq.write_table(campaign.votes.select(rows).to_table(), folder / "votes.parquet", compression="zstd")


def _learned(campaign: Campaign, seen: tuple[str, ...]) -> Bool[np.ndarray, " subject"]:
    """Return which subjects the model has learned from, as it says itself: settings may have changed since."""
    return np.isin(campaign.subjects.subject_ids.astype(str), list(seen))


def published(campaign: Campaign, seen: tuple[str, ...]) -> np.ndarray:
    """Return the rows of the subjects whose votes are published."""
    voted = campaign.votes.total > 0
    chosen = {"all": voted, "learned": voted & _learned(campaign, seen), "none": np.zeros_like(voted)}
    return np.flatnonzero(chosen[campaign.settings.release.votes])


# ---- words -------------------------------------------------------------------------------------------


def _write_cards(campaign: Campaign, judged: Judged, folder: Path, today: date) -> None:
    environment = reports.templates().overlay(autoescape=False)
    environment.filters["cell"] = _cell
    words = _words(campaign, judged, folder, today)
    for name, template in CARDS.items():
        text = environment.get_template(template).render(words).rstrip()
        (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "CITATION.cff").write_text(citation_cff(campaign.settings.release, today), encoding="utf-8")


def _cell(text: object) -> str:
    """Return text that is one cell of a Markdown table, whatever stands in it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _words(campaign: Campaign, judged: Judged, folder: Path, today: date) -> Mapping[str, Any]:
    model, votes, tree = judged.model, campaign.votes, campaign.tree
    voted = votes.total > 0
    schema = pq.read_schema(folder / CATALOGUE)
    unreadable = folder / "catalogue.unreadable.csv"
    return {
        "chosen": campaign.settings.release,
        "citation": campaign.settings.release.citation(),
        "today": today,
        "simulated": campaign.simulated,
        "tree": tree,
        "model": model,
        "fingerprint": model.fingerprint(),
        "facts": model.facts,
        "versions": checkpoint.versions(),
        "rows": pq.read_metadata(folder / CATALOGUE).num_rows,
        "columns": len(schema.names),
        "bytes": {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()},
        "unreadable": len(unreadable.read_text(encoding="utf-8").splitlines()) - 1 if unreadable.is_file() else 0,
        "subjects": len(campaign.subjects),
        "voted": int(voted.sum()),
        "replies": int(votes.total.sum()),
        "learned_replies": int(votes.total[_learned(campaign, model.learned_from)].sum()),
        "first_votes": _spread(votes.reached[tree.first][voted]),
        "roles": {role: _count(campaign, role) for role in ROLES},
        "published": len(published(campaign, model.learned_from)),
        "asked": {slug: int(votes.reached[slug].sum()) for slug in tree.slugs},
        "catalogue": campaign.settings.catalogue,
        "selections": [
            one for one in selections.recommended(tree, campaign.settings.catalogue.votes) if not one.answer
        ],
        "judged": judged,
        "headline": reports.headline(judged.evaluation),
        "scores": [(score, reports.verdict(score)) for score in judged.evaluation.scores],
    }


def _count(campaign: Campaign, role: str) -> tuple[int, int]:
    """Return how many subjects have a role, and how many of those have votes."""
    mask = campaign.roles == role
    return int(mask.sum()), int((mask & (campaign.votes.total > 0)).sum())


def _spread(counts: np.ndarray) -> dict[str, int]:
    """Return the smallest, the median and the largest of some numbers."""
    return {"least": int(counts.min()), "median": int(np.median(counts)), "most": int(counts.max())}


def citation_cff(chosen: Release, today: date) -> str:
    """Return a CITATION.cff (version 1.2.0) of the catalogue. Texts are quoted as JSON, which YAML reads."""
    lines = [
        "cff-version: 1.2.0",
        'message: "Please cite this catalogue, and the volunteers who classified."',
        "type: dataset",
    ]
    told = {
        "title": chosen.title,
        "version": chosen.version,
        "license": chosen.licence,
        "doi": chosen.doi,
        "url": chosen.url,
    }
    lines += [f"{key}: {_quoted(value)}" for key, value in told.items() if value]
    lines += [f"date-released: {today.isoformat()}", "authors:", *_authors(chosen)]
    lines += [
        "references:",
        "  - type: software",
        '    title: "Greenpea"',
        f"    version: {_quoted(checkpoint.versions()['greenpea'])}",
        "    license: BSD-3-Clause",
        '    authors: [{name: "The Greenpea developers"}]',
    ]
    return "\n".join(lines) + "\n"


def _authors(chosen: Release) -> Iterator[str]:
    for author in chosen.authors:
        family, comma, given = author.partition(",")
        if comma:
            yield f"  - family-names: {_quoted(family.strip())}"
            yield f"    given-names: {_quoted(given.strip())}"
        else:
            yield f"  - name: {_quoted(author.strip())}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
