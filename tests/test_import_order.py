"""Nothing imports what stands above it, and importing xconv stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "xconv"

# From the bottom up.  A module may import from the lines before its own, and from itself.
ORDER = (
    {"_native", "errors", "memory"},
    {"problem", "files"},
    {"cost", "layout", "tolerance"},
    {"arguments", "reference"},
    {"methods"},
    {"cuda"},
    {"backends"},
    {"calibration"},
    {"registry", "planner"},
    {"plan"},
    {"tuning"},
    {"api"},
    {"adjoint", "ndimage", "testing"},
    {"signal", "torch"},
    {"xconv"},
    {"bench"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Units of xconv that the code imports, other than for type checking alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            for name in (alias.name.split(".") for alias in node.names):
                if name[0] == "xconv":
                    yield name[1] if len(name) > 1 else "xconv"
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            path = [*base, *(node.module or "").split(".")] if node.module else [*base]
            if path[:1] != ["xconv"]:
                continue
            if len(path) > 1:
                yield path[1]
            else:
                yield from (a.name if a.name in RANK else "xconv" for a in node.names)
        else:
            yield from imports(node, package)


def unit(path: Path) -> str:
    """What a file belongs to: the name below xconv, or "xconv" for its __init__."""
    first = path.relative_to(PACKAGE).parts[0]
    return "xconv" if first == "__init__.py" else first.removesuffix(".py")


def test_order() -> None:
    wrong, seen = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = unit(path)
        assert name in RANK, f"{path} has no place in ORDER; add it"
        package = ("xconv", *path.relative_to(PACKAGE).parts[:-1])
        for other in imports(ast.parse(path.read_text()), package):
            seen.add((name, other))
            # xconv.__init__ runs first in any case; what matters is who needs its names.
            if other != name and RANK.get(other, -1) >= RANK[name]:
                wrong.append(f"{path.relative_to(PACKAGE.parent)} imports {other}")
    assert not wrong, "\n".join(wrong)
    assert {("api", "registry"), ("cli", "xconv"), ("backends", "methods")} <= seen


def test_walk_sees_every_form_of_import() -> None:
    code = (
        "import xconv.api\nfrom xconv import plan\nfrom . import registry\nfrom ..api import x\n"
        "from .. import api, convolve\ndef f():\n    from .base import Backend\n"
        "if TYPE_CHECKING:\n    from ..cli import app\nimport numpy.api\n"
    )
    found = list(imports(ast.parse(code), ("xconv", "backends")))
    assert found == ["api", "plan", "backends", "api", "api", "xconv", "backends"]


def test_importing_loads_no_optional_library() -> None:
    code = (
        "import sys, xconv; "
        "heavy = {'scipy', 'cupy', 'torch', 'jax', 'dask', 'typer', 'rich', 'tifffile', 'imageio'};"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
