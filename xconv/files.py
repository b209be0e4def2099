"""Arrays in files: .npy, .npz, .tif, and images one by one or as a folder of them.

Large files are memory-mapped where their format allows it.  A file is written beside its place
and moved there when it is complete, so that nothing else ever sees half of it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArgumentError

__all__ = ["read", "writing"]

Array = np.ndarray[Any, np.dtype[Any]]
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


def read(path: str) -> Array:
    """The array in a file, memory-mapped where it can be.

    `path` ends in .npy, .npz (of one array, or "file.npz:name"), .tif, .png or another image, or
    is a folder of images of equal shape, which are stacked in the order of their names on a new
    first axis.

    Raises
    ------
    ArgumentError
        (a ValueError) if there is no such file, or it cannot be read as what its name says.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from xconv.files import read, writing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(f"{folder}/ones.npy", (2, 3), "float32") as array:
    ...         array[...] = 1
    ...     float(read(f"{folder}/ones.npy").sum())
    6.0
    """
    name, member = path, ""
    if ".npz:" in path:
        name, _, member = path.rpartition(":")
    file = Path(name)
    if not file.exists():
        raise ArgumentError(f"there is no file {name!r}; check the path, it is relative to "
                            f"{os.getcwd()}")  # fmt: skip
    form = _format(file, file.is_dir())
    try:
        array = form.read(file, member)
    except ArgumentError:
        raise
    except Exception as error:  # every reader has its own errors for a damaged file
        raise ArgumentError(
            f"cannot read {path!r} as {form.name}: {error or type(error).__name__}; "
            "the file may be damaged, cut short, or of another format than its name says"
        ) from error
    if array.dtype.kind not in "biufc":
        raise ArgumentError(
            f"{path!r} holds {array.dtype}, which is no dtype of numbers; "
            "save it as bool, an integer, float or complex dtype"
        )
    return array


@contextmanager
def writing(path: str, shape: tuple[int, ...], dtype: Any) -> Iterator[Array]:
    """An array to fill, which becomes the file when the block ends without an error.

    The file replaces one of the same name in a single step.  After an error or an interruption
    there is no file, or still the old one.

    Raises
    ------
    ArgumentError
        (a ValueError) if the format cannot hold such an array, or the place cannot be written.
    """
    target = Path(path)
    form = _format(target, path.endswith(("/", os.sep)))
    dtype = np.dtype(dtype)
    wrong = form.refuses(shape, dtype)
    if wrong:
        raise ArgumentError(f"cannot write {path!r}: {wrong}")
    if target.is_dir() and (form is not FOLDER or any(target.iterdir())):
        raise ArgumentError(
            f"cannot write {path!r}: it is a folder"
            + (" that is not empty" if form is FOLDER else "")
            + "; choose another name"
        )
    # Beside its place, since a file can only be renamed within one file system.
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part{form.suffixes[0]}")
    try:
        try:
            array = form.create(part, shape, dtype)
        except OSError as error:
            raise ArgumentError(
                f"cannot write {path!r}: {error.strerror or error}; "
                "choose a place where you may write and that has room"
            ) from error
        yield array
        form.finish(part, array)
        del array
        _synchronise(part)
        os.replace(part, target)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif part.exists():
            part.unlink()
        raise


def _synchronise(path: Path) -> None:
    """Have the contents on the disk before the name, or a power cut could leave an empty file."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())


@dataclass(frozen=True)
class _Format:
    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, str], Array]
    """The array of a file, and of a member of it if one is named."""
    create: Callable[[Path, tuple[int, ...], np.dtype[Any]], Array]
    """A writable array for a new file."""
    finish: Callable[[Path, Array], None]
    """Write what `create` has left to be written."""
    refuses: Callable[[tuple[int, ...], np.dtype[Any]], str] = lambda shape, dtype: ""
    """Why the format cannot hold such an array; empty if it can."""


def _format(path: Path, folder: bool) -> _Format:
    if folder:
        return FOLDER
    for form in FORMATS:
        if path.suffix.lower() in form.suffixes:
            return form
    known = ", ".join(suffix for form in FORMATS for suffix in form.suffixes if suffix)
    raise ArgumentError(
        f"the format of {str(path)!r} is unknown; use one of {known}, "
        "or a folder of images (to write one, end its name in /)"
    )


# NumPy's own files.


def _read_npy(path: Path, member: str) -> Array:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _create_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _flush(path: Path, array: Array) -> None:
    if isinstance(array, np.memmap):
        array.flush()


