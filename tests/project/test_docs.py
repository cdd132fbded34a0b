"""README and the pages of docs/: examples run, commands parse, figures are correct.

Every ``python`` block is executed, with one namespace per page, and an unindented ``print`` must print the text in its
comment. A block that cannot run here has ``<!-- not run: REASON -->`` before it. Every ``tssl`` and ``python -m bench``
command, in a block or in a sentence, is parsed by the program's parser, and the tests and files that it names exist.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator

import benches
import pytest

ROOT = benches.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>.+) -->\n+ *)?```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
ANNOUNCED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)


def name(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    """Blocks of a page in one language, each with its line number and, if it is not to run, the reason."""
    text = path.read_text()
    for block in BLOCK.finditer(text):
        if block["language"] == language:
            yield text[: block.start("text")].count("\n") + 1, block["text"], block["reason"]


def run(path):
    """Execute a page's Python; returns its names."""
    names = {"__name__": name(path)}
    for line, text, reason in blocks(path, "python"):
        if reason is not None:
            continue
        printed = io.StringIO()
        # Blank lines before it, so that an error names the line of the page.
        code = compile("\n" * (line - 1) + text, name(path), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if announced := ANNOUNCED.findall(text):
            assert printed.getvalue().splitlines() == announced, f"{name(path)}, block in line {line}"
    return names


@pytest.fixture
def ready(eager, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


#: Further conditions on a page's names after it has run.
OUTCOMES = {
    "README.md": lambda names: names["net"][0].weight.grad.any(),
    "docs/tutorial.md": lambda names: names["accuracy"]() > 0.9,
}


@pytest.mark.parametrize("path", [page for page in PAGES if any(blocks(page, "python"))], ids=name)
def test_examples_run(path, ready):
    names = run(path)
    assert OUTCOMES.get(name(path), bool)(names)


# --- commands ---------------------------------------------------------------------------------------------------


def lines(path) -> Iterator[str]:
    """Text that may be a command: lines of shell blocks and indented blocks, code in sentences."""
    text = path.read_text()
    for _, block, _ in blocks(path, "sh"):
        yield from block.splitlines()
    prose = BLOCK.sub("", text)
    yield from re.findall(r"^ {4,}(\S.*)$", prose, re.MULTILINE)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))


def commands(path) -> list[list[str]]:
    """This project's commands on a page, each as a list of words, without the path of the program."""
    found = []
    for line in lines(path):
        # "..." is a placeholder.
        if not re.match(r"(\S*/)?(tssl|pip|python3?|pytest) ", line) or "..." in line:
            continue
        for part in line.split(" && "):
            program, *words = shlex.split(part, comments=True)
            found += ([program.split("/")[-1], *chosen] for chosen in alternatives(words))
    return found


#: Placeholders with restricted values.
PLACEHOLDERS = {"NAME": "digits"}


def alternatives(words):
    """``--to nir|safetensors`` is two commands."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    several = [index for index, word in enumerate(words) if "|" in word]
    if not several:
        return [words]
    first = several[0]
    return [
        line for word in words[first].split("|") for line in alternatives([*words[:first], word, *words[first + 1 :]])
    ]


def check(command):
    """Raise unless the command's program has these options and its files exist."""
    from bench.__main__ import parser
    from tssl_triton.cli import parser as tssl_parser

    program, *words = command
    if program == "tssl":
        parse(tssl_parser(), words)
    elif words[:2] == ["-m", "bench"]:
        parse(parser(), words[2:])
    elif program == "pytest" or words[:2] == ["-m", "pytest"]:
        for word in words:
            if word.endswith(".py") or word.startswith(("tests", "bench")):
                assert (ROOT / word).exists(), f"there is no {word}"
    elif program.startswith("python") and words and words[0].endswith(".py"):
        assert (ROOT / words[0]).exists(), f"there is no {words[0]}"


def parse(parser, words):
    """Raise SystemExit with a status other than 0 unless the parser accepts the words."""
    # A command without arguments is only a mention.
    try:
        parser.parse_args(words if len(words) > 1 else [*words, "--help"])
    except SystemExit as stopped:
        if stopped.code:
            raise


@pytest.mark.parametrize("path", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_understood(path):
    wrong = []
    for command in commands(path):
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                check(command)
        except (SystemExit, AssertionError) as error:
            wrong.append(f"{shlex.join(command)}: {said.getvalue().strip() or error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "tssl trian",
        "tssl train --learning-rat 1",
        "python -m bench lif",
        "python -m bench sweep lif --step-count 5",
        "pytest tests/test_nothing.py",
        ".venv/bin/python tests/walk.py",
    ],
)
def test_what_is_no_command_is_noticed(line, tmp_path, capsys):
    for shown in (f"```sh\n{line}\n```\n", f"    {line}\n", f"Type `{line}`.\n"):
        page = tmp_path / "page.md"
        page.write_text(shown)
        (command,) = commands(page)
        with pytest.raises((SystemExit, AssertionError)):
            check(command)


def test_an_example_that_prints_something_else_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(benches, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)  # 2\n```\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    run(page)
    page.write_text("```python\nprint(1 + 1)  # 3\n```\n")
    with pytest.raises(AssertionError):
        run(page)
    page.write_text("<!-- not run: it takes a day -->\n```python\nprint(1 + 1)  # 3\n```\n")
    run(page)


# --- the site ---------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation():
    yaml = pytest.importorskip("yaml", reason="pyyaml reads mkdocs.yml")
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def pages(entry):
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(pages, entry.values() if isinstance(entry, dict) else entry))

    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= pages(nav)


def test_every_public_name_is_in_the_api():
    import tssl_triton

    text = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"[\w.]+", text))
    for public, module in tssl_triton._MODULE_OF.items():
        assert {public, f"tssl_triton.{module}.{public}"} & listed, public
    for module in tssl_triton._MODULES:
        assert any(entry.startswith(f"tssl_triton.{module}") for entry in listed), module
    assert set(tssl_triton.interchange.__all__) <= {entry.rsplit(".", 1)[-1] for entry in listed}


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_carried_error_lies_on_the_table_s_sum(figures, eager):
    import numpy as np

    found = figures.errors()
    assert found.run.spikes.sum() >= 8
    np.testing.assert_array_equal(found.run.spikes, found.run.trace.spikes.ravel())
    # Both float64: sums of some 32 terms of size 1 in another order.
    np.testing.assert_allclose(found.carried, found.summed, rtol=1e-12, atol=1e-12)
    assert np.count_nonzero(found.carried) > 20


def test_the_slopes_in_the_figure(figures, eager):
    import numpy as np

    u = np.array([0.2, 0.9, 1.1, 1.5])
    np.testing.assert_allclose(figures.slopes(u, 0.5), [0, 0, 1 / 0.6, 1], rtol=1e-12)
    x = np.exp(-np.abs(u - 1) / 0.2)
    np.testing.assert_allclose(figures.slopes(u, 0.5, "always"), x / (1 + x) ** 2 / 0.2, rtol=1e-12)
