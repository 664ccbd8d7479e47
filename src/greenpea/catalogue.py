"""The catalogue: a posterior as one Parquet table, each column with its unit and meaning; and its draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from greenpea import information
from greenpea.posterior import Posterior

LEVELS = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
MOST_DRAWN = 100_000  # subjects that the long table of draws is for


def table(
    posterior: Posterior,
    metadata: pa.Table,
    votes: int,
    information_votes: int,
    rng: np.random.Generator,
) -> pa.Table:
    """Return the catalogue of some subjects; ``metadata`` are their own columns, in the same order.

    Per answer the mean vote fraction and its 5, 50 and 95 % quantiles (of the mixture over draws); per
    question reach and the votes expected when ``votes`` volunteers are asked; the information, in nats, that
    ``information_votes`` more volunteers would bring; the distance in embedding space.
    """
    names = set()
    columns: list[tuple[pa.Field, pa.Array]] = []

    def add(name: str, values: np.ndarray, unit: str, description: str) -> None:
        names.add(name)
        field = pa.field(name, pa.float32(), metadata={"unit": unit, "description": description})
        columns.append((field, pa.array(np.asarray(values, np.float32), pa.float32())))

    reach = {slug: share.mean(axis=0) for slug, share in posterior.reach().items()}
    for question in posterior.tree.questions:
        slug, asks = question.slug, question.label()
        mean, quantiles = posterior.mean(slug), posterior.quantile(slug, list(LEVELS.values()), tolerance=1e-4)
        for index, answer in enumerate(question.answers):
            said = f"volunteers asked “{asks}” who answer “{answer.label()}”"
            add(f"{slug}_{answer.slug}_fraction", mean[:, index], "1", f"Expected share of {said}")
            for number, (name, level) in enumerate(LEVELS.items()):
                words = f"{level * 100:g} % quantile of the share of {said}"
                add(f"{slug}_{answer.slug}_{name}", quantiles[number, :, index], "1", words)
        add(f"{slug}_reach", reach[slug], "1", f"Expected share of volunteers who are asked “{asks}”")
        words = f"Volunteers expected to answer “{asks}” when {votes} classify the subject"
        add(f"{slug}_expected_votes", votes * reach[slug], "", words)
    learned = information.of_tree(posterior, information_votes, rng)
    words = f"What {information_votes} more volunteers would teach about the network's weights (mutual information)"
    add("information", learned.value, "nat", words)
    add("information_error", learned.error, "nat", "Standard error of the information, from its simulation")
    if posterior.distance is not None:
        words = "Distance from the training subjects in embedding space; 1: typical of validation subjects"
        add("embedding_distance", posterior.distance, "1", words)
    return _join(posterior.subject_ids, metadata, columns, names)


def _join(
    subject_ids: np.ndarray, metadata: pa.Table, columns: list[tuple[pa.Field, pa.Array]], names: set[str]
) -> pa.Table:
    """Put the id first, then the subject's own columns, then what was predicted; a clash renames the former."""
    field = pa.field("subject_id", pa.string(), metadata={"unit": "", "description": "The subject's identifier"})
    fields, arrays = [field], [pa.array(subject_ids, pa.string())]
    taken = names | {"subject_id"}
    for own in metadata.schema:
        name = own.name
        while name in taken:
            name = f"subject_{name}"
        taken.add(name)
        note = {"unit": "", "description": "Carried along from the table of subjects"}
        fields.append(own.with_name(name).with_metadata(note))
        arrays.append(metadata[own.name].combine_chunks())
    fields += [field for field, _ in columns]
    arrays += [array for _, array in columns]
    return pa.table(arrays, schema=pa.schema(fields))


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


class Writer:
    """A Parquet file that grows table by table; its schema is the first table's, with `about` in its metadata."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path, self.about, self.rows = path, about, 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            metadata = dict(table.schema.metadata or {}) | self.about
            self.schema = table.schema.with_metadata(metadata)
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        self.writer.write_table(table.replace_schema_metadata(self.schema.metadata))
        self.rows += len(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
