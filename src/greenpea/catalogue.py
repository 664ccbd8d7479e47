"""The catalogue: a posterior as one Parquet table, each column with its unit and meaning; and its draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from greenpea import doubts, information, selections
from greenpea.measurements import MeasurementPosterior
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree, Question
from greenpea.votes import Votes

LEVELS = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
MOST_DRAWN = 100_000  # subjects that the long table of draws is for
_FLOAT = pa.float32()


def table(
    posterior: Posterior,
    metadata: pa.Table,
    votes: int,
    information_votes: int,
    rng: np.random.Generator,
    cast: Votes | None = None,
    combined: Posterior | None = None,
    doubt_votes: int = 0,
) -> pa.Table:
    """Return the catalogue of some subjects; ``metadata`` are their own columns, in the same order.

    Per answer the mean vote fraction and its 5, 50 and 95 % quantiles (of the mixture over draws); per
    question reach and the votes expected when ``votes`` volunteers are asked; the information, in nats, that
    ``information_votes`` more volunteers would bring; the distance in embedding space; and, per question, the kinds of
    doubt about the answers of ``doubt_votes`` volunteers (`doubts`), none where 0. All this is the network's alone. The
    votes ``cast`` so far add the counts alone; ``combined``, the posterior given image and those votes
    (`combining.combine`), adds fraction, quantiles and reach again, named ``combined``, and the effective number
    of draws. All are of the same subjects, in the same order.
    """
    network, reach = _Columns(), _reach(posterior)
    for question in posterior.tree.questions:
        _tell(network, posterior, question, reach[question.slug], _NETWORK)
        words = f"Volunteers expected to answer “{question.label()}” when {votes} classify the subject"
        network.add(
            f"{question.slug}_expected_votes", votes * reach[question.slug], "", words, ucd="meta.number;stat.mean"
        )
    learned = information.of_tree(posterior, information_votes, rng)
    words = f"What {information_votes} more volunteers would teach about the network's weights (mutual information)"
    network.add("information", learned.value, "nat", words)
    words = "Standard error of the information, from its simulation"
    network.add("information_error", learned.error, "nat", words, ucd="stat.error;stat.param")
    if posterior.distance is not None:
        words = "Distance from the training subjects in embedding space; 1: typical of validation subjects"
        network.add("embedding_distance", posterior.distance, "1", words)
    if doubt_votes:
        _tell_doubt(network, posterior, doubt_votes, rng)
    parts = [network]
    if cast is not None:
        parts.append(_votes_alone(cast))
    if combined is not None:
        parts.append(_together(combined))
    return _join(posterior.subject_ids, metadata, [column for part in parts for column in part])


def measurements(posterior: MeasurementPosterior, metadata: pa.Table) -> pa.Table:
    """Return the catalogue of measurements; ``metadata`` are the subjects' own columns, in the same order.

    Per target its mean and 5, 50 and 95 % quantiles (of the mixture over draws), and the standard deviations of the
    noise and of the means of the draws, all in the target's unit; the distance in embedding space.
    """
    columns, mean, spread = _Columns(), posterior.mean(), posterior.variance()
    quantiles = posterior.quantile(list(LEVELS.values()))
    for place, (target, unit) in enumerate(zip(posterior.targets, posterior.units, strict=True)):
        columns.add(f"{target}_mean", mean[:, place], unit, f"Expected {target}", ucd="stat.mean")
        for number, (short, level) in enumerate(LEVELS.items()):
            columns.add(
                f"{target}_{short}", quantiles[number, :, place], unit, f"{level * 100:g} % quantile of {target}"
            )
        words = f"Standard deviation of the noise of {target}: what more training leaves"
        columns.add(f"{target}_noise", np.sqrt(spread.within[:, place]), unit, words, ucd="stat.stdev")
        words = f"Standard deviation of {target} between draws of the weights: what more training takes away"
        columns.add(f"{target}_doubt", np.sqrt(spread.between[:, place]), unit, words, ucd="stat.stdev")
    if posterior.distance is not None:
        words = "Distance from the training subjects in embedding space; 1: typical of validation subjects"
        columns.add("embedding_distance", posterior.distance, "1", words)
    return _join(posterior.subject_ids, metadata, columns)


class _Columns(list[tuple[pa.Field, pa.Array]]):
    """Columns to be, each with its unit, what it means, and the IVOA's word for that (UCD1+)."""

    def add(
        self,
        name: str,
        values: np.ndarray,
        unit: str,
        description: str,
        kind: pa.DataType = _FLOAT,
        ucd: str = "stat.param",
    ) -> None:
        field = pa.field(name, kind, metadata={"unit": unit, "description": description, "ucd": ucd})
        self.append((field, pa.array(np.asarray(values).astype(kind.to_pandas_dtype()), kind)))


