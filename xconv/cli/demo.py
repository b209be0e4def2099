"""`xconv demo`: photographs filtered in every layout, by every backend and method."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from .. import MethodRefused, Plan, convolve, plan, registry
from ..backends.base import Backend
from ..errors import ArgumentError
from ..files import writing

__all__ = ["run"]

Array = np.ndarray[Any, np.dtype[Any]]

PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg",
    "ihc.png", "motorcycle_left.png", "retina.jpg",
)  # fmt: skip
"""Colour photographs that scikit-image's wheel holds; its others would be downloaded."""
SIZE = 224
LAYOUTS = {"NCHW": "batch first", "NHWC": "channels last", "HWCN": "batch last"}
ARRAYS = {"cpu": ("numpy",), "array_api": ("torch", "array_api_strict"), "cuda": ("cupy",)}
"""Libraries whose arrays show a backend, the first one installed."""
AS_THE_LOOP: Any = {"mode": "same", "boundary": "mirror"}
REPEATS, LONG = 3, 0.25
"""Runs that are timed, and the seconds from which one is enough."""


@dataclass(frozen=True)
class Row:
    """One call in the table."""

    filter: str
    layout: str
    backend: str
    method: str
    auto: bool = False
    """Whether method="auto" takes this one."""
    loop: float = 0.0
    seconds: float = 0.0
    error: float = 0.0
    """Largest |error| as a share of the bound."""
    refusal: str = ""

    @property
    def right(self) -> bool:
        return self.error <= 1

    def cells(self) -> tuple[str, ...]:
        start = (self.filter, self.layout, self.backend, f"{self.method}{'*' * self.auto}")
        if self.refusal:
            return (*start, "", "refused", "", "")
        speed = self.loop / self.seconds
        return (
            *start,
            f"{self.loop * 1e3:.0f}",
            f"{self.seconds * 1e3:.1f}",
            f"{speed:.{0 if speed >= 10 else 1 if speed >= 1 else 2}f}x",
            f"{self.error:.2f}" if self.right else f"WRONG {self.error:.2g}",
        )


def run(output: str) -> bool:
    """Print the table and write the contact sheet; whether every answer was right."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    photographs = load()
    shown = present()
    titles = ", ".join(f"{letters} ({words})" for letters, words in LAYOUTS.items())
    console.print(
        f"{len(photographs)} photographs of {SIZE}x{SIZE}x3, float32, in the layouts {titles}; "
        f"{', '.join(f'{backend.name} on {library} arrays' for backend, library in shown)}.\n"
        "The loop is scipy.ndimage.convolve on each channel of each photograph, and every answer "
        "is checked against it in double precision.\n"
    )
    rows, sheet = [], [photographs]
    with console.status("filtering") as status:
        for name, kernel in filters().items():
            right, loop = scipy_loop(photographs, kernel)
            sheet.append(convolve(photographs, kernel, layout="NHWC", **AS_THE_LOOP))
            for row in measure(name, photographs, kernel, right, loop, shown):
                status.update(f"{name}, {row.layout}, {row.backend}, {row.method}")
                rows.append(row)
    console.print(table(rows))
    notes = {f"{r.filter}: {r.method} refused: {r.refusal}" for r in rows if r.refusal}
    console.print(*sorted(notes), *absent(shown), sep="\n")
    write_sheet(output, sheet, ["original", *filters()])
    answers = [row.right for row in rows if not row.refusal]
    console.print(
        f"\n{sum(answers)} of {len(answers)} answers are SciPy's, within the error bound of the "
        f"method. Contact sheet: {output}"
    )
    return all(answers)


def table(rows: list[Row]) -> Any:
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE, collapse_padding=True, pad_edge=False, caption_justify="left")
    for heading in ("filter", "layout", "backend", "method"):
        drawn.add_column(heading, no_wrap=True)
    drawn.caption = "* taken by method auto; times in ms; error as a share of its bound"
    for heading in ("loop", "xconv", "speed", "error"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        drawn.add_row(*row.cells(), style=None if row.right else "bold red")
        if i + 1 < len(rows) and rows[i + 1].layout != row.layout:
            drawn.add_section()
    return drawn


def load() -> Array:
    """The middle of every photograph, thinned out to SIZE: (N, H, W, C), float32 from 0 to 1."""
    import imageio.v3 as imageio

    try:
        folder = resources.files("skimage") / "data"
    except ModuleNotFoundError:
        raise ArgumentError(
            "xconv demo filters the photographs in scikit-image's wheel, which is not installed; "
            "pip install 'xconv[demo]'"
        ) from None
    images = []
    for name in PHOTOGRAPHS:
        image = np.asarray(imageio.imread((folder / name).read_bytes(), extension=name[-4:]))
        step = min(image.shape[:2]) // SIZE
        top, left = ((n - SIZE * step) // 2 for n in image.shape[:2])
        images.append(image[top : top + SIZE * step : step, left : left + SIZE * step : step])
    return np.stack(images).astype(np.float32) / 255


def filters() -> dict[str, Array]:
    """Kernels by name: a small one, one of rank 1, and a large one that is not separable."""
    edges = np.full((3, 3), -1.0)
    edges[1, 1] = 8
    bell = np.exp(-0.5 * (np.arange(-7, 8) / 2.5) ** 2)
    blur = np.outer(bell, bell)
    row, column = np.mgrid[-10:11, -10:11]
    motion = np.exp(-0.5 * ((row - 0.4 * column) / 0.8) ** 2) * (row**2 + column**2 <= 10**2)
    return {
        "edges 3x3": edges.astype(np.float32),
        "blur 15x15": (blur / blur.sum()).astype(np.float32),
        "motion 21x21": (motion / motion.sum()).astype(np.float32),
    }


def scipy_loop(photographs: Array, kernel: Array) -> tuple[Array, float]:
    """SciPy's answer in double precision, and the seconds that the usual loop takes in single."""
    from scipy import ndimage

    def loop(images: Array, weights: Array) -> Array:
        result = np.empty_like(images)
        for n in range(images.shape[0]):
            for c in range(images.shape[3]):
                result[n, :, :, c] = ndimage.convolve(images[n, :, :, c], weights, mode="mirror")
        return result

    started = time.perf_counter()
    loop(photographs, kernel)
    elapsed = time.perf_counter() - started
    return loop(photographs.astype(np.float64), kernel.astype(np.float64)), elapsed


