"""All samples of a run in a few kilobytes: an HdrHistogram (hdrhistogram.org), which other tools read and add up."""

from __future__ import annotations

import numpy as np

from edgefleet_agent.qualify.latency.stats import Nanoseconds

MAX_ENCODED = 5120
"""Characters: as much as the evidence carries (five kilobytes of base64)."""


def encode_histogram(samples: Nanoseconds) -> str | None:
    """Return samples in nanoseconds as an HdrHistogram, V2 compressed, base64; None where the library is missing.

    Three significant digits, or as many as fit into `MAX_ENCODED`. It is filled after the run, never inside of it.
    """
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        return None
    highest = max(2, 2 * int(samples.max()))
    for digits in (3, 2, 1):
        histogram = HdrHistogram(1, highest, digits)
        for value, count in zip(*_buckets(samples, digits), strict=True):
            histogram.record_value(value, count)
        text = str(histogram.encode().decode("ascii"))
        if len(text) <= MAX_ENCODED:
            return text
    return None


def _buckets(samples: Nanoseconds, digits: int) -> tuple[list[int], list[int]]:
    """Return the distinct values a histogram of these digits tells apart, and how often each came.

    Its buckets are 2^k wide, with as many in each power of two as 10^digits need; adding thousands of equal values
    at once takes milliseconds where adding each takes seconds on a small board.
    """
    half = 2 ** int(np.ceil(np.log2(2 * 10**digits))) // 2
    width = np.maximum(0, np.floor(np.log2(np.maximum(samples, 1) / half)).astype(np.int64))
    values, counts = np.unique(np.maximum(samples, 1) >> width << width, return_counts=True)
    return values.tolist(), counts.tolist()
