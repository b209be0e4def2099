"""The documents do what they say: their code runs, their commands exist, their tables are whole."""

import re
import subprocess
from pathlib import Path

import pytest

from xconv.arguments import ALIASES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title!r}"
    return found[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_runs(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python blocks of a document run one after the other, as a reader would type them."""
    names: dict[str, object] = {"__name__": document.stem}
    for code in blocks(document.read_text(), "python"):
        exec(compile(code, str(document), "exec"), names)


def test_readme_has_code() -> None:
    assert len(blocks(README, "python")) >= 5


def test_the_question_takes_three_lines() -> None:
    assert len(blocks(section(README, "The question"), "python")[0].splitlines()) == 3


def test_two_commands() -> None:
    (shell,) = blocks(section(README, "Two commands"), "sh")
    demo, tests = shell.splitlines()
    assert demo.endswith("xconv demo")
    assert re.search(r"pip install -e '\.\[test\]' && \S*pytest", tests)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """The lines of .ci/run that take it from the README give it, in an environment of its own."""
    wanted = blocks(section(README, "Two commands"), "sh")[0].splitlines()[1]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    taking = [line for line in lines if re.match(r"(environment|command|install|tests)=", line)]
    script = "; ".join([*taking, 'printf "%s\\n" "$command" "$install && $tests"'])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [wanted.replace(".venv", ".venv-ci")] * 2
    assert lines[-1] == 'eval "$tests"'


def test_every_boundary_is_in_the_table() -> None:
    rows = re.findall(r"^\|.*?\| \"(\w+)\".*?\| (.*?) \|", section(README, "Names of boundaries"),
                      re.MULTILINE)  # fmt: skip
    table = {name: set(re.findall(r'"(\w+)"', also)) for name, also in rows}
    wanted: dict[str, set[str]] = {}
    for alias, name in ALIASES.items():
        wanted.setdefault(name, set()).update({alias} - {name})
    assert table == wanted


def test_documented_commands_exist() -> None:
    typer_testing = pytest.importorskip("typer.testing")
    from xconv.cli.commands import app

    names = {
        name
        for document in DOCUMENTS
        for shell in blocks(document.read_text(), "sh")
        for name in re.findall(r"\bxconv (\w+)", shell)
    }
    assert {"info", "explain", "apply", "demo"} <= names
    for name in names:
        assert typer_testing.CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
