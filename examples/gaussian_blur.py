"""Blur a batch of colour photographs with one plain 2-D kernel; that it is separable is found."""

import imageio.v3 as iio
import numpy as np
import skimage

import xconv


def main(sigma=4.0):
    """The blurred photographs, NHWC like the batch."""
    folder = skimage.data_dir
    photographs = [iio.imread(f"{folder}/{name}.png") for name in ("astronaut", "coffee")]
    x = np.stack([p[:400, :500, :3] for p in photographs]).astype("f4") / 255
    radius = round(4 * sigma)
    g = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(g, g).astype("f4")
    kernel /= kernel.sum()
    plan = xconv.plan(x, kernel, layout="NHWC", mode="same", boundary="mirror")
    print(plan.explain())
    return plan(x)


if __name__ == "__main__":
    main()
