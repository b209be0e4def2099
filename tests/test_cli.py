"""The command line: the same answers as the API, good exit codes, no file half written."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xconv
from xconv import registry
from xconv.backends import cpu
from xconv.backends.base import Backend

typer_testing = pytest.importorskip("typer.testing")

from xconv.cli import apply, demo  # noqa: E402
from xconv.cli.commands import app  # noqa: E402
from xconv.cli.options import read_bytes, read_shape  # noqa: E402

rng = np.random.default_rng(0)
COMMAND = [sys.executable, "-c", "from xconv.cli import main; main()"]


def invoke(*arguments: object) -> Any:
    return typer_testing.CliRunner().invoke(app, [str(a) for a in arguments])


def succeed(*arguments: object) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


# info and explain


class Unavailable(Backend):
    name = "absent"

    def owns(self, x: Any) -> bool:
        return False

    def unavailable(self) -> str:
        return "no such device; install one"


def test_info(monkeypatch: pytest.MonkeyPatch) -> None:
    backends, failures = dict(registry.backends()), {"broken": "ImportError: no module"}
    backends["absent"] = Unavailable()
    monkeypatch.setattr(registry, "backends", lambda: backends)
    monkeypatch.setattr(registry, "failures", lambda: failures)
    out = succeed("info")
    assert f"xconv {xconv.__version__}" in out
    assert f"NumPy {np.__version__}" in out
    assert f"threads: {registry.backends()['cpu'].workers()}" in out
    assert "absent       not available: no such device; install one" in out
    assert "broken       failed to load: ImportError: no module" in out


def test_info_says_whether_the_core_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    out = succeed("info")
    compiled = importlib.util.find_spec("xconv._native") is not None
    assert ("compiled core: no (" in out) != compiled
    monkeypatch.setattr(cpu, "_native_missing", "no such module")
    assert "compiled core: no (no such module); install xconv again" in succeed("info")


def test_explain_is_what_the_plan_says() -> None:
    out = succeed("explain", "--shape", "100x100x50", "--kernel", "11x11", "--layout", "HWN")
    same = xconv.plan(xconv.Spec((100, 100, 50)), xconv.Spec((11, 11)), layout="HWN")
    assert out == same.explain() + "\n"


def test_explain_of_a_kernel_in_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.outer(np.arange(1.0, 40), np.arange(1.0, 40)))
    out = succeed(
        "explain", "--shape", "3x200x200", "--kernel", tmp_path / "k.npy", "--method", "separable",
        "--x-dtype", "float32", "--correlate", "--max-memory", "2M", "--workers", 1,
    )  # fmt: skip
    assert out.startswith("correlate x (3, 200, 200) float32 with kernel (39, 39) float64")
    assert "*separable" in out
    assert "workers 1, max_memory 2,097,152 bytes" in out


def test_options() -> None:
    assert read_bytes("3") == 3
    assert read_bytes("1.5k") == 1536
    assert read_bytes(" 2GiB ") == 2 << 30
    assert read_bytes("1MB") == 1 << 20
    assert read_shape("--shape", "3X4") == (3, 4)


# apply


@pytest.mark.parametrize("boundary", ["constant", "reflect", "mirror", "nearest", "wrap"])
@pytest.mark.parametrize("memory", ["3000000", "30000", "7000"])
@pytest.mark.parametrize(
    "case",
    [
        ("NHW", (7, 31, 23), "HW", (5, 4), {"mode": "same"}),
        ("HWN", (40, 21, 6), "HW", (4, 7), {"mode": "full", "stride": "3,2"}),
        ("NHWC", (2, 33, 14, 3), "HWIO", (3, 3, 3, 2), {"mode": "4:0,1:7", "dilation": "2,1"}),
        ("HWC", (50, 20, 2), "CHW", (2, 3, 5), {"mode": "same", "cval": "2"}),
        ("NDHW", (3, 9, 11, 12), "OWDH", (2, 2, 3, 3), {"mode": "valid", "correlate": True}),
        ("LN", (301, 3), "L", (9,), {"mode": "full", "stride": "4"}),
        ("HW", (1, 300), "HW", (3, 40), {"mode": "full"}),
        ("HW", (2, 90), "HW", (9, 9), {"mode": "9:9,40:3"}),
    ],
    ids=lambda case: case[0],
)
def test_blocks_give_what_one_call_gives(
    tmp_path: Path, boundary: str, memory: str, case: Any
) -> None:
    layout, x_shape, kernel_layout, k_shape, given = case
    x = rng.standard_normal(x_shape).astype(np.float32)
    k = rng.standard_normal(k_shape).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "k.npy", k)
    given = dict(given)
    if boundary != "constant":
        given.pop("cval", None)
    arguments = ["--correlate"] * given.pop("correlate", False)
    for name, value in given.items():
        arguments += [f"--{name}", value]
    succeed(
        "apply", tmp_path / "x.npy", tmp_path / "k.npy", "-o", tmp_path / "y.npy",
        "--layout", layout, "--kernel-layout", kernel_layout, "--boundary", boundary,
        "--max-memory", memory, "--workers", 1, "--method", "direct", *arguments,
    )  # fmt: skip

    def parsed(text: str) -> Any:
        pairs = tuple(tuple(int(n) for n in p.split(":")) for p in text.split(","))
        return tuple(p[0] if len(p) == 1 else p for p in pairs)

    mode = given.get("mode", "full")
    right = (xconv.correlate if "--correlate" in arguments else xconv.convolve)(
        x, k, layout=layout, kernel_layout=kernel_layout, boundary=boundary, method="direct",
        mode=parsed(mode) if ":" in mode else mode, cval=int(given.get("cval", 0)),
        stride=(lambda s: s[0] if len(s) == 1 else s)(parsed(given.get("stride", "1"))),
        dilation=(lambda s: s[0] if len(s) == 1 else s)(parsed(given.get("dilation", "1"))),
    )  # fmt: skip
    y = np.load(tmp_path / "y.npy")
    assert y.dtype == right.dtype
    np.testing.assert_array_equal(y, right)  # direct: the same bits however it is cut
    assert sorted(file.name for file in tmp_path.iterdir()) == ["k.npy", "x.npy", "y.npy"]


@pytest.mark.parametrize(("layout", "axis"), [("NHW", 0), ("HWN", 0), ("HNW", 0)])
def test_blocks_are_cut_where_the_file_is_read_in_long_runs(layout: str, axis: int) -> None:
    x = np.zeros((64, 64, 64), np.float32)
    problem = xconv.plan(x, np.ones((3, 3), np.float32), layout=layout, mode="same").problem
    most = x.nbytes // 2
    pieces = [apply._Piece.of(x, problem, part) for part in apply._parts(x, problem, most)]
    assert len(pieces) > 3
    for piece in pieces:
        assert piece.x.shape[1:] == (64, 64)
        assert piece.x.nbytes + np.zeros(problem.y_shape)[piece.target].size * 4 <= most
    assert sum(piece.target[axis].stop - piece.target[axis].start for piece in pieces) == 64


@pytest.mark.parametrize("name", ["y.npz", "y.tif", "y.npy"])
@pytest.mark.parametrize("method", ["auto", "fft"])
def test_formats(tmp_path: Path, name: str, method: str) -> None:
    x, k = rng.standard_normal((3, 40, 30)), rng.standard_normal((9, 9))
    np.savez(tmp_path / "x.npz", k=k, x=x)
    source = f"{tmp_path}/x.npz"
    succeed("apply", f"{source}:x", f"{source}:k", "-o", tmp_path / name, "--method", method)
    from xconv.files import read

    right = xconv.convolve(x, k, method=method)
    np.testing.assert_allclose(read(str(tmp_path / name)), right, rtol=1e-12, atol=1e-11)


def test_photographs_to_photographs(tmp_path: Path) -> None:
    """A folder of images, a kernel as a list, rounded and clipped to uint8."""
    from xconv.files import read, writing

    x = rng.integers(0, 256, (3, 20, 30, 3), np.uint8)
    with writing(f"{tmp_path}/in/", x.shape, x.dtype) as frames:
        frames[...] = x
    succeed(
        "apply", tmp_path / "in", "[[-0.5, 1.2], [0.6, 0.7]]", "-o", f"{tmp_path}/out/",
        "--layout", "NHWC", "--mode", "same", "--output-dtype", "uint8",
    )  # fmt: skip
    right = xconv.convolve(x, [[-0.5, 1.2], [0.6, 0.7]], layout="NHWC", mode="same")
    assert right.min() < -0.5
    assert right.max() > 256
    np.testing.assert_array_equal(
        read(f"{tmp_path}/out"), np.clip(np.rint(right), 0, 255).astype(np.uint8)
    )


def test_a_list_kernel_is_weak(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 5), np.float32))
    succeed("apply", tmp_path / "x.npy", "[[1, 2.5]]", "-o", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").dtype == np.float32


def test_nan_and_large_values_have_a_place_in_integers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([np.nan, np.inf, -np.inf, 2.5, 3.5, -7]))
    arguments = ("[1.0]", "-o", tmp_path / "y.npy", "--output-dtype", "uint8")
    succeed("apply", tmp_path / "x.npy", *arguments)
    assert np.load(tmp_path / "y.npy").tolist() == [0, 255, 0, 2, 4, 0]


def test_no_images(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 8, 8)))
    succeed("apply", tmp_path / "x.npy", "[[1, 1]]", "-o", tmp_path / "y.npy", "--layout", "NHW")
    assert np.load(tmp_path / "y.npy").shape == (0, 8, 9)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_interrupted(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """The old file stays as it was; only a kill that cannot be caught leaves the hidden one."""
    np.save(tmp_path / "x.npy", np.ones((256, 512, 512), np.uint8))
    np.save(tmp_path / "k.npy", np.ones((63, 63), np.float32))
    (tmp_path / "y.npy").write_bytes(b"old")
    process = subprocess.Popen(
        [*COMMAND, "apply", "x.npy", "k.npy", "-o", "y.npy", "--max-memory", "3M", "--mode", "same",
         "--method", "direct"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".y.npy.*.part.npy")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert (tmp_path / "y.npy").read_bytes() == b"old"
    left = {file.name for file in tmp_path.iterdir()} - {"x.npy", "k.npy", "y.npy"}
    assert len(left) == (sent == signal.SIGKILL)


def test_a_full_disk_is_a_failure_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    np.save(tmp_path / "x.npy", np.ones(9))
    done = invoke("apply", tmp_path / "x.npy", "[1.0]", "-o", tmp_path / "y.npy")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.npy"]


# demo


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(demo, "PHOTOGRAPHS", demo.PHOTOGRAPHS[:2])
    monkeypatch.setattr(demo, "SIZE", 48)
    monkeypatch.setattr(demo, "REPEATS", 1)
    monkeypatch.setitem(demo.ARRAYS, "array_api", ("array_api_strict",))


@pytest.mark.usefixtures("small_demo")
def test_demo(tmp_path: Path) -> None:
    from xconv.files import read

    out = succeed("demo", "-o", tmp_path / "sheet.png")
    for word in ("NCHW", "NHWC", "HWCN", "cpu", "array_api", "direct*", "fft", "separable"):
        assert word in out
    assert "separable refused: " in out
    assert "WRONG" not in out
    sheet = read(f"{tmp_path}/sheet.png")
    assert sheet.dtype == np.uint8
    assert sheet.std() > 20  # there are pictures on it


@pytest.mark.usefixtures("small_demo")
def test_demo_notices_a_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(type(registry.backends()["cpu"])):  # type: ignore[misc]
        def to_numpy(self, x: Any) -> Any:
            return np.roll(super().to_numpy(x), 1)

    monkeypatch.setattr(registry, "backends", lambda: {"cpu": Wrong()})
    done = invoke("demo", "-o", tmp_path / "sheet.png")
    assert done.exit_code == 1
    assert "WRONG" in done.stdout


def test_all_photographs_are_in_the_wheel() -> None:
    pytest.importorskip("skimage")
    assert demo.load().shape == (len(demo.PHOTOGRAPHS), demo.SIZE, demo.SIZE, 3)


# What surrounds the commands


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_without_its_libraries_it_says_what_to_install(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from xconv.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"xconv: the command line needs {name}, which is not installed")
    assert "pip install 'xconv[cli]'" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    process = subprocess.Popen(
        [*COMMAND, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in error
