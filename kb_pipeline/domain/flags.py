"""Pack yes/no answers into one integer a row, and read them back by name.

Bit i of a row answers for the i-th of a tuple of names. What the names mean belongs to the modules
that use this.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.uint16]
"""One integer a row, of up to 16 answers."""


def pack_flags(answers: Iterable[NDArray[np.bool_]]) -> Flags:
    """Return one integer a row from one array of shape (rows,) per name, in the order of the names."""
    bits = [answer.astype(np.uint16) << position for position, answer in enumerate(answers)]
    packed: Flags = np.bitwise_or.reduce(bits)
    return packed


def flagged_names(bits: int, names: Sequence[str]) -> list[str]:
    """Return the names whose bit is set, in their order."""
    return [name for position, name in enumerate(names) if bits >> position & 1]
