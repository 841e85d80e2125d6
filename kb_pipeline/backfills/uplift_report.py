"""What a measurement of uplift tells: counts that add up, and a table that says what its numbers mean."""

from dataclasses import asdict, dataclass
from typing import Any

from kb_pipeline.domain.uplift_cells import UpliftCell


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftReport:
    """What was measured, or would be stored. `unknown` counts tunes without an uplift by reason."""

    workspace_id: str
    dry_run: bool
    scanned: int
    known: int
    unknown: dict[str, int]
    cells: tuple[UpliftCell, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the same numbers for machines."""
        return asdict(self)
