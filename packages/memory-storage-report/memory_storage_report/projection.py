"""Projects vectors onto their first two principal components, by numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .formatting import counted

_MIN_VECTORS = 3


@dataclass(frozen=True, slots=True)
class Projection:
    """A point of the plane for each vector, and the share of the variance that the plane keeps."""

    coordinates: list[tuple[float, float]]
    variance_ratio: float


def project(vectors: Sequence[Sequence[float]]) -> Projection | str:
    """Return the projection, or a sentence with the reason why there is none."""
    if len(vectors) < _MIN_VECTORS:
        return f"Only {counted(len(vectors), 'episode')} with vectors of one model: too few for a picture."
    try:
        import numpy
    except ImportError:
        return "The picture of the vectors needs numpy: pip install numpy."
    points = numpy.asarray(vectors, dtype=numpy.float64)
    points = points - points.mean(axis=0)
    _, strengths, axes = numpy.linalg.svd(points, full_matrices=False)
    total_variance = float((strengths**2).sum())
    if not total_variance or len(axes) < 2:
        return "All vectors are the same, or of one dimension: there is no picture of them."
    # The sign of a principal axis is arbitrary: make its largest component positive, so that reports are repeatable.
    signs = numpy.sign(axes[[0, 1], numpy.abs(axes[:2]).argmax(axis=1)])
    coordinates = points @ (axes[:2] * signs[:, None]).T
    return Projection(
        [(float(x), float(y)) for x, y in coordinates], float((strengths[:2] ** 2).sum()) / total_variance
    )