class _Source(NamedTuple):
    """Whose word a column is: a part of its name, and of its description."""

    name: str
    words: str


_NETWORK = _Source("", "")
_COMBINED = _Source("combined_", ", given image and votes")


def _reach(posterior: Posterior) -> dict[str, Float[np.ndarray, " subject"]]:
    return {slug: posterior.average(share) for slug, share in posterior.reach().items()}


def _tell_doubt(columns: _Columns, posterior: Posterior, votes: int, rng: np.random.Generator) -> None:
    """Add the three kinds of doubt of every question, and their error where they were simulated."""
    for question in posterior.tree.questions:
        found = doubts.of_question(posterior, question.slug, votes, rng)
        about = f"Of the entropy of {votes} answers to “{question.label()}”, "
        kinds = {
            "weights": "what is unknown of the network's weights",
            "opinion": "what the image leaves open: spread of opinion",
            "voting": "the noise of few volunteers",
        }
        for kind, words in kinds.items():
            columns.add(f"{question.slug}_doubt_{kind}", getattr(found, kind), "nat", about + words)
        if not doubts.is_exact(question, votes):
            words = f"Standard error of {question.slug}_doubt_weights, from its simulation"
            columns.add(f"{question.slug}_doubt_error", found.error, "nat", words, ucd="stat.error;stat.param")


def _tell(
    columns: _Columns,
    posterior: Posterior,
    question: Question,
    reach: Float[np.ndarray, " subject"],
    source: _Source,
) -> None:
    """Add fraction and quantiles of every answer, and the reach, of one question."""
    slug, asks, (name, given) = question.slug, question.label(), source
    mean, quantiles = posterior.mean(slug), posterior.quantile(slug, list(LEVELS.values()), tolerance=1e-4)
    for index, answer in enumerate(question.answers):
        said = f"volunteers asked “{asks}” who answer “{answer.label()}”{given}"
        words = f"Expected share of {said}"
        columns.add(f"{slug}_{answer.slug}_{name}fraction", mean[:, index], "1", words, ucd="src.morph.param;stat.mean")
        for number, (short, level) in enumerate(LEVELS.items()):
            words, ucd = f"{level * 100:g} % quantile of the share of {said}", "src.morph.param;stat.percentile"
            columns.add(f"{slug}_{answer.slug}_{name}{short}", quantiles[number, :, index], "1", words, ucd=ucd)
    words = f"Expected share of volunteers who are asked “{asks}”{given}"
    columns.add(f"{slug}_{name}reach", reach, "1", words, ucd="stat.probability")


def _votes_alone(votes: Votes) -> _Columns:
    columns = _Columns()
    for question in votes.tree.questions:
        slug, asks = question.slug, question.label()
        for index, answer in enumerate(question.answers):
            words = f"Votes so far: volunteers who answered “{answer.label()}” to “{asks}”"
            columns.add(
                f"{slug}_{answer.slug}_count", votes.counts[slug][:, index], "", words, pa.int32(), "meta.number"
            )
        words = f"Votes so far: volunteers who answered “{asks}”"
        columns.add(f"{slug}_reached", votes.reached[slug], "", words, pa.int32(), "meta.number")
    return columns


def _together(combined: Posterior) -> _Columns:
    columns, reach = _Columns(), _reach(combined)
    for question in combined.tree.questions:
        _tell(columns, combined, question, reach[question.slug], _COMBINED)
    words = f"Draws of the network, of {combined.draws}, that still speak once the votes are known (1 / Σ weight²)"
    columns.add("effective_draws", combined.effective_draws, "", words, ucd="meta.number")
    return columns


def _join(subject_ids: np.ndarray, metadata: pa.Table, columns: list[tuple[pa.Field, pa.Array]]) -> pa.Table:
    """Put the id first, then the subject's own columns, then what was predicted; a clash renames the former."""
    told = {"unit": "", "description": "The subject's identifier", "ucd": "meta.id;meta.main"}
    field = pa.field("subject_id", pa.string(), metadata=told)
    fields, arrays = [field], [pa.array(subject_ids, pa.string())]
    taken = {"subject_id", *(field.name for field, _ in columns)}
    for own in metadata.schema:
        name = own.name
        while name in taken:
            name = f"subject_{name}"
        taken.add(name)
        fields.append(own.with_name(name).with_metadata(_note(own)))
        arrays.append(metadata[own.name].combine_chunks())
    fields += [field for field, _ in columns]
    arrays += [array for _, array in columns]
    return pa.table(arrays, schema=pa.schema(fields))


