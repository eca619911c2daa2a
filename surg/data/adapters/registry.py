"""The data sets that can be read, by name.

    clips = adapter("cholec80")(Path("/data/cholec80"), split="32/8/40")

A reader is one module with `read(root, ledger, …) -> Iterator[Clip]` and, where a set holds more than a manifest can say,
`timeline(root, ledger, …) -> Iterator[Sample]`. Its keyword arguments are its options; `Adapter` checks and converts them.
"""

import dataclasses
import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from surg.data.adapters.files import duration_s
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip, settled
from surg.data.timeline import Sample
from surg.errors import ConfigError, DataError

MAX_MISSING = 0.05
"""Largest share of missing videos and labels that a data set may have before reading it fails."""

# name -> module. Module and name differ where Python forbids the name or the standard library has it.
_MODULES = {
    "folder": "folder",
    "csv": "csv_table",
    "surgvu": "surgvu",
    "mmor": "mmor",
    "4dor": "fourdor",
    "cholec80": "cholec80",
    "cholect50": "cholect50",
    "cholectrack20": "cholectrack20",
    "autolaparo": "autolaparo",
    "multibypass140": "multibypass140",
    "sarrarp50": "sarrarp50",
    "jigsaws": "jigsaws",
    "endoscapes": "endoscapes",
    "grasp": "grasp",
    "ucf101": "ucf101",
    "hmdb51": "hmdb51",
    "kinetics": "kinetics",
    "ssv2": "ssv2",
}

# Formats whose cases are the user's own.
_OWN_CASES = {"folder", "csv"}
# Values of `label` that give clips where nothing is labelled.
WITHOUT_LABELS = {"none", "take"}
# Options that the adapter fills in itself, not the user.
_OWN = {"root", "ledger", "_ledger", "lists"}


@dataclass(frozen=True)
class Adapter:
    """One data set's reader. Calling it yields clips with absolute paths."""

    name: str
    about: str
    licence: str
    reader: Callable[..., Iterator[Clip]]
    samples: Callable[..., Iterator[Sample]] | None

    def options(self) -> dict[str, inspect.Parameter]:
        """What the reader and its timeline can be told, by name."""
        functions = (self.reader,) if self.samples is None else (self.reader, self.samples)
        return {
            name: parameter
            for function in functions
            for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
            if name not in _OWN
        }

    def __call__(self, root: Path, **options: Any) -> Iterator[Clip]:
        return self.read(root, **options)

    def read(
        self,
        root: Path,
        *,
        whole: bool = False,
        max_missing: float = MAX_MISSING,
        lists: Path | None = None,
        ledger: Ledger | None = None,
        **options: Any,
    ) -> Iterator[Clip]:
        """Clips of the data set under `root`, in a fixed order.

        whole: one unlabelled clip for each video, for self-supervised training. lists: where frame lists of picture
        folders are written (default: `root/frame_lists`). ledger: filled with what was found and lacking.
        Raises DataError when the layout is not there, or, at the end, when more than `max_missing` was lacking.
        """
        root = _checked_root(self.name, root)
        ledger = Ledger() if ledger is None else ledger
        arguments = self._arguments(self.reader, options)
        if whole and "label" not in options and (without := WITHOUT_LABELS & set(self._choices("label"))):
            # Videos, parts and takes that no label covers are material too.
            arguments["label"] = without.pop()
        if "lists" in inspect.signature(self.reader).parameters:
            arguments["lists"] = (lists or root / "frame_lists").absolute()
        clips = self.reader(root, ledger, **arguments)
        if whole:
            clips = _whole_videos(clips)
        for clip in clips:
            yield dataclasses.replace(
                clip, case=self._case(clip.case), source=clip.source or self.name, licence=clip.licence or self.licence
            )
        ledger.check(self.name, root, max_missing)

    def timeline(self, root: Path, *, ledger: Ledger | None = None, **options: Any) -> Iterator[Sample]:
        """What the set tells along time beside the clips' labels (see surg.data.timeline); nothing for many sets."""
        if self.samples is None:
            return
        arguments = self._arguments(self.samples, options)
        for sample in self.samples(_checked_root(self.name, root), Ledger() if ledger is None else ledger, **arguments):
            yield dataclasses.replace(sample, case=self._case(sample.case))

    def _choices(self, option: str) -> tuple[Any, ...]:
        parameter = self.options().get(option)
        return typing.get_args(parameter.annotation) if parameter is not None else ()

    def _case(self, case: str) -> str:
        """`video07` of one set is not that of another: cases of known sets carry the set's name."""
        return case if self.name in _OWN_CASES else f"{self.name}/{case}"

    def _arguments(self, function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that this function takes, converted. Raises ConfigError for one that nothing here takes."""
        known = self.options()
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean `{close[0]}`?" if close else ""
                raise ConfigError(f"{self.name} has no option `{name}`.{hint} It has: {', '.join(sorted(known)) or 'none'}.")
        taken = inspect.signature(function).parameters
        return {name: _converted(self.name, name, known[name], value) for name, value in options.items() if name in taken}


def names() -> list[str]:
    return list(_MODULES)


def adapter(name: str) -> Adapter:
    """The reader of one data set. Raises ConfigError with the nearest known name."""
    if name not in _MODULES:
        close = difflib.get_close_matches(name.lower(), names(), n=1, cutoff=0.4)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ConfigError(f"There is no data set format `{name}`.{hint} Known: {', '.join(names())}.")
    module = importlib.import_module(f"surg.data.adapters.{_MODULES[name]}")
    about = (module.__doc__ or "").strip().splitlines()[0]
    return Adapter(
        name=name, about=about, licence=module.LICENCE, reader=module.read, samples=getattr(module, "timeline", None)
    )


def _checked_root(name: str, root: Path) -> Path:
    path = settled(Path(root))
    if not path.exists():
        raise DataError(f"There is no {path}. Say where {name} was unpacked: surg data index --format {name} FOLDER")
    return path


def _converted(set_name: str, name: str, parameter: inspect.Parameter, value: Any) -> Any:
    try:
        return TypeAdapter(parameter.annotation).validate_python(value)
    except ValidationError as error:
        choices = typing.get_args(parameter.annotation)
        expected = (
            f"one of {', '.join(map(str, choices))}"
            if choices
            else getattr(parameter.annotation, "__name__", parameter.annotation)
        )
        raise ConfigError(f"{set_name}: option `{name}` is {value!r}; expected {expected}.") from error


def _whole_videos(clips: Iterator[Clip]) -> Iterator[Clip]:
    seen: set[str] = set()
    for clip in clips:
        if clip.video not in seen:
            seen.add(clip.video)
            yield dataclasses.replace(clip, start_s=0.0, end_s=duration_s(Path(clip.video)), labels={}, zone=None, masks=None)
