"""Numbers, times, reasons and rules as a person would say them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup

from greenpea.retirement import Confident, Consensus, Count, Early, Rules, Settled
from greenpea.store import Counted, Stream
from greenpea.tree import DecisionTree

COUNTED = {
    Counted.YES: "counted",
    Counted.UNDONE: "undone by the volunteer",
    Counted.REPEATED: "a second by the same volunteer",
    Counted.BANNED: "by a banned volunteer",
    Counted.GOLD: "for training, its answer is known",
}
STREAMS = {
    Stream.RANK: "by rank",
    Stream.RANDOM: "at random",
    Stream.AUDIT: "audit or reference set",
    Stream.GOLD: "training",
    Stream.IMPORT: "imported",
    Stream.DIRECT: "asked for by the volunteer",
}
STREAM_MEANINGS = {
    Stream.RANK: "chosen by the ranks of an active learning round",
    Stream.RANDOM: "chosen at random",
    Stream.AUDIT: "chosen at random from the sets that go to the full count, to judge the models and to calibrate them",
    Stream.GOLD: "subjects whose answer is known; for training, never counted as votes",
    Stream.IMPORT: "classified elsewhere, and imported",
    Stream.DIRECT: "opened by its address",
}


def number(value: float) -> str:
    """Return a whole number with commas between thousands."""
    return f"{value:,.0f}"


def count(value: int, what: str, plural: str = "") -> str:
    """Return ``"1 subject"``, ``"1,200 subjects"``."""
    return f"{value:,} {what if value == 1 else plural or what + 's'}"


def percent(part: float, whole: float) -> str:
    """Return a share in percent; never 0 % or 100 % where that is not exact."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 1:
        return "<1 %"
    if 99 < share < 100:
        return ">99 %"
    return f"{share:.0f} %"


def moment(time: datetime | None, otherwise: str = "never") -> Markup | str:
    """Return a time to the minute, in UTC."""
    if time is None:
        return otherwise
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        time.isoformat(timespec="seconds"), f"{time:%Y-%m-%d %H:%M:%S}", f"{time:%Y-%m-%d %H:%M}"
    )


def ago(time: datetime | None, now: datetime, otherwise: str = "never") -> Markup | str:
    """Return how long ago a time is, with the time itself to point at."""
    if time is None:
        return otherwise
    seconds = max(0, int((now - time).total_seconds()))
    sizes = ((86400, "day"), (3600, "hour"), (60, "minute"))
    said = next((f"{count(seconds // size, name)} ago" for size, name in sizes if seconds >= size), "just now")
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        time.isoformat(timespec="seconds"), f"{time:%Y-%m-%d %H:%M:%S}", said
    )


def seconds_between(start: datetime | None, end: datetime | None) -> str:
    """Return how long a classification took, where its times are known and in order."""
    if start is None or end is None or end < start:
        return "–"
    seconds = (end - start).total_seconds()
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def size(bytes: float) -> str:
    """Return a size in decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if bytes < 1000:
            return f"{bytes:,.0f} {unit}" if unit == "bytes" or bytes >= 10 else f"{bytes:.1f} {unit}"
        bytes /= 1000
    return f"{bytes:,.1f} TB"


def reason(text: str | None) -> str:
    """Return why a subject retired, in words."""
    if text is None:
        return "open"
    return "classified often enough" if text == "count" else text


def answers(annotations: object) -> str:
    """Return the answers of a classification in the order of the walk: ``"featured-or-disk › no"``."""
    if not isinstance(annotations, dict):
        return ""
    return " › ".join(" + ".join(given) or "none" for given in annotations.values())


def rules(rules: Rules, tree: DecisionTree) -> Sequence[str]:
    """Return the retirement rules, one sentence each."""
    sentences = [_rule(rule, tree) for rule in rules]
    if any(not isinstance(rule, Count) for rule in rules) and any(isinstance(rule, Count) for rule in rules):
        sentences.append("Subjects of the audit and reference sets retire by the full count only.")
    return sentences


def _rule(rule: object, tree: DecisionTree) -> str:
    match rule:
        case Count():
            return f"After {count(rule.classifications, 'classification')}: the full count."
        case Consensus():
            return (
                f"As soon as {100 * rule.share:g} % give the same answer to “{tree[rule.question].label()}”, "
                f"once {count(rule.votes, 'volunteer')} or more have answered it."
            )
        case Early():
            return (
                f"As soon as {100 * rule.share:g} % say “{tree[rule.question].answer(rule.answer).label()}” to "
                f"“{tree[rule.question].label()}”, once {count(rule.votes, 'volunteer')} or more have answered it."
            )
        case Confident():
            return (
                f"At a round, as soon as image and votes tell the share of every answer to {_where(rule, tree)} to "
                f"{_points(rule.below)} (standard deviation), "
                f"after {count(rule.classifications, 'classification')} or more."
            )
        case Settled():
            return (
                f"At a round, as soon as going on to the full count would raise the chance of naming the leading "
                f"answer to {_where(rule, tree)} by less than {_points(rule.gain)}, "
                f"after {count(rule.classifications, 'classification')} or more."
            )
    return "Never: every subject stays open."


def _points(share: float) -> str:
    return f"{100 * share:g} percentage point{'' if share == 0.01 else 's'}"


def _where(rule: Confident | Settled, tree: DecisionTree) -> str:
    if rule.question is None:
        return "each question that at least half of the volunteers reach"
    return f"“{tree[rule.question].label()}”"