# What astronomers' own columns usually are: (unit, UCD).
USUAL = {
    "ra": ("deg", "pos.eq.ra;meta.main"),
    "dec": ("deg", "pos.eq.dec;meta.main"),
    "redshift": ("1", "src.redshift"),
}


def _note(own: pa.Field) -> dict[str, str]:
    """Return unit, meaning and UCD of a column of the table of subjects: its own, else what its name usually means."""
    known = {key.decode(): value.decode() for key, value in (own.metadata or {}).items()}
    said = {key: known[key] for key in ("unit", "description", "ucd") if known.get(key)}
    note = {"unit": "", "description": "Carried along from the table of subjects", "ucd": "meta"}
    usual = USUAL.get(own.name.lower())
    if usual and "unit" not in said and pa.types.is_floating(own.type):
        unit, ucd = usual
        note |= {"unit": unit, "ucd": ucd}
        note["description"] += f", taken to be in {unit} by its name" if unit != "1" else ""
    return note | said


def about(tree: DecisionTree, votes: int) -> dict[str, str]:
    """Return what every catalogue says of itself: who made it, the tree, the selections recommended on it.

    Without dates: the same catalogue has the same bytes.
    """
    return {
        "greenpea.version": version("greenpea"),
        "greenpea.tree": tree.to_json(),
        "greenpea.selections": selections.to_json(selections.recommended(tree, votes)),
    }


def draws_schema(posterior: Posterior) -> pa.Schema:
    """Return the schema of the long table of draws, with what its parameters mean.

    Metadata ``likelihood``: ``dirichlet-multinomial`` (concentrations) or ``multinomial`` (fractions);
    ``answers``: JSON {question: [answer, …]}, the order of the parameters; ``families``: JSON {question:
    family}. A beta-binomial question's parameters are α of every answer, then β of every answer, named "not-…".
    """
    single = [q.slug for q in posterior.tree.questions if q.kind == "single"]
    families = dict(posterior.families)
    spread = set(families.values()) & {"dirichlet-multinomial", "beta-binomial"}
    likelihood = families[single[0]] if single else ("dirichlet-multinomial" if spread else "multinomial")
    return pa.schema(
        [
            pa.field("subject_id", pa.string()),
            pa.field("question", pa.string()),
            pa.field("draw", pa.int32()),
            pa.field("parameters", pa.list_(pa.float32())),
        ],
        metadata={
            "likelihood": likelihood,
            "answers": json.dumps({slug: _named(posterior, slug) for slug in posterior.tree.slugs}),
            "families": json.dumps(families),
        },
    )


def _named(posterior: Posterior, slug: str) -> list[str]:
    answers = posterior.tree[slug].answer_slugs
    misses = [f"not-{answer}" for answer in answers] if posterior.families[slug] == "beta-binomial" else []
    return [*answers, *misses]


def draws_tables(posterior: Posterior) -> Iterator[pa.Table]:
    """Yield the draws as long tables, one per question: a row per subject and draw."""
    schema = draws_schema(posterior)
    for slug in posterior.tree.slugs:
        values = _listed(posterior, slug)
        subjects, draws, length = values.shape
        yield pa.table(
            [
                pa.array(np.repeat(posterior.subject_ids, draws), pa.string()),
                pa.array([slug], pa.string()).take(pa.array(np.zeros(subjects * draws, np.int32))),
                pa.array(np.tile(np.arange(draws, dtype=np.int32), subjects)),
                pa.ListArray.from_arrays(
                    pa.array(np.arange(0, subjects * draws * length + 1, length, dtype=np.int32)),
                    pa.array(values.reshape(-1)),
                ),
            ],
            schema=schema,
        )


def _listed(posterior: Posterior, slug: str) -> Float[np.ndarray, "subject draw parameter"]:
    values = np.asarray(posterior.parameters[slug], np.float32)
    if posterior.families[slug] == "beta-binomial":
        values = np.concatenate([values[..., 0], values[..., 1]], axis=-1)
    return np.ascontiguousarray(values.transpose(1, 0, 2))


def described(schema: pa.Schema, about: dict[str, str]) -> pa.Schema:
    """Return a catalogue's schema with what it says of itself, and that again as readers of VOTables have it."""
    from greenpea import converting  # astropy is slow to import, and those who describe do without

    schema = schema.with_metadata(dict(schema.metadata or {}) | about)
    return schema.with_metadata({**schema.metadata, **converting.voparquet(schema)}) if about else schema


class Writer:
    """A Parquet file that grows table by table; its schema is the first table's, with `about` in its metadata."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path, self.about, self.rows = path, about, 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            self.schema = described(table.schema, self.about)
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        self.writer.write_table(table.replace_schema_metadata(self.schema.metadata))
        self.rows += len(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
