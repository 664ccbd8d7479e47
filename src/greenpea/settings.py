"""A campaign's settings: one commented TOML file, validated; an unknown key is an error with a suggestion."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.images import Preparation
from greenpea.learning.settings import Learning
from greenpea.remote import Fetching


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(_Section):
    """Who is trained on: decided by a hash of the subject's id, so that it never changes."""

    test: float = Field(0.15, ge=0, lt=1, description="share never trained on, to judge the model by")
    validation: float = Field(0.15, gt=0, lt=1, description="share that stops the training and recalibrates")
    salt: str = Field("", description="change it for another split")

    @model_validator(mode="after")
    def _some_left(self) -> Split:
        if self.test + self.validation >= 1:
            raise ValueError(f"test ({self.test}) and validation ({self.validation}) leave nobody to train on")
        return self


class Catalogue(_Section):
    """What the catalogue says."""

    votes: int = Field(40, ge=1, description="expected votes are of so many volunteers asked")
    information_votes: int = Field(5, ge=1, description="information is what so many more volunteers would teach")
    doubt_votes: int = Field(
        1, ge=0, description="kinds of doubt are about the answers of so many volunteers; 0: left out"
    )
    workers: int = Field(
        2, ge=1, description="processes (threads, where images are few) that decode images and describe what is seen"
    )
    part: int = Field(
        8192, ge=1, description="subjects in a part of a catalogue: what a kill may cost; above 1,024 a multiple of it"
    )

    @model_validator(mode="after")
    def _whole_blocks(self) -> Catalogue:
        if self.part > 1024 and self.part % 1024:
            raise ValueError(
                f"part ({self.part}) above 1,024 is a multiple of 1,024, such as {self.part // 1024 * 1024}"
            )
        return self


class Site(_Section):
    """How subjects are handed to volunteers, and who may come."""

    rank: float = Field(0.6, ge=0, description="weight of the stream by rank, once a round has ranked subjects")
    random: float = Field(0.2, ge=0, description="weight of the stream at random")
    audit: float = Field(0.2, ge=0, description="weight of the stream of the audit and reference sets")
    audit_share: float = Field(0.02, ge=0, le=0.5, description="share of subjects in the audit set, marked at import")
    reference_share: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="share that also goes to the full limit, and is learned from: it tells how opinions spread",
    )
    gold_first: float = Field(0.3, ge=0, le=1, description="chance of a subject with a known answer, at the beginning")
    gold_last: float = Field(0.05, ge=0, le=1, description="the chance it falls to")
    gold_decay: float = Field(20, gt=0, description="classifications after which it has fallen by a factor of e")
    lease_minutes: float = Field(30, gt=0, description="how long a place is kept for a volunteer")
    sign_up: bool = Field(True, description="whether anyone may make an account")
    open_finds: bool = Field(True, description="whether volunteers see what others found unusual")
    per_minute: int = Field(
        600, ge=1, description="requests that change something, per minute and volunteer; an address has 20 times that"
    )

    @property
    def whole_share(self) -> float:
        """The share of subjects that only the full limit retires: audit and reference set together."""
        return self.audit_share + self.reference_share

    @model_validator(mode="after")
    def _some_stream(self) -> Site:
        if self.rank + self.random + self.audit <= 0:
            raise ValueError("the weights rank, random and audit are all 0: give one a share")
        return self


