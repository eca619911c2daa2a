"""What a reader found, what it lacked, and what it left out on purpose: counted, listed, and refused above a share."""

from collections import Counter
from dataclasses import dataclass, field

from surg.data.adapters.files import VIDEO_SUFFIXES
from surg.errors import DataError


@dataclass
class Ledger:
    """One reading of one data set. `lack` is a hole in the data, `leave_out` a rule at work; both are listed."""

    found: int = 0
    lacks: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What was taken for granted, in sentences."""

    def find(self, count: int = 1) -> None:
        self.found += count

    def lack(self, kind: str, what: object) -> None:
        """Note a missing video, a missing or unreadable label: `kind` groups them, `what` names this one."""
        self.lacks.append((kind, str(what)))

    def leave_out(self, reason: str, what: object) -> None:
        self.left_out.append((reason, str(what)))

    @property
    def missing_share(self) -> float:
        total = self.found + len(self.lacks)
        return len(self.lacks) / total if total else 0.0

    def summary(self) -> str:
        lines = [f"{self.found} found, {len(self.lacks)} missing ({100 * self.missing_share:.1f} %)"]
        lines += [f"  missing: {count} x {kind}" for kind, count in Counter(kind for kind, _ in self.lacks).most_common()]
        lines += [
            f"  left out: {count} x {reason}" for reason, count in Counter(reason for reason, _ in self.left_out).most_common()
        ]
        return "\n".join([*lines, *self.remarks])

    def check(self, name: str, root: object, max_missing: float) -> None:
        """Raise DataError when nothing was found, or more is missing than allowed."""
        if not self.found:
            hint = f"\nFirst problem: {self.lacks[0][0]}: {self.lacks[0][1]}" if self.lacks else ""
            if name == "folder" and not self.lacks:
                endings = " ".join(sorted(VIDEO_SUFFIXES))
                raise DataError(f"There is no video under {root}. Files that end in these are looked at: {endings}")
            raise DataError(
                f"Nothing of {name} was found under {root}.{hint}\nThe layouts that are read stand in docs/datasets.md."
            )
        if self.missing_share > max_missing:
            examples = "\n".join(f"  {kind}: {what}" for kind, what in self.lacks[:5])
            raise DataError(
                f"{name}: {len(self.lacks)} of {self.found + len(self.lacks)} items are missing "
                f"({100 * self.missing_share:.1f} %, allowed {100 * max_missing:.1f} %). The first ones:\n{examples}\n"
                f"Complete the download, or accept the holes: --max-missing {min(1.0, self.missing_share + 0.01):.2f}"
            )
