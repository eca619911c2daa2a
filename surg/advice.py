"""Commands that are shown to be pasted: a path with a space, a quote or a letter that the shell knows stays one word."""

import shlex


def quoted(value: object) -> str:
    """As a shell takes it for one word; what needs no quotes gets none."""
    return shlex.quote(str(value))
