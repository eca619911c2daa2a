"""Splits: whole patients go to train, val or test, so that no test asks about a patient seen in training.

Every clip of a patient lands on one side, whatever data set or name the patient hides under (surg.data.overlap). Sides get their
shares of the clips and, when asked, of every class of a label. The same seed gives the same split.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from surg.data.derive import derive_batches
from surg.data.manifest import Manifest
from surg.data.overlap import patient
from surg.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

DEFAULT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
PASSES = 10
LEAKY_NOTE = "split by clip, forced: clips of one case are on several sides, so that scores on val and test are too good"


@dataclass(frozen=True)
class SplitTable:
    """How many cases and clips each side got, and of which classes."""

    cases: dict[str, int]
    clips: dict[str, int]
    classes: dict[str, dict[str, int]]
    """side -> class -> clips; empty when no label was named."""


def split_by_case(
    manifest: Manifest,
    out: Path,
    shares: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    stratify: str | None = None,
    replace: bool = False,
) -> SplitTable:
    """Write `out` with every row's split set. `stratify` is the name of a label whose classes every side gets its share of.

    Raises DataError when rows have a split already (unless `replace`), or there are too few cases for a side to get one.
    """
    shares = check_shares(shares or DEFAULT_SHARES)
    _refuse_known_splits(manifest, replace)
    counts = _count(manifest, stratify)
    sides = assign(counts, shares, seed)
    missing = [side for side in shares if side not in sides.values()]
    if missing:
        raise DataError(
            f"{len(counts)} cases are too few for {len(shares)} sides: {', '.join(missing)} would be empty.\n"
            "Index more cases, or ask for fewer sides: --shares train=0.7,test=0.3"
        )
    notes = {"split": f"by case, seed {seed}, {_shown(shares)}" + (f", stratified by {stratify}" if stratify else "")}
    derive_batches(manifest, out, _with_sides(manifest, sides), {**notes, "leak": ""})
    return _table(counts, sides, stratify)


def split_by_clip(
    manifest: Manifest, out: Path, shares: Mapping[str, float], *, seed: int, force: bool, replace: bool = False
) -> None:
    """Clips of one case on several sides. It leaks, and is an error unless forced; then the manifest says so for good."""
    if not force:
        raise ConfigError(
            "A split by clip puts clips of one patient on both sides, and the scores on test become too good.\n"
            "Split by case (the default). If a leaking split is what you study, add --force; the manifest will say so."
        )
    shares = check_shares(shares)
    _refuse_known_splits(manifest, replace)
    rng = np.random.default_rng([seed, 3])
    names = np.array(list(shares))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in manifest.batches():
            drawn = names[rng.choice(len(names), size=batch.num_rows, p=list(shares.values()))]
            yield _set_split(batch, pa.array(drawn.tolist(), pa.string()))

    derive_batches(manifest, out, batches(), {"split": f"by clip, seed {seed}, {_shown(shares)}", "leak": LEAKY_NOTE})
    logger.warning("%s", LEAKY_NOTE)


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    if len(shares) < 2 or any(not share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"The shares {_shown(shares)} make no split; expected two or more above 0 that add up to 1.")
    return dict(shares)


def parse_shares(text: str) -> dict[str, float]:
    """`train=0.7,val=0.15,test=0.15`"""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return check_shares({name.strip(): float(share) for name, share in pairs})
    except ValueError as error:
        raise ConfigError(f"--shares {text!r} is not of the form train=0.7,val=0.15,test=0.15") from error


def assign(counts: Mapping[str, Mapping[str, int]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """patient -> side. Patients go one by one, the largest first, to the side that then comes nearest to its shares of all classes;
    then each may change sides as long as that brings the whole nearer.
    """
    sides = list(shares)
    wanted = np.array([shares[side] for side in sides])[:, None]
    names = sorted(counts)
    classes = sorted({name for of_patient in counts.values() for name in of_patient})
    column = {name: index for index, name in enumerate(classes)}
    # Two columns more: the clips of all classes, and the patients themselves.
    amounts = np.zeros((len(names), len(classes) + 2))
    for row, name in enumerate(names):
        for label, count in counts[name].items():
            amounts[row, column[label]] = count
    amounts[:, -2] = amounts.sum(1)
    amounts[:, -1] = 1
    amounts /= np.maximum(amounts.sum(0), 1)
    order = np.random.default_rng([seed, 4]).permutation(len(names))
    # Rounded, so that patients of about one size keep the random order.
    order = order[np.argsort(-np.round(amounts[order].sum(1), 2), kind="stable")]
    place = np.full(len(names), -1)
    have: npt.NDArray[np.float64] = np.zeros((len(sides), amounts.shape[1]))

    def best_side(row: int, allowed: npt.NDArray[np.int64]) -> int:
        cost = (((have + amounts[row] - wanted) ** 2 - (have - wanted) ** 2) / wanted).sum(1)
        return int(allowed[np.argmin(cost[allowed])])

    every = np.arange(len(sides))
    for done, row in enumerate(order):
        empty = np.setdiff1d(every, place)
        # The last patients are kept for sides that have none.
        place[row] = best_side(row, empty if len(empty) >= len(order) - done else every)
        have[place[row]] += amounts[row]
    for _ in range(PASSES):
        before = place.copy()
        for row in order:
            if (place == place[row]).sum() > 1:
                have[place[row]] -= amounts[row]
                place[row] = best_side(row, every)
                have[place[row]] += amounts[row]
        if (place == before).all():
            break
    return {name: sides[side] for name, side in zip(names, place)}


def _count(manifest: Manifest, stratify: str | None) -> dict[str, dict[str, int]]:
    """patient -> class -> clips. Distinct label texts are parsed once, however many rows have them."""
    totals: dict[tuple[str, str, str], int] = defaultdict(int)
    for batch in manifest.batches(["source", "case", "labels"]):
        if stratify is None:
            batch = batch.set_column(2, "labels", pa.array(["{}"] * batch.num_rows))
        grouped = pa.table(batch).group_by(["source", "case", "labels"]).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            totals[row["source"], row["case"], row["labels"]] += row["count_all"]
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    named = False
    for (source, case, labels), count in totals.items():
        value = json.loads(labels).get(stratify) if stratify else None
        named |= value is not None
        counts[patient(source, case)][str(value)] += count
    if not counts:
        raise DataError(f"{manifest.path} has no clips to split.")
    if stratify and not named:
        known = sorted({name for _, _, labels in list(totals)[:1000] for name in json.loads(labels)})
        raise DataError(f"No clip has the label `{stratify}`. The labels here: {', '.join(known) or 'none'}.")
    return counts


def _with_sides(manifest: Manifest, sides: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    known: dict[tuple[str, str], str] = {}
    for batch in manifest.batches():
        drawn = []
        for pair in zip(batch.column("source").to_pylist(), batch.column("case").to_pylist()):
            if pair not in known:
                known[pair] = sides[patient(*pair)]
            drawn.append(known[pair])
        yield _set_split(batch, pa.array(drawn, pa.string()))


def _set_split(batch: pa.RecordBatch, column: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index("split"), batch.schema.field("split"), column)


def _refuse_known_splits(manifest: Manifest, replace: bool) -> None:
    found = {name: count for name, count in manifest.counts("split").items() if name}
    if found and not replace:
        raise DataError(
            f"{manifest.path} is split already: {_shown(found)}. Official splits make results comparable.\n"
            "To split it anew all the same: --replace"
        )


def _table(counts: Mapping[str, Mapping[str, int]], sides: Mapping[str, str], stratify: str | None) -> SplitTable:
    cases: dict[str, int] = defaultdict(int)
    clips: dict[str, int] = defaultdict(int)
    classes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, of_patient in counts.items():
        side = sides[name]
        cases[side] += 1
        clips[side] += sum(of_patient.values())
        if stratify:
            for label, count in of_patient.items():
                classes[side][label] += count
    return SplitTable(dict(cases), dict(clips), {side: dict(found) for side, found in classes.items()})


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
