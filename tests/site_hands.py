"""Stores and sites to test on: a small campaign's folder, filled, on SQLite or on a temporary PostgreSQL server."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from PIL import Image

from greenpea.settings import Settings
from greenpea.site.app import create_app
from greenpea.site.opening import fill, open_store
from greenpea.store import HandOut, NewSubject, Receipt, SentClassification, Store
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIMPLE = "gz-decals-5"
PORTS = range(15_000, 30_000)


def workflow(limit: int = 40, tree: str = SIMPLE, **more: object) -> Workflow:
    """Return a workflow on a shipped tree with a limit, as its file would have it."""
    values = json.loads(DecisionTree.load(tree).to_json())
    values["retirement"] = [{"rule": "count", "classifications": limit}]
    return Workflow.from_json(json.dumps(values | more))


def fill_store(store: Store, subjects: int = 20, limit: int = 40, audit_share: float = 0.0, **more: object) -> Store:
    """Publish a workflow and add subjects s0, s1, …"""
    store.workflows.publish(workflow(limit, **more), NOW)
    store.subjects.add((NewSubject(f"s{i}", ("",), {"ra": i}) for i in range(subjects)), NOW, audit_share)
    return store


def artifact(handed: HandOut, uuid4: str | None = None) -> SentClassification:
    """Return the shortest classification of a handed-out subject on the GZD-5 tree."""
    return sending(handed, {"smooth-or-featured": ["artifact"]}, uuid4)


def sending(handed: HandOut, annotations: Mapping[str, Sequence[str]], uuid4: str | None = None) -> SentClassification:
    return SentClassification(
        uuid4 or str(uuid.uuid4()),
        handed.volunteer,
        handed.subject.id,
        handed.version,
        annotations,
        handed.id,
        handed.stream,
        handed.round,
        handed.probability,
    )


def classify(store: Store, volunteer: int, subject_id: str, now: datetime = NOW) -> Receipt:
    """Let a volunteer classify one subject, in the shortest way."""
    subject, version = store.subjects.get(subject_id), store.workflows.active()
    assert subject is not None
    one = SentClassification(str(uuid.uuid4()), volunteer, subject.id, version.id, {"smooth-or-featured": ["artifact"]})
    return store.classifications.submit([one], now)[0]


# ---- a campaign's folder and its site ----------------------------------------------------------------


def make_campaign(
    folder: Path, subjects: int = 12, chosen: Workflow | None = None, gold: str = "", settings: Sequence[str] = ()
) -> Path:
    """Write a campaign's folder: subjects s00, s01, … with small pictures."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(subjects):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)).save(folder / "images" / f"s{i:02d}.png")
    (folder / "workflow.json").write_text((chosen or workflow()).to_json(), encoding="utf-8")
    text = (
        Settings()
        .override(["site.audit_share=0", "site.reference_share=0", "site.per_minute=100000", *settings])
        .to_toml()
    )
    (folder / "campaign.toml").write_text(text, encoding="utf-8")
    SubjectSet.from_folder(folder / "images").save(folder)
    if gold:
        (folder / "gold.csv").write_text(gold, encoding="utf-8")
    return folder


def make_site(
    tmp_path: Path,
    subjects: int = 12,
    chosen: Workflow | None = None,
    gold: str = "",
    settings: Sequence[str] = (),
    database: str | None = None,
    clock: Callable[[], datetime] | None = None,
) -> tuple[FastAPI, Store]:
    """Return the site of a small campaign and its store; ``tmp_path / "campaign"`` is its folder."""
    folder = make_campaign(tmp_path / "campaign", subjects, chosen, gold, settings)
    chosen_settings = Settings.load(folder / "campaign.toml")
    store = open_store(folder, database, chosen_settings)
    clock = clock or (lambda: datetime.now(UTC))
    fill(store, folder, chosen_settings, clock())
    return create_app(store, folder, chosen_settings, clock=clock, quiet=True), store


def free_port() -> int:
    """Return a port that can be listened on, also by a server that goes away and comes back.

    Not one of those that the system gives to connections: such a one could be taken between two tries to listen.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports were tried, and none is free")


@contextmanager
def serving(app: FastAPI, port: int | None = None) -> Iterator[str]:
    """Serve an application in a thread; yield its address."""
    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


# ---- PostgreSQL --------------------------------------------------------------------------------------


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def postgres_server(durable: bool = False) -> Iterator[str | None]:
    """Yield the URL of a PostgreSQL server: that of GREENPEA_TEST_POSTGRES, else a temporary one; None: there is none.

    ``durable``: whether the temporary one waits for the disk, as a server of use does.
    """
    if given := os.environ.get("GREENPEA_TEST_POSTGRES"):
        yield given
        return
    initdb, server = _binary("initdb"), _binary("postgres")
    if not initdb or not server:
        yield None
        return
    # The server refuses to run as root.
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    who = {"user": owner.pw_uid, "group": owner.pw_gid} if owner else {}
    with tempfile.TemporaryDirectory(prefix="greenpea-pg-", ignore_cleanup_errors=True) as folder:
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data, port = Path(folder) / "data", free_port()
        made = [initdb, "-D", str(data), "-U", "greenpea", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **who)
        options = ["-p", str(port), "-k", folder, "-h", "127.0.0.1", "-c", "max_connections=200"]
        options += [] if durable else ["-c", "fsync=off"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([server, "-D", str(data), *options], stdout=log, stderr=log, cwd=folder, **who)
            try:
                url = f"postgresql+psycopg://greenpea@127.0.0.1:{port}/postgres"
                _wait_for(url)
                yield url
            finally:
                process.send_signal(signal.SIGINT)  # the gentle stop would wait for stores left open
                process.wait(30)


def _wait_for(url: str) -> None:
    engine = sa.create_engine(url)
    for _ in range(200):
        try:
            with engine.connect():
                pass
        except sa.exc.OperationalError:
            time.sleep(0.05)
        else:
            engine.dispose()
            return
    raise TimeoutError("PostgreSQL did not start")


def new_database(server: str) -> str:
    """Return the URL of a new, empty database on a server."""
    name = f"greenpea_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return str(sa.make_url(server).set(database=name).render_as_string(hide_password=False))


def drop_database(url: str) -> None:
    place = sa.make_url(url)
    engine = sa.create_engine(place.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {place.database} WITH (FORCE)")
    engine.dispose()
