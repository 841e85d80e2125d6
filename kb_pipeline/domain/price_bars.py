"""Hold the prices of one series as arrays, and take them out of a data frame.

Only what a regime is computed from: high, low, close and the bars' times. Whether a file's bars are
plausible is checked where files are read.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from kb_pipeline.errors import BadArgumentError, MissingColumnError

if TYPE_CHECKING:
    import pandas as pd

_TIME_COLUMNS: Final = ("date", "datetime", "time", "timestamp", "ts")


@dataclass(frozen=True, slots=True)
class PriceBars:
    """Bars in ascending time order; every array has shape (bars,).

    `times` are the bars' times as they will be stored: datetime64[us] in UTC, text as it was given,
    or empty text where the bars have no times.
    """

    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    times: NDArray[Any]

    @classmethod
    def from_frame(cls, frame: "pd.DataFrame") -> Self:
        """Return the bars of a frame.

        Args:
            frame: Columns high, low and close, or h, l and c, in any case. Times are taken from a
                DatetimeIndex (UTC where it has no zone), else from the first column named date,
                datetime, time, timestamp or ts.

        Raises:
            MissingColumnError: A price column is missing.
            BadArgumentError: One is there twice, or does not hold numbers.
        """
        high, low, close = (_prices(frame, name) for name in ("high", "low", "close"))
        return cls(high, low, close, _times(frame))

    def __len__(self) -> int:
        return int(self.close.size)


def time_texts(times: NDArray[Any]) -> list[str]:
    """Return times as they are stored: instants in ISO-8601 with offset +00:00, text as it is."""
    if times.dtype.kind != "M":
        return [str(text) for text in times]
    seconds = times.astype("datetime64[s]")
    texts = [f"{text}+00:00" for text in np.datetime_as_string(seconds).tolist()]
    for row in np.flatnonzero(seconds != times):
        texts[row] = "" if np.isnat(times[row]) else f"{np.datetime_as_string(times[row], unit='us')}+00:00"
    return texts


def _labels(frame: "pd.DataFrame", name: str) -> list[Any]:
    return [label for label in frame.columns if str(label).strip().lower() == name]


def _prices(frame: "pd.DataFrame", name: str) -> NDArray[np.float64]:
    labels = _labels(frame, name) or _labels(frame, name[0])
    if len(labels) != 1:
        error_class = BadArgumentError if labels else MissingColumnError
        raise error_class(
            f"The bars have {len(labels)} columns named {name!r}, but a regime needs exactly one. "
            f"Columns found: {', '.join(map(str, frame.columns))}."
        )
    try:
        return np.asarray(frame[labels[0]].to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise BadArgumentError(f"Column {labels[0]!r} does not hold numbers only: {error}.") from error


def _times(frame: "pd.DataFrame") -> NDArray[Any]:
    columns = [frame[label] for name in _TIME_COLUMNS for label in _labels(frame, name)]
    for times in (frame.index, *columns):
        if times.dtype.kind == "M":
            # Of zoned times this takes the instants, in UTC.
            return np.asarray(times.to_numpy(dtype="datetime64[us]"))
    texts = next((column for column in columns if column.dtype.kind == "O"), None)
    return np.full(len(frame), "", dtype=object) if texts is None else np.asarray(texts, dtype=object)
