"""Pictures: what a file is, its bytes say; what is not a picture is never sent as one; none missing stops the site."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from api_hands import make_site
from greenpea.formats import Unreadable
from greenpea.images import Preparation
from greenpea.site import pictures
from greenpea.site.pictures import render, sniff
from greenpea.store import NewSubject, Store
from greenpea.subjects import SubjectSet

HTML = b"<!DOCTYPE html><script>alert(document.cookie)</script>"
RAMP = np.linspace(0, 1, 12 * 12, dtype=np.float32).reshape(12, 12)


def encoded(kind: str, color: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(file, kind)
    return file.getvalue()


def fits_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    fits.PrimaryHDU(array).writeto(file)
    return file.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FILES = {
    "a.png": encoded("PNG"),
    "b.jpg": encoded("JPEG"),
    "c.gif": encoded("GIF"),
    "d.webp": encoded("WEBP"),
    "named-wrongly.jpg": encoded("PNG"),
    "e.fits": fits_bytes(RAMP),
    "f.npy": npy_bytes(RAMP),
    "page.png": HTML,
    "polyglot.png": encoded("PNG") + HTML,
    "polyglot.gif": b"GIF89a/*" + encoded("GIF")[8:] + b"*/=1;alert(1)//" + HTML,
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "empty.png": b"",
    "cut.fits": fits_bytes(RAMP)[:2000],
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[TestClient, FastAPI, Store]]:
    """A site with one subject per file of `FILES`; the subject's id is the file's name."""
    folder = tmp_path / "files"
    folder.mkdir()
    new = []
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
        new.append(NewSubject(name, (str(folder / name),)))
    new.append(NewSubject("two", (str(folder / "a.png"), str(folder / "b.jpg"))))
    app, store = make_site(tmp_path, new)
    with TestClient(app) as client:
        yield client, app, store


def link(store: Store, subject_id: str, index: int = 0) -> str:
    subject = store.subjects.get(subject_id)
    assert subject is not None
    return f"/images/{subject.id}/{index}"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.png", "image/png"),
        ("b.jpg", "image/jpeg"),
        ("c.gif", "image/gif"),
        ("d.webp", "image/webp"),
        ("named-wrongly.jpg", "image/png"),
        ("polyglot.png", "image/png"),
        ("polyglot.gif", "image/gif"),
    ],
)
def test_originals_are_sent_as_what_they_are(
    site: tuple[TestClient, FastAPI, Store], name: str, media_type: str
) -> None:
    client, _, store = site
    for _ in range(2):  # from the disk, then from memory
        reply = client.get(link(store, name))
        assert reply.status_code == 200
        assert reply.content == FILES[name]
        assert reply.headers["content-type"] == media_type
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert "immutable" in reply.headers["cache-control"]
        assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("name", ["page.png", "drawing.svg", "empty.png", "cut.fits"])
def test_what_is_no_picture_is_not_sent(site: tuple[TestClient, FastAPI, Store], name: str) -> None:
    client, _, store = site
    reply = client.get(link(store, name))
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text.startswith("no picture: ")
    assert "script" not in reply.text
    assert str(Path.cwd().anchor) + "tmp" not in reply.text


@pytest.mark.parametrize("name", ["e.fits", "f.npy"])
def test_science_images_are_drawn(site: tuple[TestClient, FastAPI, Store], name: str) -> None:
    client, _, store = site
    reply = client.get(link(store, name))
    assert reply.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(reply.content)))
    assert drawn.shape == RAMP.shape
    assert drawn.min() == 0
    assert drawn.max() == 255
    # The ramp rises with the rows; a FITS has its first row at the bottom, so that there it falls.
    assert (drawn[0].mean() > drawn[-1].mean()) == (name == "e.fits")


def test_any_number_of_bands_is_drawn() -> None:
    rng = np.random.default_rng(0)
    for bands, mode in ((1, "L"), (2, "L"), (3, "RGB"), (5, "L")):
        drawn = Image.open(io.BytesIO(render(npy_bytes(rng.random((30, 40, bands), np.float32)), Preparation())))
        assert (drawn.mode, drawn.size) == (mode, (30, 30))
    lupton = Preparation(stretch="lupton", size=8, channels=1)
    drawn = Image.open(io.BytesIO(render(npy_bytes(rng.random((30, 40, 5), np.float32)), lupton)))
    assert (drawn.mode, drawn.size) == ("RGB", (30, 30))
    with pytest.raises(Unreadable, match="band 7 is wanted"):
        render(npy_bytes(rng.random((9, 9, 3), np.float32)), Preparation(bands=(7,)))


def test_a_riff_that_is_no_webp_is_not_taken_for_one() -> None:
    assert sniff(b"RIFF\x00\x00\x00\x00WAVEfmt ") is None
    assert sniff(b"") is None
    assert sniff(b" \x89PNG\r\n\x1a\n") is None


def test_a_picture_that_is_known_is_not_sent_again(site: tuple[TestClient, FastAPI, Store]) -> None:
    client, _, store = site
    etag = client.get(link(store, "a.png")).headers["etag"]
    reply = client.get(link(store, "a.png"), headers={"If-None-Match": f'"other", W/{etag}'})
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", etag)
    assert client.get(link(store, "b.jpg"), headers={"If-None-Match": etag}).status_code == 200


def test_several_images_of_a_subject(site: tuple[TestClient, FastAPI, Store]) -> None:
    client, _, store = site
    assert client.get(link(store, "two", 0)).content == FILES["a.png"]
    assert client.get(link(store, "two", 1)).content == FILES["b.jpg"]
    assert "has 2 images" in client.get(link(store, "two", 2)).text


@pytest.mark.parametrize(
    "path",
    [
        "/images/1/-1",
        "/images/0/0",
        "/images/-1/0",
        "/images/99999/0",
        f"/images/{2**63}/0",
        f"/images/{10**40}/0",
        "/images/1/../../etc/passwd",
        "/images/..%2f..%2fetc%2fpasswd/0",
        "/images/%2e%2e/%2e%2e/store.sqlite",
        "/images/1/0%00",
        "/images/1/0/store.sqlite",
        "/images//etc/passwd",
    ],
)
def test_no_path_comes_from_an_address(site: tuple[TestClient, FastAPI, Store], path: str) -> None:
    client, _, _ = site
    reply = client.get(path)
    assert reply.status_code in (404, 422)
    assert b"root:" not in reply.content


def test_a_vanished_image_is_told_once_and_the_queue_goes_on(
    site: tuple[TestClient, FastAPI, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, _, store = site
    file = tmp_path / "files" / "a.png"
    file.unlink()
    for _ in range(3):
        reply = client.get(link(store, "a.png"))
        assert (reply.status_code, reply.text) == (404, "no picture: file not found: a.png\n")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "no picture" in line]
    assert [(line["subject_id"], line["reason"]) for line in lines] == [("a.png", "file not found: a.png")]

    handed = []
    while subjects := client.post("/api/v1/next", json={"count": 10}).json()["subjects"]:
        handed += [one["subject_id"] for one in subjects]
        for number, one in enumerate(subjects):
            annotations = {"smooth": ["artifact"]}
            body = {"uuid": f"00000000-0000-4000-8000-{len(handed):06}{number:06}", "ticket": one["ticket"]}
            assert client.post("/api/v1/classifications", json=body | {"annotations": annotations}).status_code == 201
    assert sorted(handed) == sorted([*FILES, "two"])

    file.write_bytes(FILES["a.png"])
    assert client.get(link(store, "a.png")).content == FILES["a.png"]


def test_a_subjects_own_image_is_found_in_the_campaigns_table(tmp_path: Path) -> None:
    embedded = pa.table({"id": ["in-0", "in-1"], "image": [FILES["a.png"], FILES["e.fits"]]})
    pq.write_table(embedded, tmp_path / "embedded.parquet")
    app, store = make_site(tmp_path, [NewSubject("in-0", ("",)), NewSubject("lost", ("",))])
    with TestClient(app) as client:
        reply = client.get(link(store, "in-0"))
        assert reply.status_code == 404
        assert "import it again" in reply.text
        assert str(tmp_path) not in reply.text
        SubjectSet.from_table(tmp_path / "embedded.parquet").select([0]).save(tmp_path)
        assert client.get(link(store, "in-0")).content == FILES["a.png"]
        assert "no subject 'lost'" in client.get(link(store, "lost")).text

        # An import adds subjects while the site runs: the table is read again.
        (tmp_path / "late.png").write_bytes(FILES["b.jpg"])
        late = SubjectSet.from_files(["late"], ["late.png"], tmp_path)
        SubjectSet.concatenate([SubjectSet.from_table(tmp_path / "embedded.parquet"), late]).save(tmp_path)
        store.subjects.add([NewSubject("late", ("",)), NewSubject("in-1", ("",))], app.state.site.clock())
        assert client.get(link(store, "late")).content == FILES["b.jpg"]
        assert client.get(link(store, "in-1")).headers["content-type"] == "image/png"

        # The table that embeds the images is rewritten: said without its path.
        pq.write_table(embedded.slice(1), tmp_path / "embedded.parquet")
        app.state.pictures = pictures.Pictures(tmp_path, Preparation())
        reply = client.get(link(store, "in-1"))
        assert reply.status_code == 404
        assert str(tmp_path) not in reply.text


def test_no_more_is_held_in_memory_than_allowed(
    site: tuple[TestClient, FastAPI, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, app, store = site
    monkeypatch.setattr(pictures, "CACHE_BYTES", len(FILES["a.png"]) + len(FILES["b.jpg"]))
    names = ["a.png", "b.jpg", "c.gif", "a.png", "d.webp", "polyglot.png", "b.jpg"]
    for name in names:
        assert client.get(link(store, name)).content == FILES[name]
        held = app.state.pictures._kept.values()
        assert sum(len(one.data) for one in held) == app.state.pictures._bytes <= pictures.CACHE_BYTES
