"""Pickles from the internet, read without running what they say.

A pickle can call any function while it loads. This one may build dicts, lists, tuples, text and numbers, and nothing else.
"""

import pickle
from pathlib import Path
from typing import Any

from surg.errors import DataError

# Plain containers and numbers need no class at all; these rebuild numpy's numbers, under their old and new module names.
ALLOWED = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("collections", "OrderedDict"),
    }
)


class _Refused(Exception):
    pass


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: Path) -> Any:
    """Raises DataError when the file is no pickle, or wants anything but plain values."""
    try:
        with path.open("rb") as file:
            return _Plain(file).load()
    except _Refused as error:
        raise DataError(
            f"{path} is not the plain table it should be: it wants to run `{error}` while it loads, and was not read.\n"
            "Download it again from the data set's own page."
        ) from error
    except (
        OSError,
        EOFError,
        pickle.UnpicklingError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        UnicodeDecodeError,
    ) as error:
        raise DataError(f"{path} cannot be read as a pickle: {error}. Download it again.") from error