def _read_npz(path: Path, member: str) -> Array:
    # Readers leave open the file of a path that they fail on; ours is closed.
    with open(path, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive of arrays")
        names = archive.files
        if member not in names and (member or len(names) != 1):
            raise ArgumentError(
                f"{str(path)!r} holds the arrays {', '.join(names) or 'none'}"
                + (f", not {member!r}" if member else "")
                + f"; name one, as in {path.name}:{(names or ['name'])[0]}"
            )
        return archive[member or names[0]]


def _in_memory(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    path.touch(exist_ok=False)  # so that a place that cannot be written is found out now
    return np.empty(shape, dtype)


def _finish_npz(path: Path, array: Array) -> None:
    with open(path, "wb") as file:
        np.savez(file, array)


# TIFF, through tifffile.


def _read_tiff(path: Path, member: str) -> Array:
    tifffile = _reader("tifffile")
    try:
        return tifffile.memmap(path, mode="r")  # type: ignore[no-any-return]
    except ValueError:  # compressed, or not in one piece
        return tifffile.imread(path)  # type: ignore[no-any-return]


def _create_tiff(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    colour = len(shape) > 2 and shape[-1] in (3, 4) and dtype.name in ("uint8", "uint16")
    return _reader("tifffile").memmap(  # type: ignore[no-any-return]
        path, shape=shape, dtype=dtype, photometric="rgb" if colour else "minisblack"
    )


def _refuse_tiff(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    if 0 in shape:
        return f"a .tif cannot hold an array of shape {shape}; write .npy"
    if dtype.kind == "b" or dtype.itemsize > 16:
        return f"a .tif cannot hold {dtype}; pass --output-dtype, or write .npy"
    return ""


# Images, through imageio.


def _read_image(path: Path, member: str) -> Array:
    return np.asarray(
        _reader("imageio.v3").imread(path.read_bytes(), index=0, extension=path.suffix)
    )


def _finish_image(path: Path, array: Array) -> None:
    _reader("imageio.v3").imwrite(path, array, extension=".png")


def _refuse_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    if dtype.name not in ("uint8", "uint16") or (dtype.name == "uint16" and len(shape) > 2):
        return (
            f"a .png holds uint8, or uint16 without colours, not {dtype} of shape {shape}; "
            "pass --output-dtype uint8 to have it rounded, or write .npy or .tif"
        )
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or 0 in shape:
        return (
            f"an image has shape (height, width), or (height, width, 3 or 4), not {shape}; "
            "write .npy or .tif, or end the name in / to have a folder of images"
        )
    return ""


def _read_folder(path: Path, member: str) -> Array:
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGES)
    if not files:
        raise ArgumentError(f"the folder {str(path)!r} holds no image ({', '.join(IMAGES)})")
    first = read(str(files[0]))
    stack = np.empty((len(files), *first.shape), first.dtype)
    for frame, file in zip(stack, files, strict=True):
        image = read(str(file))
        if image.shape != first.shape or image.dtype != first.dtype:
            raise ArgumentError(
                f"{str(file)!r} has shape {image.shape} and dtype {image.dtype}, but "
                f"{str(files[0])!r} has {first.shape} and {first.dtype}; "
                "the images of a folder must be alike to be stacked"
            )
        frame[...] = image
    return stack


def _create_folder(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    path.mkdir()
    return np.empty(shape, dtype)


def _finish_folder(path: Path, array: Array) -> None:
    digits = len(str(len(array) - 1))
    for number, image in enumerate(array):
        _finish_image(path / f"{number:0{digits}}.png", image)


def _refuse_folder(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    if len(shape) < 3:
        return f"a folder of images needs three or four axes, not shape {shape}; write .png"
    return _refuse_image(shape[1:], dtype)


def _reader(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ArgumentError(
            f"this format needs {name.partition('.')[0]}, which is not installed; "
            "pip install 'xconv[cli]'"
        ) from error


FORMATS = (
    _Format("a .npy file", (".npy",), _read_npy, _create_npy, _flush),
    _Format("a .npz file", (".npz",), _read_npz, _in_memory, _finish_npz),
    _Format("a TIFF file", (".tif", ".tiff"), _read_tiff, _create_tiff, _flush, _refuse_tiff),
    _Format("an image", IMAGES, _read_image, _in_memory, _finish_image, _refuse_image),
)
FOLDER = _Format(
    "a folder of images", ("",), _read_folder, _create_folder, _finish_folder, _refuse_folder
)
