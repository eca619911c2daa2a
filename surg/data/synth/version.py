"""The version of the simulators' settings, and where their randomness comes from.

Change anything that changes a pixel or a label and the number goes up: every clip carries it in `meta["simulator"]`, and results on
two versions are not comparable.
"""

import zlib

import numpy as np

SIMULATOR_VERSION = "2"
LICENCE = "CC0-1.0"


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """An own stream of random numbers for each thing that is drawn, so that no order of work can change it."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))
