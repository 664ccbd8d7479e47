"""The catalogue's table: whose word each column is, and that it says it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from greenpea.catalogue import table
from greenpea.combining import combine
from greenpea.posterior import Posterior
from greenpea.votes import Votes
from hands import galaxy_tree, random_posterior


@pytest.fixture(scope="module")
def network() -> Posterior:
    return random_posterior(galaxy_tree(), 6, 3, np.random.default_rng(1))


@pytest.fixture(scope="module")
def votes(network: Posterior) -> Votes:
    votes = Votes.empty(network.tree, list(network.subject_ids))
    votes.counts["smooth"][:2] = [[4, 0, 1], [1, 1, 0]]
    votes.reached["smooth"][:2] = [5, 2]
    votes.counts["rare"][0] = [3, 0]
    votes.reached["rare"][0] = 4
    return votes


def _table(network: Posterior, cast: Votes | None = None, combined: Posterior | None = None) -> pa.Table:
    own = pa.table({"ra": [1.0, 2.0, 3.0], "smooth_reach": ["x", "y", "z"]})
    return table(network, own, 40, 5, np.random.default_rng(0), cast, combined)


def test_votes_and_both_are_added_to_what_the_network_says(network: Posterior, votes: Votes) -> None:
    alone, told = _table(network), _table(network, votes, combine(network, votes))
    assert told.select(alone.column_names).equals(alone)
    added = set(told.column_names) - set(alone.column_names)
    assert "effective_draws" in added
    assert all("_combined_" in name or name.endswith(("_count", "_reached", "_draws")) for name in added)
    assert len(set(told.column_names)) == len(told.column_names)


def test_every_column_says_what_it_means(network: Posterior, votes: Votes) -> None:
    told = _table(network, votes, combine(network, votes))
    for field in told.schema:
        assert field.metadata[b"description"], field.name
        assert b"unit" in field.metadata, field.name
        if "_combined_" in field.name:
            assert "given image and votes" in field.metadata[b"description"].decode(), field.name
    meanings = [
        field.metadata[b"description"] for field in told.schema if field.name not in ("ra", "subject_smooth_reach")
    ]
    assert len(set(meanings)) == len(meanings)


def test_the_columns_hold_what_they_name(network: Posterior, votes: Votes) -> None:
    both = combine(network, votes)
    told = _table(network, votes, both)
    assert told["smooth_yes_count"].to_pylist() == [4, 1, 0]
    assert told["rare_ring_count"].to_pylist() == [3, 0, 0]
    assert told["rare_reached"].to_pylist() == [4, 0, 0]
    assert told.schema.field("rare_reached").type == pa.int32()
    columns = {name: told[name].to_numpy() for name in told.column_names}
    np.testing.assert_allclose(columns["smooth_no_combined_fraction"], both.mean("smooth")[:, 1], rtol=1e-6)
    np.testing.assert_allclose(columns["smooth_no_combined_p95"], both.quantile("smooth", 0.95)[0, :, 1], atol=2e-4)
    np.testing.assert_allclose(columns["bar_combined_reach"], both.average(both.reach()["bar"]), rtol=1e-6)
    np.testing.assert_allclose(columns["effective_draws"], both.effective_draws, rtol=1e-6)
    # A subject without votes: both say what the network alone says.
    for name in told.column_names:
        if "_combined_" in name:
            assert columns[name][2] == pytest.approx(columns[name.replace("_combined", "")][2], abs=2e-4), name


def test_an_answer_may_be_named_like_a_column() -> None:
    """The question's own columns and those of its answers never meet."""
    tree = galaxy_tree().model_dump(exclude_defaults=True)
    tree["questions"][1]["answers"][0]["slug"] = "expected"
    tree["questions"][1]["answers"][1]["slug"] = "combined"
    known = random_posterior(type(galaxy_tree()).model_validate(tree), 2, 1, np.random.default_rng(0))
    votes = Votes.empty(known.tree, ["s0"])
    told = table(known, pa.table({"ra": [1.0]}), 40, 5, np.random.default_rng(0), votes, combine(known, votes))
    assert len(set(told.column_names)) == len(told.column_names)
