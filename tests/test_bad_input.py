"""Wrong calls: each raises the documented type, names the value, and says the way out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xconv
from xconv import (
    ArgumentError,
    ArgumentTypeError,
    MemoryLimitError,
    MethodRefused,
    Spec,
    XconvError,
)

X = np.arange(2 * 8 * 9.0).reshape(2, 8, 9)
K = np.ones((3, 2))
COLOUR = np.ones((2, 8, 9, 6))
INTEGERS = np.ones((8, 9), np.int32)


class Nothing:
    """Of a type that no backend takes."""


def convolve(*operands: Any, **options: Any) -> Callable[[], Any]:
    return lambda: xconv.convolve(*operands, **options)


# (call, error, every one of these texts in the message)
CALLS: dict[str, tuple[Callable[[], Any], type[XconvError], tuple[str, ...]]] = {
    # axes and letters
    "kernel of more axes than x": (convolve(X[0, 0], K), ArgumentError, ("2 axes", "has 1")),
    "kernel without axes": (convolve(X, 3.0), ArgumentError, ("no axes", "one axis per")),
    "too few letters": (convolve(X, K, layout="HW"), ArgumentError, ('"HW"', "x has 3", "...")),
    "too many letters": (convolve(X, K, layout="NCHW"), ArgumentError, ('"NCHW"', "x has 3")),
    "kernel of wrong ndim": (
        convolve(X, K[0], layout="NHW"),
        ArgumentError,
        ("kernel has 1 ax", '"NHW"', "kernel_layout"),
    ),
    "no letter": (convolve(X, K, layout="N1W"), ArgumentError, ("'1'", "A to Z")),
    "small letter": (convolve(X, K, layout="nhw"), ArgumentError, ("'n'", "A to Z")),
    "repeated letter": (convolve(X, K, layout="NHH"), ArgumentError, ('"NHH"', "H", "once")),
    "two ellipses": (convolve(X, K, layout="......HW"), ArgumentError, ("......HW", "once")),
    "reserved letter": (convolve(X, K, layout="GHW"), ArgumentError, ("G", "GHW")),
    "O in x": (convolve(X, K, layout="OHW"), ArgumentError, ("O", '"OHW"')),
    "batch letter in the kernel": (
        convolve(X, np.ones((2, 3, 2)), layout="NHW", kernel_layout="NHW"),
        ArgumentError,
        ("N", '"NHW"', "kernel"),
    ),
    "ellipsis in the kernel": (
        convolve(X, K, layout="NHW", kernel_layout="...W"),
        ArgumentError,
        ("...",),
    ),
    "missing spatial letter": (
        convolve(X, np.ones(3), layout="NHW", kernel_layout="H"),
        ArgumentError,
        ("W", '"H"'),
    ),
    "spatial letter that x lacks": (
        convolve(X, np.ones((3, 2, 2)), layout="NHW", kernel_layout="HWD"),
        ArgumentError,
        ("D", '"HWD"'),
    ),
    "I and C in the kernel": (
        convolve(COLOUR, np.ones((3, 3, 6, 6)), layout="NHWC", kernel_layout="HWIC"),
        ArgumentError,
        ("I", "C"),
    ),
    "I without C in x": (
        convolve(X, np.ones((3, 3, 2, 4)), layout="NHW", kernel_layout="HWIO"),
        ArgumentError,
        ("I", "C"),
    ),
    "O in the middle": (
        convolve(X, np.ones((3, 4, 2)), layout="NHW", kernel_layout="HOW"),
        ArgumentError,
        ("HOW", "out_layout"),
    ),
    "out_layout lacks an axis": (
        convolve(X, K, layout="NHW", out_layout="HW"),
        ArgumentError,
        ('"HW"', "has 3", "one letter per axis"),
    ),
    "kernel_layout without layout": (
        convolve(X, K, kernel_layout="HW"),
        ArgumentError,
        ("kernel_layout='HW'", "layout="),
    ),
    "layout and axes": (
        convolve(X, K, layout="NHW", axes=(1, 2)),
        ArgumentError,
        ("'NHW'", "(1, 2)", "one of them"),
    ),
    "layout of wrong type": (convolve(X, K, layout=3), ArgumentTypeError, ("layout", "3")),
    "axis out of range": (convolve(X, K, axes=(0, 3)), ArgumentError, ("3", "from -3 to 2")),
    "axis named twice": (convolve(X, K, axes=(1, -2)), ArgumentError, ("(1, -2)", "once")),
    "too few axes": (convolve(X, K, axes=1), ArgumentError, ("(1,)", "2")),
    "float axis": (convolve(X, K, axes=(0, 1.0)), ArgumentTypeError, ("1.0", "float")),
    # names and numbers
    "unknown mode": (convolve(X, K, mode="smae"), ArgumentError, ("'smae'", '"same"')),
    "mode of wrong type": (convolve(X, K, mode=2), ArgumentError, ("mode=2", '"full"')),
    "too few pairs": (convolve(X, K, mode=((1, 1),)), ArgumentError, ("1 pairs", "2 axes")),
    "negative padding": (
        convolve(X, K, mode=((-1, 1), (0, 0))),
        ArgumentError,
        ("mode=-1", "non-negative"),
    ),
    "unknown boundary": (
        convolve(X, K, boundary="mirrored"),
        ArgumentError,
        ("'mirrored'", "reflect_101", "NumPy and PyTorch"),
    ),
    "unknown method": (convolve(X, K, method="fast"), ArgumentError, ("'fast'", '"direct"')),
    "zero stride": (convolve(X, K, stride=0), ArgumentError, ("stride=0", "at least 1")),
    "negative stride": (convolve(X, K, stride=(1, -2)), ArgumentError, ("stride=-2",)),
    "float stride": (convolve(X, K, stride=1.5), ArgumentTypeError, ("stride", "1.5")),
    "bool dilation": (convolve(X, K, dilation=True), ArgumentTypeError, ("dilation", "True")),
    "too many strides": (convolve(X, K, stride=(1, 1, 1)), ArgumentError, ("(1, 1, 1)", "2 axes")),
    "no workers": (convolve(X, K, workers=0), ArgumentError, ("workers=0", "at least 1")),
    "workers as text": (convolve(X, K, workers="2"), ArgumentTypeError, ("workers", "'2'")),
    "cval as text": (convolve(X, K, cval="0"), ArgumentTypeError, ("cval", "'0'")),
    "cval that the dtype cannot hold": (
        convolve(INTEGERS, [[1, 1]], cval=0.5),
        ArgumentError,
        ("cval=0.5", "int32", "dtype="),
    ),
    "zeros that are none": (
        convolve(X, K, boundary="zeros", cval=1),
        ArgumentError,
        ('"zeros"', "cval=1", '"constant"'),
    ),
    "groups without channels": (convolve(X, K, groups=2), ArgumentError, ("groups=2", "HWIO")),
    "groups that do not divide": (
        convolve(COLOUR, np.ones((3, 3, 1, 4)), layout="NHWC", kernel_layout="HWIO", groups=4),
        ArgumentError,
        ("groups=4", "C = 6"),
    ),
    # sizes
    "valid with a larger kernel": (
        convolve(X, np.ones((3, 10)), mode="valid"),
        ArgumentError,
        ("size 9", "10", 'mode="same"'),
    ),
    "valid with a dilated kernel": (
        convolve(X, K, mode="valid", dilation=9),
        ArgumentError,
        ("dilated to 19", "size 8"),
    ),
    "too little padding": (
        convolve(X, np.ones((3, 12)), mode=((0, 0), (1, 1))),
        ArgumentError,
        ("padded to 11", "12", "more padding"),
    ),
    "empty kernel": (convolve(X, np.ones((0, 3))), ArgumentError, ("(0, 3)", "at least one tap")),
    "nothing to reflect": (
        convolve(X[:, :0], K, mode="same", boundary="reflect"),
        ArgumentError,
        ("size 0", '"reflect"', '"constant"'),
    ),
    "wrong number of summed channels": (
        convolve(COLOUR, np.ones((3, 3, 5, 4)), layout="NHWC", kernel_layout="HWIO"),
        ArgumentError,
        ("I = 5", "C = 6"),
    ),
    "wrong number of kernels per channel": (
        convolve(COLOUR, np.ones((3, 3, 5)), layout="NHWC", kernel_layout="HWC"),
        ArgumentError,
        ("C = 5", "C = 6"),
    ),
    # types
    "object dtype": (convolve(X.astype(object), K), ArgumentTypeError, ("object", "astype")),
    "text": (convolve(X, [["a", "b"]]), ArgumentTypeError, ("<U1", "convert")),
    "dates": (convolve(X.astype("M8[s]"), K), ArgumentTypeError, ("datetime64", "convert")),
    "masked image": (
        convolve(np.ma.masked_less(X, 3), K),
        ArgumentTypeError,
        ("masked", "filled(0)"),
    ),
    "masked kernel": (
        convolve(X, np.ma.masked_less(K, 3)),
        ArgumentTypeError,
        ("kernel", "masked", "filled(0)"),
    ),
    "ragged kernel": (convolve(X, [[1, 2], [3]]), ArgumentTypeError, ("kernel", "equal lengths")),
    "ragged image": (convolve([[1, 2], [3]], K), ArgumentTypeError, ("x", "regular shape")),
    "no array": (convolve(Nothing(), K), ArgumentTypeError, ("Nothing", "NumPy array")),
    "None": (convolve(None, K), ArgumentTypeError, ("NoneType", "NumPy array")),
    "unknown dtype": (convolve(X, K, dtype="float33"), ArgumentTypeError, ("'float33'", "dtype")),
    "dtype that loses the fraction": (
        convolve(X, K, dtype="int32"),
        ArgumentTypeError,
        ("dtype=int32", "float64", "round"),
    ),
    "dtype that loses the imaginary part": (
        convolve(X, K * 1j, dtype="float64"),
        ArgumentTypeError,
        ("complex128", "real part"),
    ),
    "list that the dtype of x cannot hold": (
        convolve(INTEGERS.astype(np.uint8), [[-1, 300]]),
        ArgumentError,
        ("-1 to 300", "uint8", "dtype="),
    ),
    # out
    "out of wrong shape": (
        convolve(X, K, out=np.empty((2, 8, 9))),
        ArgumentError,
        ("(2, 8, 9)", "(2, 10, 10)"),
    ),
    "out of wrong dtype": (
        convolve(X, K, out=np.empty((2, 10, 10), np.float32)),
        ArgumentTypeError,
        ("float32", "float64", "dtype="),
    ),
    "out of another library": (
        convolve(X, K, out=torch.empty((2, 10, 10))),
        ArgumentTypeError,
        ("torch", "NumPy"),
    ),
    "out on another device": (
        convolve(torch.ones(2, 8, 9), K.astype("f4"), out=torch.empty((2, 10, 10), device="meta")),
        ArgumentTypeError,
        ("meta", "cpu"),
    ),
    "out that is read-only": (
        convolve(X, K, out=np.broadcast_to(np.zeros(()), (2, 10, 10))),
        ArgumentTypeError,
        ("read-only", "leave it out"),
    ),
    # kernels and plans
    "kernel that is no array": (convolve(X, Nothing()), ArgumentTypeError, ("object", "convert")),
    "plan of another operation": (
        lambda: xconv.plan(X, K, "convolute"),
        ArgumentError,
        ("'convolute'", "correlate"),
    ),
    "plan of a negative size": (
        lambda: xconv.plan(Spec((2, -8)), Spec((3,))),
        ArgumentError,
        ("-8",),
    ),
    "plan without a kernel's values": (
        lambda: xconv.plan(X, Spec((3, 2)))(X),
        ArgumentError,
        ("kernel's values", "plan(x, k)"),
    ),
    "plan with another array": (
        lambda: xconv.plan(X, K)(X[:, :7]),
        ArgumentError,
        ("(2, 7, 9)", "(2, 8, 9)"),
    ),
    "plan with another dtype": (
        lambda: xconv.plan(X, K)(X.astype("f4")),
        ArgumentError,
        ("float32", "float64"),
    ),
    # methods and memory
    "integers by FFT": (convolve(INTEGERS, [[1, 1]], method="fft"), MethodRefused, ("fft", "auto")),
    "separable that is not": (
        convolve(X, np.eye(9), method="separable"),
        MethodRefused,
        ("separable", "auto"),
    ),
    "negative memory": (convolve(X, K, max_memory=-1), ArgumentError, ("max_memory=-1", "bytes")),
    "memory for nothing": (
        convolve(X.astype("f4"), K, mode="same", boundary="reflect", max_memory=1, method="fft"),
        XconvError,
        ("max_memory", "bytes"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_call(name: str) -> None:
    call, error, texts = CALLS[name]
    before = X.copy(), K.copy()
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for text in texts:
        assert text in message, message
    assert type(caught.value).__mro__[2] in (ValueError, TypeError, MemoryError, RuntimeError)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(K, before[1])


def test_the_table_is_long() -> None:
    assert len(CALLS) >= 40


def test_the_least_memory_that_the_error_names_is_enough() -> None:
    x = np.ones((20, 24), np.uint8).T[::2]
    options: dict[str, Any] = {"mode": "same", "boundary": "wrap", "workers": 1}
    k = np.ones((5, 5), np.complex128)
    with pytest.raises(MemoryLimitError) as caught:
        xconv.convolve(x, k, max_memory=10, **options)
    assert isinstance(caught.value, MemoryError)
    numbers = [int(n) for n in re.findall(r"max_memory(?:=| to )(\d+)", str(caught.value))]
    assert numbers, str(caught.value)
    xconv.convolve(x, k, max_memory=min(n for n in numbers if n > 10), **options)


# Files and the command line.

COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "no such file": (["none.npy", "k.npy"], ("'none.npy'", "check the path")),
    "unknown format": (["notes.txt", "k.npy"], ("notes.txt", ".npy")),
    "no file name": (["x.npy", "k.npy", "-o", "y"], ("'y'", "unknown", ".npz")),
    "empty file": (["empty.npy", "k.npy"], ("'empty.npy'", "damaged")),
    "truncated .npy": (["short.npy", "k.npy"], ("'short.npy'", "cut short")),
    "truncated .npz": (["short.npz", "k.npy"], ("'short.npz'", "cut short")),
    "truncated .tif": (["short.tif", "k.npy"], ("'short.tif'", "cut short")),
    "truncated .png": (["short.png", "k.npy"], ("'short.png'", "cut short")),
    "text named .npy": (["text.npy", "k.npy"], ("'text.npy'", "another format")),
    "pickled objects": (["objects.npy", "k.npy"], ("'objects.npy'",)),
    "structured array": (["fields.npy", "k.npy"], ("'fields.npy'", "no dtype of numbers")),
    "archive of several": (["two.npz", "k.npy"], ("a, b", "two.npz:a")),
    "archive without the name": (["two.npz:c", "k.npy"], ("'c'", "two.npz:a")),
    "folder without images": (["empty", "k.npy"], ("'empty'", "no image")),
    "folder of unlike images": (["unlike", "k.npy"], ("2.png", "alike")),
    "truncated kernel": (["x.npy", "short.npy"], ("'short.npy'", "cut short")),
    "kernel that is no list": (["x.npy", "[[1,"], ("[[1,", "[[0,1],[1,0]]")),
    "ragged kernel list": (["x.npy", "[[1, 2], [3]]"], ("kernel", "equal lengths")),
    "kernel list of text": (["x.npy", '[["a"]]'], ("convert",)),
    "output in no folder": (["x.npy", "k.npy", "-o", "none/y.npy"], ("'none/y.npy'", "choose")),
    "output below a file": (["x.npy", "k.npy", "-o", "x.npy/y.npy"], ("'x.npy/y.npy'", "choose")),
    "output that is a folder": (["x.npy", "k.npy", "-o", "folder.npy"], ("folder", "choose")),
    "folder that is not empty": (
        ["frames", "k.npy", "-o", "unlike/", "--output-dtype", "uint8"],
        ("'unlike/'", "not empty"),
    ),
    "floats in a .png": (["x.npy", "k.npy", "-o", "y.png"], ("float64", "--output-dtype")),
    "batch in a .png": (
        ["x.npy", "k.npy", "-o", "y.png", "--output-dtype", "uint8"],
        ("(2, 10, 10)", "end the name in /"),
    ),
    "complex rounded": (
        ["x.npy", "[[1, 0]]", "-o", "y.npy", "--dtype", "complex64", "--output-dtype", "uint8"],
        ("uint8", "complex"),
    ),
    "unknown output dtype": (
        ["x.npy", "k.npy", "--output-dtype", "float33"],
        ("--output-dtype", "float33"),
    ),
    "unknown mode": (["x.npy", "k.npy", "--mode", "smae"], ("'smae'", '"same"')),
    "padding that is none": (["x.npy", "k.npy", "--mode", "1:a,0:0"], ("'1:a,0:0'", "low:high")),
    "unknown letter": (["x.npy", "k.npy", "--layout", "N2W"], ("'2'", "A to Z")),
    "stride that is no number": (["x.npy", "k.npy", "--stride", "two"], ("--stride='two'",)),
    "axes that are no numbers": (["x.npy", "k.npy", "--axes", "H"], ("--axes='H'", "0,1")),
    "cval that is no number": (["x.npy", "k.npy", "--cval", "nil"], ("--cval='nil'", "0.5")),
    "memory that is none": (["x.npy", "k.npy", "--max-memory", "lots"], ("'lots'", "64M")),
    "too little memory": (
        ["x.npy", "k.npy", "--boundary", "wrap", "--max-memory", "1", "--method", "fft"],
        ("max_memory", "bytes"),
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good and bad files."""
    from xconv.files import writing

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("k.npy", K)
    np.savez("two.npz", a=X, b=K)
    np.savez("short.npz", X)
    for name, values in (("short.tif", X), ("short.png", X[0].astype(np.uint8))):
        with writing(name, values.shape, values.dtype) as file:
            file[...] = values
    np.save("short.npy", X)
    for name in ("short.npy", "short.npz", "short.tif", "short.png"):
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: len(whole) * 2 // 3])
    np.save("objects.npy", np.array([{}, 1]), allow_pickle=True)
    np.save("fields.npy", np.zeros(3, [("a", "f4"), ("b", "i4")]))
    Path("empty.npy").touch()
    Path("text.npy").write_text("no array\n" * 20)
    Path("notes.txt").write_text("notes")
    for name in ("empty", "folder.npy", "unlike"):
        Path(name).mkdir()
    for name, size in (("unlike/1.png", 5), ("unlike/2.png", 6)):
        with writing(name, (size, size), np.uint8) as file:
            file[...] = 7
    with writing("frames/", (2, 5, 5), np.uint8) as file:
        file[...] = 7
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_command(folder: Path, name: str) -> None:
    testing = pytest.importorskip("typer.testing")
    from xconv.cli.commands import app

    arguments, texts = COMMANDS[name]
    before = contents(folder)
    output = [] if "-o" in arguments else ["-o", "y.npy"]
    done = testing.CliRunner().invoke(app, ["apply", *arguments, *output])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.startswith("xconv: ")
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--shape", "3xa", "--kernel", "3"], ("--shape='3xa'", "100x100x50")),
        (["--shape", "30", "--kernel", "3x-1"], ("--kernel='3x-1'", "100x100x50")),
        (["--shape", "30", "--kernel", "3", "--x-dtype", "f33"], ("--x-dtype", "f33")),
        (["--shape", "30", "--kernel", "3", "--method", "fast"], ("'fast'", '"direct"')),
        (["--shape", "30", "--kernel", "none.npy"], ("'none.npy'",)),
        (["--shape", "30x30", "--kernel", "3", "--layout", "HW"], ("kernel", "kernel_layout")),
    ],
)
def test_wrong_explain(arguments: list[str], texts: tuple[str, ...]) -> None:
    testing = pytest.importorskip("typer.testing")
    from xconv.cli.commands import app

    done = testing.CliRunner().invoke(app, ["explain", *arguments])
    assert done.exit_code == 2, (done.output, done.exception)
    for text in texts:
        assert text in done.stderr
