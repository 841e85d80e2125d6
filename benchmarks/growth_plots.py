"""Draw how things grow: one small picture for time, one for memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_GROUPS: Final = {
    "runs and tunes written": ("candidacy", "landing", "attribution"),
    "questions": ("recommend", "best", "regimes"),
    "bars": ("reading", "features"),
    "partitions": ("sync", "tick", "tick_new"),
}


def draw(series: Mapping[str, Sequence[Any]], into: Path) -> None:
    """Write growth-time.png and growth-memory.png from points of size, results, seconds, megabytes."""
    import matplotlib

    matplotlib.use("Agg")
    _picture(series, into / "growth-time.png", "seconds", "seconds", log=True)
    _picture(series, into / "growth-memory.png", "megabytes", "peak memory of the process, MB", log=False)


def _picture(series: Mapping[str, Sequence[Any]], path: Path, field: str, label: str, *, log: bool) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(_GROUPS), figsize=(14, 3.4), layout="constrained")
    for axis, (title, names) in zip(axes, _GROUPS.items(), strict=True):
        for name in names:
            points = series.get(name, ())
            axis.plot(
                [it.size for it in points], [getattr(it, field) for it in points], marker="o", label=name
            )
        axis.set(title=title, xscale="log", xlabel="size", ylabel=label if axis is axes[0] else "")
        axis.set(**({"yscale": "log"} if log else {"ylim": (0, None)}))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
