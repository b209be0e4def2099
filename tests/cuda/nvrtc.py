"""NVRTC and nvdisasm from their wheels: what the compiler makes of a kernel, without a GPU."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from xconv.cuda.device import compile_options


def _installed(pattern: str) -> Path | None:
    for folder in sys.path:
        for path in sorted(Path(folder, "nvidia").glob(pattern)):
            return path
    return None


LIBRARY = _installed("*/lib/libnvrtc.so.*")
DISASSEMBLER = _installed("*/bin/nvdisasm")


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes."""

    registers: int
    spills: int
    """Bytes stored and loaded."""
    instructions: tuple[str, ...]
    """In their order, without modifiers."""
    loops: tuple[tuple[int, int], ...] = ()
    """First and last instruction of each, innermost or not."""

    def share(self, *names: str) -> float:
        """Of these where most of them stand: in the loop that makes the sums.

        A kernel may have several, between which there are 100 instructions without any.
        """
        places = [n for n, name in enumerate(self.instructions) if name in names]
        loops: list[list[int]] = []
        for place in places:
            if not loops or place - loops[-1][-1] > 100:
                loops.append([])
            loops[-1].append(place)
        most = max(loops, key=len, default=[])
        return len(most) / (most[-1] - most[0] + 1) if most else 0.0

    def share_of_loop(self, *names: str) -> float:
        """Of these in the loop with most of them, loads and branches of it included."""
        found = [self.instructions[first : last + 1] for first, last in self.loops]
        counts = [(sum(name in names for name in body), -len(body)) for body in found]
        most, length = max(counts, default=(0, -1))
        return most / -length


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    assert LIBRARY is not None
    for builtins in LIBRARY.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(LIBRARY))


def architectures() -> list[int]:
    """Compute capabilities that NVRTC compiles for, as 75, 80, ..."""
    count = ctypes.c_int()
    _nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    found = (ctypes.c_int * count.value)()
    _nvrtc().nvrtcGetSupportedArchs(found)
    return sorted(found)


def compiled(source: str, architecture: str) -> tuple[bytes, str]:
    """The binary, and ptxas' report."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    assert (
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"xconv.cu", 0, None, None)
        == 0
    )
    try:
        options = [*compile_options(architecture), "--ptxas-options=-v"]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert not failed, log.value.decode()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        binary = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, binary)
        return binary.raw, log.value.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def usage(source: str, architecture: str) -> Usage:
    binary, log = compiled(source, architecture)
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert registers is not None, log
    assert spills is not None, log
    found: list[str] = []
    loops: list[tuple[int, int]] = []
    if DISASSEMBLER is not None:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(binary)
            file.flush()
            text = subprocess.run(
                [DISASSEMBLER, "-c", file.name], check=True, capture_output=True, text=True
            ).stdout
        found, loops = _parsed(text)
    return Usage(int(registers[1]), int(spills[1]) + int(spills[2]), tuple(found), tuple(loops))


_LINE = re.compile(
    r"^\s*(?P<label>\.L_\w+):"
    r"|/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_]*)(?P<rest>.*);",
    re.MULTILINE,
)


def _parsed(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Instructions, and where branches backwards begin and end."""
    names: list[str] = []
    loops: list[tuple[int, int]] = []
    labels: dict[str, int] = {}
    for line in _LINE.finditer(text):
        if line["label"]:
            labels[line["label"]] = len(names)
        elif line["name"] != "NOP":
            names.append(line["name"])
            target = re.search(r"`\((\.L_\w+)\)", line["rest"])
            if line["name"] == "BRA" and target and target[1] in labels:
                loops.append((labels[target[1]], len(names) - 1))
    return names, loops
