"""Embeddings: kept once, found again, whole after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from greenpea.embeddings import FACTS, ROWS, SUBJECTS, Embeddings, place_of
from greenpea.errors import GreenpeaError

ENCODER = "a" * 64


def numbers(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)


def test_what_was_kept_is_found_by_subject_in_any_order(tmp_path: Path) -> None:
    first, second = numbers(3), numbers(2, 1)
    kept = Embeddings.create(tmp_path, ENCODER, 5)
    kept = kept.append(["a", "b", "ü\n"], first, [("broken", "not an image")])
    kept.append(["c", "d"], second)
    found = Embeddings.open(tmp_path, ENCODER)
    assert list(found.ids) == ["a", "b", "ü\n", "c", "d"]
    assert found.rows_of(["d", "nobody", "ü\n", "broken"]).tolist() == [4, -1, 2, -1]
    assert found.unreadable == {"broken": "not an image"}
    taken = found.take([4, 0])
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, np.stack([second[1], first[0]]).astype(np.float16))


def test_a_subject_without_an_embedding_is_never_taken_for_another(tmp_path: Path) -> None:
    kept = Embeddings.create(tmp_path, ENCODER, 5).append(["a"], numbers(1))
    with pytest.raises(GreenpeaError, match="leave out"):
        kept.take(kept.rows_of(["nobody"]))
    assert kept.take([]).shape == (0, 5)


def test_what_lies_behind_the_count_is_written_over(tmp_path: Path) -> None:
    kept = Embeddings.create(tmp_path, ENCODER, 5).append(["a"], numbers(1))
    for name in (ROWS, SUBJECTS):
        with (kept.folder / name).open("ab") as file:
            file.write(b"half of someth")
    again = Embeddings.open(tmp_path, ENCODER)
    assert list(again.ids) == ["a"]
    again.append(["b"], numbers(1, 1))
    found = Embeddings.open(tmp_path, ENCODER)
    assert list(found.ids) == ["a", "b"]
    np.testing.assert_array_equal(found.take([1]), numbers(1, 1).astype(np.float16))


def test_killed_while_appending_all_or_nothing_of_each_block_counts(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom greenpea.embeddings import Embeddings\n"
        f"kept = Embeddings.create(Path(sys.argv[1]), {ENCODER!r}, 5)\n"
        "while True:\n"
        "    rows = np.arange(len(kept), len(kept) + 7)\n"
        "    kept = kept.append([f's{r}' for r in rows], np.repeat(rows[:, None] % 1000, 5, 1))\n"
        "    print(len(kept), flush=True)\n"
    )
    for round in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(3 + 5 * round)]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        found = Embeddings.open(tmp_path, ENCODER)
        assert len(found) >= int(told[-1])
        assert len(found) % 7 == 0
        assert list(found.ids) == [f"s{row}" for row in range(len(found))]
        np.testing.assert_array_equal(found.take(range(len(found)))[:, 0], np.arange(len(found)) % 1000)


def test_damage_is_told_with_the_folder_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match="holds no embeddings"):
        Embeddings.open(tmp_path, ENCODER)
    kept = Embeddings.create(tmp_path, ENCODER, 5).append(["a", "b"], numbers(2))
    with pytest.raises(GreenpeaError, match="5 long"):
        Embeddings.create(tmp_path, ENCODER, 6)
    with (kept.folder / ROWS).open("r+b") as file:
        file.truncate(12)
    with pytest.raises(GreenpeaError, match=r"shorter than its 2 subjects\. Remove the folder"):
        Embeddings.open(tmp_path, ENCODER)
    (kept.folder / FACTS).write_text("{")
    with pytest.raises(GreenpeaError, match="damaged"):
        Embeddings.open(tmp_path, ENCODER)


def test_two_encoders_whose_names_begin_alike_are_told_apart(tmp_path: Path) -> None:
    Embeddings.create(tmp_path, ENCODER, 5)
    with pytest.raises(GreenpeaError, match="damaged"):
        Embeddings.open(tmp_path, "a" * 16 + "b" * 48)


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    kept = Embeddings.create(tmp_path, ENCODER, 5)
    with pytest.raises(GreenpeaError, match="'b'"):
        kept.append(["a", "b"], np.array([[0.0] * 5, [0, 0, 1e6, 0, 0]]))
    assert len(Embeddings.open(tmp_path, ENCODER)) == 0
    assert json.loads((place_of(tmp_path, ENCODER) / FACTS).read_text())["count"] == 0


def test_unreadable_images_may_be_tried_again(tmp_path: Path) -> None:
    kept = Embeddings.create(tmp_path, ENCODER, 5).append([], np.zeros((0, 5)), [("x", "gone")])
    kept.forget_unreadable()
    assert Embeddings.open(tmp_path, ENCODER).unreadable == {}
