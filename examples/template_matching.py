"""Find where a patch was cut from a photograph: normalised cross-correlation.

The three correlations are of large kernels; the boxes among them are of rank 1, and so cheap.
"""

import imageio.v3 as iio
import numpy as np
import skimage

import xconv


def main(row=200, column=260, size=41):
    """(row, column) of the best match."""
    image = iio.imread(f"{skimage.data_dir}/camera.png").astype(float)
    template = image[row : row + size, column : column + size]
    template = template - template.mean()
    box = np.ones_like(template)
    match = xconv.correlate(image, template, mode="valid")
    total = xconv.correlate(image, box, mode="valid")
    squares = xconv.correlate(image * image, box, mode="valid")
    spread = np.sqrt(np.maximum(squares - total**2 / box.size, 1e-9))
    score = match / (spread * np.sqrt((template**2).sum()))
    found = tuple(int(i) for i in np.unravel_index(score.argmax(), score.shape))
    print(f"template of {size} x {size} cut at {(row, column)}, found at {found}")
    return found


if __name__ == "__main__":
    main()
