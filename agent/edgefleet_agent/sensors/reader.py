"""Reads rails fast: descriptors are kept open, one `pread` an attribute (about 1 µs each; opening costs 15)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from edgefleet_agent.sensors.files import MAX_PLAIN_DIGITS, SensorFileError, open_attribute, parse_int
from edgefleet_agent.sensors.rails import MAX_WATTS, Call, Rail
from edgefleet_contract.profile import RailKind

_READ_BYTES = 32
"""Longer than any 64-bit number with its sign and line end."""

Row = tuple["int | float", ...]
"""Raw numbers of one round: one for each file or call, in the rails' order."""


class RailReader:
    """Keeps the files of some rails open. A context manager; `read()` may raise at any time, as sensors do.

    Raises:
        SensorFileError: a file cannot be opened.
    """

    def __init__(self, rails: Sequence[Rail]) -> None:
        self.rails = tuple(rails)
        self._paths: list[Path] = []
        self._descriptors: list[int] = []
        self._calls: list[Call] = []
        self._slots: list[tuple[int, ...]] = []
        try:
            for rail in self.rails:
                self._add(rail)
        except SensorFileError:
            self.close()
            raise

    def _add(self, rail: Rail) -> None:
        if isinstance(rail.source, Call):
            self._calls.append(rail.source)
            self._slots.append((-len(self._calls),))
            return
        first = len(self._descriptors)
        self._paths.extend(rail.source.paths)
        # What was opened before one fails is in the list by then, and is closed.
        self._descriptors.extend(open_attribute(path) for path in rail.source.paths)
        self._slots.append(tuple(range(first, len(self._descriptors))))

    def read(self) -> Row:
        """Read every file and call once. Raises SensorFileError."""
        pread = os.pread
        try:
            # The quick way for plain digits; everything else goes through the strict parser.
            row: list[int | float] = [
                int(digits)
                if (digits := pread(descriptor, _READ_BYTES, 0).rstrip()).isdigit() and len(digits) <= MAX_PLAIN_DIGITS
                else parse_int(digits)
                for descriptor in self._descriptors
            ]
        except (OSError, SensorFileError) as error:
            raise self._named(error) from error
        row.extend(call.read() for call in reversed(self._calls))
        return tuple(row)

    def _named(self, error: OSError | SensorFileError) -> SensorFileError:
        """Return the error with the name of the first file that cannot be read now."""
        for path, descriptor in zip(self._paths, self._descriptors, strict=True):
            try:
                parse_int(os.pread(descriptor, _READ_BYTES, 0))
            except OSError as found:
                return SensorFileError(f"{path.name}: {found.strerror or 'cannot be read'}")
            except SensorFileError as found:
                return SensorFileError(f"{path.name} {found}")
        return SensorFileError(f"a reading failed once: {error}")

    def counts(self, row: Row) -> tuple[int | float, ...]:
        """Return one number a rail, not scaled: the product of its files' numbers, or what its call gave."""
        numbers: list[int | float] = []
        for slots in self._slots:
            product: int | float = 1
            for slot in slots:
                product *= row[slot]
            numbers.append(product)
        return tuple(numbers)

    def values(self, row: Row) -> tuple[float, ...]:
        """Return one value a rail: watts, or joules for counters.

        Raises:
            SensorFileError: more than 10 kW, which no edge device draws.
        """
        values = tuple(count / rail.source.per_unit for count, rail in zip(self.counts(row), self.rails, strict=True))
        for value, rail in zip(values, self.rails, strict=True):
            if rail.kind is not RailKind.COUNTER and abs(value) > MAX_WATTS:
                msg = f"{rail.name} reads {value:.3g} W, which no device of this kind draws"
                raise SensorFileError(msg)
        return values

    def resolutions(self, rows: Sequence[Row]) -> tuple[float, ...]:
        """Return by how much one step of each rail's files moves its value: watts, or joules for counters.

        A file's step is the smallest difference between two numbers it gave (an INA3221 steps by 8 mV), or 1
        where it gave only one; a call's is not known and counts as 0.
        """
        return tuple(self._resolution(rows, index) for index in range(len(self.rails)))

    def _resolution(self, rows: Sequence[Row], index: int) -> float:
        slots, source = self._slots[index], self.rails[index].source
        if isinstance(source, Call) or not rows:
            return 0.0
        moved = 0.0
        for slot in slots:
            others = math.prod(abs(rows[-1][other]) for other in slots if other != slot)
            moved += _step([row[slot] for row in rows]) * others
        return moved / source.per_unit

    def close(self) -> None:
        """Close every descriptor."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> RailReader:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _step(numbers: Sequence[int | float]) -> int | float:
    distinct = sorted(set(numbers))
    return min((later - earlier for earlier, later in pairwise(distinct)), default=1)
