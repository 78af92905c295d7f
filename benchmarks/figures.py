"""The arithmetic of the reports: percentiles, medians over repeats, ratios. Pure; knows nothing of servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value below which `percent` of the values lie, interpolated linearly; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median(values: Sequence[float | None]) -> float | None:
    """The median of the values that are there; None when none is."""
    return percentile([value for value in values if value is not None], 50)


def ratio(value: float | None, other: float | None) -> float | None:
    """`value` over `other`; None when one is missing or `other` is 0."""
    return value / other if value is not None and other else None


def best(values: Mapping[str, float | None], *, is_higher_better: bool) -> str | None:
    """The name of the best value; None when there is none."""
    present = {name: value for name, value in values.items() if value is not None}
    if not present:
        return None
    return (max if is_higher_better else min)(present, key=lambda name: present[name])


def shown(value: float | None, unit: str = "") -> str:
    """A number for a table: three significant digits, whole from 100 on; a dash for none."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit}"
