"""Random geometries with no formula between the sizes; conftest.py makes them the same in every run."""

from __future__ import annotations

from hypothesis import strategies as st

from geometry import Geometry


@st.composite
def geometries(draw: st.DrawFn, largest_image: int = 12, largest_kernel: int = 4) -> Geometry:
    """Small sizes drawn one by one; padding may be negative, and windows may miss the image."""

    def pair(smallest: int, largest: int) -> tuple[int, int]:
        sizes = st.integers(smallest, largest)
        return draw(sizes), draw(sizes)

    return Geometry(
        name="random",
        n=draw(st.integers(0, 3)),
        groups=draw(st.integers(1, 4)),
        ci=draw(st.integers(0, 5)),
        co=draw(st.integers(0, 6)),
        image=pair(0, largest_image),
        output=pair(0, largest_image),
        kernel=pair(0, largest_kernel),
        stride=pair(1, 4),
        padding=pair(-3, 6),
        dilation=pair(1, 4),
    )