class Loop(_Section):
    """How people and network teach each other, round by round."""

    encoder: str = Field(
        "shipped",
        description="'shipped' (small, learned on simulated galaxies), 'self' (learns from this campaign's images "
        "without votes), or the folder of a checkpoint or campaign",
    )
    folds: int = Field(5, ge=2, description="parts by which heads are cross-fitted: no head has seen what it judges")
    acquisition: Literal["prediction", "information", "random"] = Field(
        "prediction",
        description="rank by what an answer would teach about all others' votes; 'information': about the weights of "
        "the head; 'random': the control",
    )
    votes: int = Field(5, ge=1, description="each ranked subject is asked so often a round, and then the next")
    scored_votes: int = Field(1, ge=1, description="rank by what so many more volunteers would teach")
    questions: tuple[str, ...] = Field((), description="learn about these questions above all; empty: the whole tree")
    coldness: float = Field(4.0, gt=0, description="0+: nearly at random; large: strictly the highest score first")
    ranked: int = Field(100_000, ge=1, description="subjects ranked in a round")
    scored: int = Field(1_000_000, ge=1, description="of a larger pool, a rotating part of this size is scored a round")
    margin: float = Field(
        0.01, gt=0, description="new heads take over unless they may lose more, in nats per vote of the audit set"
    )
    audit_votes: int = Field(500, ge=1, description="votes on the audit set before it can judge")
    reference_votes: int = Field(
        500,
        ge=1,
        description="votes on the reference set, or all that it will get, before a posterior may retire anybody",
    )
    draws: int = Field(
        100, ge=2, description="draws of the heads: what is foreseen of others needs more than a catalogue"
    )
    fewest_draws: float = Field(10, ge=1, description="where votes leave fewer effective draws, more are drawn")
    reserve: int = Field(100, ge=0, description="draws kept for that, beside loop.draws")
    compared: int = Field(
        200_000, ge=0, description="up to so many classifications, streams are compared and a control head is fitted"
    )
    report: bool = Field(True, description="whether each round writes a report of how far to believe its heads")
    tune: Literal["never", "milestones"] = Field(
        "never",
        description="'milestones': 'greenpea loop' trains the encoder on with the votes whenever they have doubled; it "
        "takes over where the audit set says it is better; meanwhile no round runs. 'never': by 'greenpea tune' alone",
    )
    tune_answers: int = Field(
        20_000, ge=1, description="answers outside the audit set before the first time an encoder is trained on"
    )
    classifications: int = Field(200, ge=1, description="'greenpea loop': a round after so many new classifications")
    minutes: float = Field(10, gt=0, description="'greenpea loop': or after so many minutes, if there is any new one")
    kept: int = Field(5, ge=1, description="rounds whose ranks the store keeps, to roll back at once")


class Release(_Section):
    """Who publishes the catalogue, and how it may be used: what `greenpea release` and every catalogue say."""

    title: str = Field("", description="what the published catalogue is called")
    authors: tuple[str, ...] = Field((), description="'Family, Given' or a collaboration's name, in order")
    licence: str = Field("", description="of the data, as SPDX names it, such as 'CC-BY-4.0'")
    version: str = Field("1.0", description="of the published catalogue")
    doi: str = Field("", description="the identifier, where one is reserved")
    url: str = Field("", description="where it will be found")
    contact: str = Field("", description="whom to ask, such as an e-mail address")
    votes: Literal["learned", "all", "none"] = Field(
        "learned",
        description="which votes are published: those learned from, so that the test and audit subjects still judge "
        "later models; 'all'; 'none'",
    )

    @field_validator("licence")
    @classmethod
    def _known(cls, licence: str) -> str:
        try:
            return canonicalize_license_expression(licence) if licence else ""
        except InvalidLicenseExpression:
            raise ValueError(
                "SPDX has no such licence: take one of https://spdx.org/licenses, such as CC-BY-4.0 or CC0-1.0, or "
                "call your own LicenseRef-Name"
            ) from None

    @field_validator("doi")
    @classmethod
    def _bare(cls, doi: str) -> str:
        bare = re.sub(r"^(https?://(dx\.)?doi\.org/|doi:)", "", doi.strip(), flags=re.IGNORECASE)
        if bare and not re.fullmatch(r"10\.\d{4,9}/\S+", bare):
            raise ValueError("a DOI looks like 10.5281/zenodo.1234567; leave it empty until one is reserved")
        return bare

    def citation(self) -> str:
        """Return how to cite the catalogue, in words, or where that is to be said."""
        if not (self.authors and self.title):
            return "Not published yet: authors and title stand in [release] of the campaign's settings."
        place = f" https://doi.org/{self.doi}" if self.doi else f" {self.url}" if self.url else ""
        licence = f" {self.licence}." if self.licence else ""
        return f"{'; '.join(self.authors)}. {self.title}, version {self.version}.{licence}{place}"


