"""`xconv info`: what there is on this machine, and why the rest is not."""

from __future__ import annotations

import platform
from importlib import metadata

from .. import __version__, registry

__all__ = ["report"]

OPTIONAL = {
    "cupy": "CUDA arrays: pip install 'xconv[cuda12]' or 'xconv[cuda13]'",
    "ducc0": "faster transforms, GPL: pip install 'xconv[fft]'",
    "torch": "PyTorch tensors: pip install torch",
    "tifffile": "TIFF files: pip install 'xconv[cli]'",
    "imageio": "image files: pip install 'xconv[cli]'",
    "scikit-image": "the photographs of xconv demo: pip install 'xconv[demo]'",
}
"""Packages that xconv uses where they are, and what for."""

CUPY = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")


def report() -> str:
    """The text that `xconv info` prints."""
    lines = [
        f"xconv {__version__}",
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "",
        "backends",
    ]
    for name, backend in registry.backends().items():
        reason = backend.unavailable()
        if reason:
            lines.append(f"  {name:<12} not available: {reason}")
            continue
        methods = ", ".join(dict.fromkeys(method.name for method in backend.methods))
        lines.append(f"  {name:<12} {backend.version()}")
        details = {"methods": methods, "threads": str(backend.workers()), **backend.details()}
        lines += [f"  {'':<12} {key}: {value}" for key, value in details.items()]
    for name, reason in registry.failures().items():
        lines.append(f"  {name:<12} failed to load: {reason}")
    lines += ["", "packages"]
    for name in ("numpy", "scipy", "array-api-compat", *OPTIONAL):
        version = _version(name)
        lines.append(f"  {name:<16} {version or f'not installed; {OPTIONAL[name]}'}")
    return "\n".join(lines)


def _version(name: str) -> str | None:
    for distribution in CUPY if name == "cupy" else (name,):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
