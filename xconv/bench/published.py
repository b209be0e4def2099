"""What was published for the first table, to be set beside today's figures as ratios.

The cases and the three calls are those of an answer of 2016 to "Python convolution with different
dimension" (https://stackoverflow.com/questions/39220929): images in the last axis, float64,
`signal.convolve`, `signal.fftconvolve` and `ndimage.convolve` with the kernel given a third axis.
"""

from __future__ import annotations

__all__ = ["METHODS", "PUBLISHED", "SOURCE"]

SOURCE = "https://stackoverflow.com/questions/39220929"
METHODS = ("signal.convolve", "signal.fftconvolve", "ndimage.convolve")
PUBLISHED: dict[tuple[int, int, int], tuple[float, float, float]] = {}
"""Milliseconds by (S, N, K), in the order of METHODS; another machine's, so only ratios count."""