class Settings(_Section):
    """Everything a person may choose about a campaign."""

    images: Preparation = Preparation()
    split: Split = Split()
    learning: Learning = Learning()
    catalogue: Catalogue = Catalogue()
    site: Site = Site()
    loop: Loop = Loop()
    release: Release = Release()
    fetching: Fetching = Fetching()

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Settings:
        """Read a TOML file, then apply ``overrides`` such as ``"learning.epochs=50"``.

        Raises GreenpeaError naming the file, the key, and the remedy.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise GreenpeaError(f"{path} is not TOML: {error}") from error
        return cls.of(values, str(path)).override(overrides)

    @classmethod
    def of(cls, values: dict[str, Any], where: str = "the settings") -> Settings:
        """Validate settings given as nested dictionaries; ``where`` names them in errors."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise GreenpeaError("\n".join(f"{where}: {line}" for line in _explain(error))) from error

    def override(self, overrides: Iterable[str]) -> Settings:
        """Return these settings with ``"section.key=value"`` overrides applied."""
        return Settings.of(_overridden(self.model_dump(mode="json"), overrides), "--set")

    def to_toml(self) -> str:
        """Return the settings as TOML, every key with what it means."""
        return "\n".join(_lines(self)) + "\n"


def _overridden(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    values = json.loads(json.dumps(values))
    for override in overrides:
        key, equals, text = override.partition("=")
        *sections, name = key.strip().split(".")
        if not equals or not sections:
            hint = _suggestion(key.strip()) if equals else ""
            raise GreenpeaError(f"--set {override!r}: write section.key=value, such as learning.epochs=50{hint}")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise GreenpeaError(f"--set {override!r}: {section!r} is a setting, not a section")
        place[name] = _value(text.strip(), key.strip() in known_keys(str))
    return values


def _value(text: str, is_text: bool) -> Any:
    """Read a value as TOML, else, or where text is wanted and it would be a number, take it as the text it is."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if is_text and not isinstance(value, str) else value


KINDS = ("literal", "int", "function", "constrained")  # what pydantic puts behind the key of a setting of several types


def _explain(error: ValidationError) -> Iterator[str]:
    said: dict[str, str] = {}  # a setting of several types is at fault once for each
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(KINDS))
        if fault["type"] == "extra_forbidden":
            yield f"there is no setting {place!r}{_suggestion(place)}"
        else:
            why = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, such as [1, 2]")
            said[place] = f"{said[place]}; or {why}" if place in said else f"{place} = {fault['input']!r}: {why}"
    yield from said.values()


def _suggestion(place: str) -> str:
    """Return a hint at the setting that was meant: the same key in another section, else the closest name."""
    known = known_keys()
    key = place.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == key]
    if same:
        return f" (did you mean {' or '.join(map(repr, same))}?)"
    return did_you_mean(place, known) or did_you_mean(place, [name.rpartition(".")[2] for name in known])


def known_keys(kind: type | None = None) -> list[str]:
    """Return every section, and every setting as ``section.key``; or only the settings of one ``kind``."""
    sections: dict[str, type[BaseModel]] = {name: one.annotation for name, one in Settings.model_fields.items()}  # type: ignore[misc]
    settings = {f"{name}.{key}": one for name, some in sections.items() for key, one in some.model_fields.items()}
    return [*sections, *settings] if kind is None else [key for key, one in settings.items() if one.annotation is kind]


def _lines(settings: Settings) -> Iterator[str]:
    yield "# The settings of this campaign. Lines may be removed: what is missing has its default."
    for name in Settings.model_fields:
        section = getattr(settings, name)
        yield f"\n[{name}]"
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            meaning = " ".join((field.description or "").split())
            shown = f"# {key} = " if value is None else f"{key} = {_toml(value)}"
            yield f"{shown}  # {meaning}" if meaning else shown


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
