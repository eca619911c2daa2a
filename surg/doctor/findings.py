"""What a check found: one line a person can act on."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Finding:
    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do next; empty when nothing needs doing."""
    required: bool = False
    """Nothing works without it: its absence fails the whole check."""

    @property
    def fails(self) -> bool:
        return self.required and self.status == "missing"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ok(name: str, found: str, *, required: bool = False) -> Finding:
    return Finding(name, "ok", found, required=required)


def missing(name: str, found: str, advice: str, *, required: bool = False) -> Finding:
    return Finding(name, "missing", found, advice, required)


def warning(name: str, found: str, advice: str) -> Finding:
    return Finding(name, "warning", found, advice)
