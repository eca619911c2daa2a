"""The rule by which MM-OR's authors predict breaches of sterility: over scene graphs, not over pictures.

A breach is a relation between something sterile and something unsterile, by a predicate that counts as contact. The patient
becomes sterile once a surgeon works on the bone, and after suturing nothing is a breach any more. The authors' three sets of
names are not published with their code, so they have to be given; `OUR_SETS` is this project's reading, for a baseline.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from surg.config import Config

Triplet = Sequence[str]
"""Subject, object, predicate: the order of MM-OR's relationships_*.json."""
PATIENT = "patient"
SURGEONS = frozenset({"head_surgeon", "assistant_surgeon"})
OPENS_THE_FIELD = frozenset({"drilling", "cutting", "sawing", "hammering"})
CLOSES_THE_FIELD = frozenset({"suturing"})


class BreachSets(Config):
    """The names that the rule goes by."""

    predicates: frozenset[str]
    """Relations that count as contact."""
    sterile: frozenset[str]
    """Sterile throughout; the patient is added once the field is open."""
    unsterile: frozenset[str]
    """Never sterile."""


OUR_SETS = BreachSets(
    predicates=frozenset({"touching", "holding", "manipulating", "preparing"}),
    sterile=frozenset(
        {"instrument_table", "instrument", "head_surgeon", "assistant_surgeon", "nurse", "drape", "saw", "drill", "hammer"}
    ),
    unsterile=frozenset(
        {"circulator", "anaesthetist", "anest", "student", "mps", "unrelated_person", "anesthesia_equipment", "secondary_table"}
    ),
)
"""Not the authors' sets, which are not public."""


@dataclass
class _Field:
    open: bool = False
    closed: bool = False

    def see(self, triplets: Iterable[Triplet]) -> None:
        for subject, thing, predicate in triplets:
            if subject in SURGEONS and thing == PATIENT:
                self.open |= predicate in OPENS_THE_FIELD
                self.closed |= predicate in CLOSES_THE_FIELD


def breaches(graphs: Iterable[Sequence[Triplet]], sets: BreachSets) -> Iterator[list[Triplet]]:
    """For the scene graphs of one take in order of time: the triplets that are breaches, [] for none.

    The state goes with the take, so call it once a take. Only graphs up to each moment count.
    """
    field = _Field()
    for triplets in graphs:
        field.see(triplets)
        sterile = sets.sterile | {PATIENT} if field.open else sets.sterile
        unsterile = sets.unsterile - sterile if field.open else sets.unsterile
        yield (
            []
            if field.closed
            else [triplet for triplet in triplets if _is_breach(triplet, sets.predicates, sterile, unsterile)]
        )


def _is_breach(triplet: Triplet, predicates: frozenset[str], sterile: frozenset[str], unsterile: frozenset[str]) -> bool:
    subject, thing, predicate = triplet
    if predicate not in predicates:
        return False
    return (subject in sterile and thing in unsterile) or (thing in sterile and subject in unsterile)
