"""What can be said about a surgical clip, in one schema: the fields, their values, and how sure somebody is of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surg.errors import DataError

UNKNOWN = "unknown"
LEVELS = ("none", "little", "much", UNKNOWN)
YES_NO = ("yes", "no", UNKNOWN)

# Field -> allowed values; None is free text. Several values may stand in a field of MULTIPLE.
FIELDS: dict[str, tuple[str, ...] | None] = {
    "view": ("endoscopic", "room", "open", "microscope", UNKNOWN),
    "procedure": None,
    "phase": None,
    "instruments": None,
    "anatomy": None,
    "smoke": LEVELS,
    "blood": LEVELS,
    "fluid": LEVELS,
    "camera_motion": ("still", "slow", "fast", UNKNOWN),
    "out_of_body": YES_NO,
    "overlay": YES_NO,
    "lighting": ("dark", "normal", "bright", UNKNOWN),
    "occlusion": LEVELS,
    "quality": ("good", "blurred", "noisy", "blocky", UNKNOWN),
}
MULTIPLE = ("instruments", "anatomy")


@dataclass(frozen=True)
class Tag:
    values: tuple[str, ...]
    """One value, or several in a field of MULTIPLE; `("unknown",)` says that nothing can be said."""
    confidence: float
    """0..1."""

    @property
    def value(self) -> str:
        return self.values[0] if self.values else UNKNOWN


@dataclass(frozen=True)
class Tags:
    """All fields of one clip; those nobody looked at are unknown."""

    fields: dict[str, Tag] = field(default_factory=dict)
    by: str = ""
    """Who says so: `measured`, or the model's name."""

    def __getitem__(self, name: str) -> Tag:
        assert name in FIELDS, name
        return self.fields.get(name, Tag((UNKNOWN,), 0.0))

    def to_row(self) -> dict[str, Any]:
        """Flat, for a table: FIELD and FIELD_confidence; several values are joined by `;`."""
        row: dict[str, Any] = {"by": self.by}
        for name in FIELDS:
            row[name] = ";".join(self[name].values)
            row[f"{name}_confidence"] = self[name].confidence
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Tags":
        tags = {name: Tag(tuple(str(row[name]).split(";")), float(row[f"{name}_confidence"])) for name in FIELDS}
        return cls(tags, str(row.get("by", "")))


def matches(one: Tag, other: Tag) -> bool:
    """Whether two tags agree in at least one value. Unknown never does, not even with unknown."""
    return bool((set(one.values) & set(other.values)) - {UNKNOWN})


def check_answer(answer: str, by: str) -> Tags:
    """Tags from a model's JSON answer. Raises DataError on anything outside of the schema: a bad answer is a failure and no tag.

    Expected: {"view": {"value": "endoscopic", "confidence": 0.9}, …}; fields may be left out and are unknown then.
    """
    start, end = answer.find("{"), answer.rfind("}")
    try:
        raw = json.loads(answer[start : end + 1]) if 0 <= start < end else None
    except ValueError as error:
        raise DataError(f"The model's answer is not JSON ({error}). Its first words: {answer[:80]!r}") from error
    if not isinstance(raw, dict) or not raw:
        raise DataError(f"The model's answer holds no JSON object with tags. Its first words: {answer[:80]!r}")
    unknown = sorted(set(raw) - set(FIELDS))
    if unknown:
        raise DataError(
            f"The model's answer has fields that the schema has not: {', '.join(unknown[:5])}. Expected some of {', '.join(FIELDS)}."
        )
    return Tags({name: _check_field(name, value) for name, value in raw.items()}, by)


def _check_field(name: str, raw: Any) -> Tag:
    if not isinstance(raw, dict) or set(raw) != {"value", "confidence"}:
        raise DataError(f'The model\'s answer for `{name}` is {str(raw)[:60]!r}; expected {{"value": …, "confidence": 0..1}}.')
    values = raw["value"] if isinstance(raw["value"], list) else [raw["value"]]
    confidence = raw["confidence"]
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise DataError(f"The confidence of `{name}` is {confidence!r}; expected a number in 0..1.")
    if not values or not all(isinstance(value, str) and value.strip() and ";" not in value for value in values):
        raise DataError(f"The value of `{name}` is {raw['value']!r}; expected a text.")
    if len(values) > 1 and name not in MULTIPLE:
        raise DataError(f"`{name}` takes one value; the model gave {len(values)}.")
    tidy = tuple(str(value).strip().lower() for value in values)
    allowed = FIELDS[name]
    wrong = [value for value in tidy if allowed is not None and value not in allowed]
    if wrong:
        raise DataError(f"`{name}` cannot be {wrong[0]!r}; expected one of {', '.join(allowed or ())}.")
    return Tag(tidy, float(confidence))


def json_schema() -> dict[str, Any]:
    """The schema as JSON Schema: what a VLM is told to keep to."""
    properties = {}
    for name, allowed in FIELDS.items():
        one: dict[str, Any] = {"type": "string"} if allowed is None else {"type": "string", "enum": list(allowed)}
        value = {"type": "array", "items": one, "minItems": 1} if name in MULTIPLE else one
        confidence = {"type": "number", "minimum": 0, "maximum": 1}
        properties[name] = {
            "type": "object", "properties": {"value": value, "confidence": confidence}, "required": ["value", "confidence"],
            "additionalProperties": False,
        }  # fmt: skip
    return {"type": "object", "properties": properties, "required": list(FIELDS), "additionalProperties": False}
