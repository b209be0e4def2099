"""Blur a series of brain volumes with a 3-D point spread function (nibabel's sample scan)."""

from pathlib import Path

import nibabel
import numpy as np

import xconv


def main(sigma=(1.5, 1.5, 1.0)):
    """The blurred volumes, (X, Y, Z, T) like the scan."""
    scan = nibabel.load(Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz")
    volumes = np.asarray(scan.dataobj, "f4")
    grid = [np.arange(-round(3 * s), round(3 * s) + 1) / s for s in sigma]
    psf = np.exp(-0.5 * sum(g**2 for g in np.meshgrid(*grid, indexing="ij"))).astype("f4")
    psf /= psf.sum()
    # T is a batch axis here, and every letter but N, B, C is convolved: so call it N.
    blurred = xconv.convolve(volumes, psf, layout="XYZN", mode="same", boundary="nearest")
    print(f"{volumes.shape} by {psf.shape}: deviation {volumes.std():.1f} to {blurred.std():.1f}")
    return blurred


if __name__ == "__main__":
    main()