def measure(
    name: str,
    photographs: Array,
    kernel: Array,
    right: Array,
    loop: float,
    shown: list[tuple[Backend, str]],
) -> Iterator[Row]:
    """Every layout by every backend and method."""
    for layout in LAYOUTS:
        order = ["NHWC".index(letter) for letter in layout]
        images = np.ascontiguousarray(photographs.transpose(order))
        for backend, library in shown:
            x = importlib.import_module(library).asarray(images)

            def planned(method: str, x: Any = x, layout: str = layout) -> Plan:
                return plan(x, kernel, layout=layout, method=method, **AS_THE_LOOP)

            for method in dict.fromkeys(m.name for m in backend.methods):
                start = (name, layout, backend.name, method)
                try:
                    ready = planned(method)
                except MethodRefused as refusal:
                    reason = str(refusal).partition(": ")[2].partition(";")[0]
                    yield Row(*start, refusal=reason)
                    continue
                answer, seconds = timed(ready, x)
                yield Row(
                    *start,
                    auto=planned("auto").method == method,
                    loop=loop,
                    seconds=seconds,
                    error=share_of_bound(
                        backend.to_numpy(answer).transpose(np.argsort(order)),
                        right,
                        photographs,
                        kernel,
                        max(m.rounding(ready.problem) for m in backend.methods if m.name == method),
                    ),
                )


def share_of_bound(
    answer: Array, right: Array, photographs: Array, kernel: Array, rounding: float
) -> float:
    """Largest |error| divided by c eps sum|k| max|x|, the maximum over one channel of one image."""
    peak = np.abs(photographs).max(axis=(1, 2), keepdims=True).astype(np.float64)
    bound = rounding * np.finfo(np.float32).eps * float(np.abs(kernel).sum()) * peak
    return float((np.abs(answer - right) / bound).max())


def timed(ready: Plan, x: Any) -> tuple[Any, float]:
    """The answer, and the median seconds of a few runs."""
    times: list[float] = []
    while len(times) < REPEATS and (not times or times[0] < LONG):
        started = time.perf_counter()
        answer = ready(x)
        times.append(time.perf_counter() - started)
    return answer, float(np.median(times))


def present() -> list[tuple[Backend, str]]:
    """Every backend that can run here, with the library whose arrays show it."""
    found = []
    for name, backend in registry.backends().items():
        library = next((lib for lib in ARRAYS.get(name, ()) if _installed(lib)), None)
        if library and backend.unavailable() is None:
            found.append((backend, library))
    return found


def absent(shown: list[tuple[Backend, str]]) -> Iterator[str]:
    """Why each other backend is not in the table."""
    for name, backend in registry.backends().items():
        if all(name != other.name for other, _ in shown):
            wanted = " or ".join(ARRAYS.get(name, ())) or "that this demo knows"
            yield f"{name} is left out: {backend.unavailable() or f'no array library {wanted}'}"
    for name, reason in registry.failures().items():
        yield f"{name} is left out: {reason}"


def _installed(library: str) -> bool:
    try:
        importlib.import_module(library)
    except ImportError:
        return False
    return True


def write_sheet(output: str, columns: list[Array], titles: list[str]) -> None:
    """A PNG with a row per photograph and a column per filter."""
    from PIL import Image, ImageDraw, ImageFont

    gap, head, tile = 8, 36, SIZE * 2 // 3
    width = gap + len(columns) * (tile + gap)
    height = head + len(columns[0]) * (tile + gap)
    sheet = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for i, (images, title) in enumerate(zip(columns, titles, strict=True)):
        left = gap + i * (tile + gap)
        draw.text((left, 9), title, fill=(235, 235, 235), font=ImageFont.load_default(16))
        for j, image in enumerate(images):
            pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
            picture = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, head + j * (tile + gap)))
    pixels = np.asarray(sheet)
    with writing(output, pixels.shape, np.uint8) as file:
        file[...] = pixels
