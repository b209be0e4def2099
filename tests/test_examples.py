"""The examples run, and do what they say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage, signal

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gaussian_blur(capsys: pytest.CaptureFixture[str]) -> None:
    module = load("gaussian_blur")
    blurred = module.main(sigma=4.0)
    assert blurred.shape == (2, 400, 500, 3)
    assert "rank 1" in capsys.readouterr().out
    import imageio.v3 as iio
    import skimage

    first = iio.imread(f"{skimage.data_dir}/astronaut.png")[:400, :500, 0].astype("f4") / 255
    # ndimage cuts its kernel at 4 sigma too; both round in float32 over 33 + 33 taps.
    right = ndimage.gaussian_filter(first, 4.0, mode="mirror")
    assert np.abs(blurred[0, ..., 0] - right).max() <= 4 * 66 * np.finfo("f4").eps


def test_edge_detection() -> None:
    assert load("edge_detection").main().shape == (200, 25, 25)


def test_template_matching() -> None:
    assert load("template_matching").main(row=123, column=77) == (123, 77)


def test_psf_blur_3d() -> None:
    blurred = load("psf_blur_3d").main()
    assert blurred.shape == (128, 96, 24, 2)


def test_fir_filter() -> None:
    from matplotlib import get_data_path

    module = load("fir_filter")
    smooth = module.main(taps=101, cutoff=0.08)
    eeg = np.fromfile(get_data_path() + "/sample_data/eeg.dat", float).reshape(-1, 4)
    right = ndimage.convolve1d(eeg, signal.firwin(101, 0.08), axis=0)
    assert np.allclose(smooth, right, rtol=0, atol=1e-12 * np.abs(eeg).max())


@pytest.mark.slow
def test_cnn_learns_the_digits(tmp_path: Path) -> None:
    accuracy = load("cnn_digits").main(path=tmp_path / "digits.png")
    assert accuracy >= 0.97
    assert (tmp_path / "digits.png").stat().st_size > 10_000
