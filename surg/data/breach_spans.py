"""When a clip's labels say that sterility was broken: one reading for training, evaluation and `surg data check`."""

import json

from surg.data.manifest import Clip
from surg.errors import DataError

Span = tuple[float, float]


def breach_spans(clip: Clip) -> list[Span] | None:
    """First and last second of each breach, in seconds of the video: of label `breaches`, else `breach_t0` to `breach_t1`, else the
    whole clip. None where nobody looked (no label `breach`); empty where it is 0. Raises DataError for what is no time.
    """
    known = clip.labels.get("breach")
    if known is None:
        return None
    if _number(clip, "breach", known) == 0:
        return []
    if "breaches" in clip.labels:
        try:
            spans = [(float(span[0]), float(span[1])) for span in json.loads(str(clip.labels["breaches"]))]
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise DataError(
                f"The label `breaches` is {clip.labels['breaches']!r}; expected [[start, end], …] in seconds as JSON."
            ) from error
    else:
        start, stop = (_number(clip, name, clip.labels.get(name, -1)) for name in ("breach_t0", "breach_t1"))
        # The simulators write -1 where there is no time.
        spans = [(clip.start_s, clip.end_s)] if start < 0 and stop < 0 else [(start, stop)]
    for start, stop in spans:
        if not 0 <= start <= stop:
            raise DataError(
                f"A breach from {start:g} to {stop:g} s makes no sense (case {clip.case}); expected 0 <= breach_t0 <= breach_t1 in seconds "
                "of the video, or neither for a clip that is a breach as a whole."
            )
    return spans


def _number(clip: Clip, name: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        wanted = "0 or 1" if name == "breach" else "seconds of the video"
        raise DataError(f"The label `{name}` is {value!r} (case {clip.case}); expected {wanted}.") from error
