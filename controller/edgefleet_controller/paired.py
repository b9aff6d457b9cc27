"""Whether two artifacts differ in accuracy by more than the chance of the samples they were judged on."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Literal

Outcomes = tuple[bool, ...]
"""Of each golden sample, whether an artifact is right on it."""
LABELS = "labels"


def p_value(only_one_n: int, only_other_n: int) -> float:
    """Return how likely a difference at least this large is, were both equally good: McNemar's exact test, two-sided.

    Only samples on which exactly one of the two is right tell anything; each would be a coin's toss (McNemar 1947, with
    the binomial distribution in place of its approximation).

    Args:
        only_one_n: samples only the one is right on.
        only_other_n: samples only the other is right on.
    """
    unlike_n = only_one_n + only_other_n
    tail = sum(math.comb(unlike_n, hits) for hits in range(min(only_one_n, only_other_n) + 1))
    return min(1.0, float(2 * tail / 2**unlike_n)) if unlike_n else 1.0


def compare(one: Outcomes, other: Outcomes) -> float:
    """Return `p_value` of two artifacts judged on the same samples. Raises ValueError when they were not."""
    pairs = list(zip(one, other, strict=True))
    return p_value(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))


def outcomes(folder: Path, accuracy_is: Literal["metric", "agreement"]) -> Outcomes | None:
    """Return the outcomes of an artifact from its folder's samples and outputs.

    Args:
        folder: as the builder writes it.
        accuracy_is: `metric` counts a sample whose class is its label, `agreement` one whose class is the source's.

    Returns:
        None where the first output is no row of scores a sample, or a file is not there.
    """
    import numpy as np

    try:
        with np.load(folder / "artifact_outputs.npz") as found, np.load(folder / "source_outputs.npz") as source:
            name = source.files[0]
            given, wanted = found[name].reshape(len(found[name]), -1), source[name].reshape(len(source[name]), -1)
        if accuracy_is == "metric":
            with np.load(folder / "samples.npz") as samples:
                right = samples[LABELS].reshape(-1)
        else:
            right = wanted.argmax(axis=1)
        return tuple(bool(same) for same in given.argmax(axis=1) == right) if given.shape[1] > 1 else None
    except (OSError, KeyError, IndexError, ValueError, TypeError, zipfile.BadZipFile):
        return None
