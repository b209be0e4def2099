"""Arrays survive the way to a file and back, and no file is ever half written or damaged."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from xconv import ArgumentError
from xconv.files import read, writing

imageio = pytest.importorskip("imageio.v3")
tifffile = pytest.importorskip("tifffile")

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (6, 7, 3), np.uint8)


def write(path: Path | str, values: np.ndarray) -> None:
    with writing(str(path), values.shape, values.dtype) as array:
        array[...] = values


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "A.TIFF"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 3), (2, 3, 4, 3)])
def test_round_trip(tmp_path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> None:
    if len(shape) == 1 and "tif" in name.lower():
        shape = (1, *shape)
    values = (rng.standard_normal(shape) * 100).astype(dtype)
    write(tmp_path / name, values)
    back = read(str(tmp_path / name))
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("values", [IMAGE, IMAGE[..., 0], IMAGE[..., 1].astype(np.uint16) * 257])
def test_png(tmp_path: Path, values: np.ndarray) -> None:
    write(tmp_path / "a.png", values)
    back = read(str(tmp_path / "a.png"))
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("shape", [(12, 6, 7, 3), (12, 6, 7)])
def test_folder_of_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = rng.integers(0, 256, shape, np.uint8)
    write(f"{tmp_path}/frames/", values)
    names = sorted(file.name for file in (tmp_path / "frames").iterdir())
    assert names == [f"{i:02}.png" for i in range(12)]
    np.testing.assert_array_equal(read(str(tmp_path / "frames")), values)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_no_elements(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    write(tmp_path / name, np.empty(shape, np.float32))
    back = read(str(tmp_path / name))
    assert (back.shape, back.dtype) == (shape, np.float32)


def test_large_files_are_mapped(tmp_path: Path) -> None:
    for name in ("a.npy", "a.tif"):
        write(tmp_path / name, IMAGE)
        assert isinstance(read(str(tmp_path / name)), np.memmap)


def test_fortran_order_and_byte_order(tmp_path: Path) -> None:
    values = np.asfortranarray(rng.standard_normal((4, 5)).astype(">f8"))
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npy"), values)


def test_compressed_tiff_and_named_member(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", compression="zlib")
    np.testing.assert_array_equal(read(f"{tmp_path}/a.tif"), IMAGE)
    np.savez(tmp_path / "a.npz", one=IMAGE, two=IMAGE + 1)
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npz:two"), IMAGE + 1)


def test_colours_of_a_tiff_are_colours(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", IMAGE)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB


def test_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write(tmp_path / "a.npy", IMAGE)
    usual, given = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("usual", "a.npy"))
    assert given == usual


class Interruption(BaseException):
    """Like KeyboardInterrupt, no Exception."""


def write_half(path: str, shape: tuple[int, ...], error: type[BaseException]) -> None:
    with writing(path, shape, np.uint8) as array:
        array[0] = 1
        assert list(Path(path).parent.glob(".*.part*"))
        raise error


OUTPUTS = ["a.npy", "a.npz", "a.tif", "a.png", "a/"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("error", [Interruption, KeyboardInterrupt, SystemExit, OSError])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    shape = (2, *IMAGE.shape) if name == "a/" else IMAGE.shape
    with pytest.raises(error):
        write_half(f"{tmp_path}/{name}", shape, error)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", OUTPUTS[:-1])
def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, IMAGE)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(Interruption):
        write_half(f"{tmp_path}/{name}", (9, 9), Interruption)
    assert (tmp_path / name).read_bytes() == before
    write(tmp_path / name, IMAGE[:2])
    np.testing.assert_array_equal(read(f"{tmp_path}/{name}"), IMAGE[:2])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_writer_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.npz", IMAGE)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.npy", IMAGE)
    assert not any(tmp_path.iterdir())


def test_reading_what_is_being_replaced(tmp_path: Path) -> None:
    """A mapped input may also be the output."""
    write(tmp_path / "a.npy", IMAGE)
    old = read(f"{tmp_path}/a.npy")
    with writing(f"{tmp_path}/a.npy", old.shape, old.dtype) as new:
        new[...] = 255 - old
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npy"), 255 - IMAGE)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "a.png"])
def test_every_truncation_is_noticed(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, IMAGE)
    whole = (tmp_path / name).read_bytes()
    for length in {0, 1, 4, 10, len(whole) // 4, len(whole) // 2, len(whole) - len(whole) // 8}:
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ArgumentError, match="cannot read"):
            np.array(read(f"{tmp_path}/{name}"))
