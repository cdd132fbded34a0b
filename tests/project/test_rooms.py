"""Which file may import which: checks every import of tssl_triton, kernels, reference and bench."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "tssl_triton": "tssl_triton",
    "kernels": "tssl_triton.kernels",
    "reference": "tssl_triton.reference",
    "bench": "bench",
}

#: A room imports rooms on the lines below its own, and no others. To add an arrow, change this list and say why.
FLOORS = (
    "__init__ __main__ bench",
    "cli",
    "studies",
    "inspection",
    "training interchange",
    "nn losses",
    "functional",
    "operators",
    "cpu data",
    "encoding rules",
    "parameters _checks _extras _files",
    "_errors _torch_private kernels reference",
)
FLOOR = {room: floor for floor, line in enumerate(reversed(FLOORS)) for room in line.split()}

#: The only exception to the rules below: a replay runs the CPU's step of the neuron.
EXCEPTION = ("tssl_triton.inspection.replay", "tssl_triton.cpu.steps")
OF_CPU = {"tssl_triton.kernels.layout", *(f"tssl_triton.{room}" for room in ("parameters", "rules", "_torch_private"))}
COMPILING = ("ctypes", "torch.utils.cpp_extension")
#: Names with an underscore that are public all the same: of named tuples, of ``os``, and of PyTorch's operators.
PUBLIC = {"_asdict", "_fields", "_make", "_replace", "_exit", "_to_copy"}


def files(root):
    """Every Python file below ``root`` by its dotted name; that of a package is its ``__init__.py``."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def room(module):
    """``tssl_triton.nn.fused`` is in ``nn``, a file on the first level is a room, and all of bench is one."""
    first, *rest = module.split(".")
    return "bench" if first == "bench" else rest[0] if rest else "__init__"


def private(name):
    return name.startswith("_") and not name.startswith("__")


def ours(module):
    return module.split(".")[0] in ("tssl_triton", "bench")


def imports(module, path, tree, modules):
    """``(line, module, name or None)`` of each import in a file, those in functions and for type checkers included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (node.lineno, whole, None) if whole in modules else (node.lineno, base, alias.name)


def definitions(tree):
    """Names that a file gives to functions, classes, variables and attributes of ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def broken_by(module, target, name):
    """The rules that an import between two files of the project breaks."""
    here, there = room(module), room(target)
    if here == there or (module, target) == EXCEPTION:
        return
    if missing := {here, there} - FLOOR.keys():
        yield f"{missing.pop()} is a room without a floor"
    elif FLOOR[here] <= FLOOR[there] and not (there == "__init__" and (here == "bench" or name == "__version__")):
        yield f"{here} may not import {there}, which is not below it"
    if here == "cpu" and target not in OF_CPU:
        yield "rule 1: cpu imports nothing but kernels.layout, parameters, rules and _torch_private"
    if here not in ("operators", "bench") and (there == "cpu" or target == "tssl_triton.kernels.launch"):
        yield "rule 2: only operators imports cpu and kernels.launch"
    if there == "cpu" and target not in ("tssl_triton.cpu", EXCEPTION[1]):
        yield "rule 3: cpu is imported through cpu/__init__.py"
    if here in ("training", "inspection", "studies", "cli") and there in ("operators", "cpu", "kernels"):
        yield f"rule 5: {here} does not reach into {there}"
    if name is not None and private(name):
        yield f"rule 6: {name} is private to {there}"


def read(root):
    """The imports between the files of a tree, and a line for everything in it that breaks a rule."""
    modules, arrows, problems = files(root), {}, {}
    trees = {module: ast.parse(path.read_text()) for module, path in modules.items()}
    defined = {}
    for module, tree in trees.items():
        defined.setdefault(room(module), set()).update(definitions(tree))
    of_package = set().union(*(names for each, names in defined.items() if each != "bench"))

    def report(path, line, text):
        problems[f"{path.relative_to(root)}:{line}: {text}"] = None  # an ordered set

    for module, path in modules.items():
        here, tree = room(module), trees[module]
        arrows[module] = set()
        if private(path.stem) and path.parent != root / "tssl_triton":
            report(path, 1, "rule 6: files in a room have no leading underscore")
        for line, target, name in imports(module, path, tree, modules):
            if target in modules:
                arrows[module].add(target)
                for text in broken_by(module, target, name):
                    report(path, line, text)
            elif ours(target):
                report(path, line, f"there is no module {target}")
            elif target in COMPILING and here != "cpu":
                report(path, line, f"rule 3: {target} belongs in cpu/")
            elif target.split(".")[0] == "torch" and here not in ("_torch_private", "bench"):
                for part in filter(private, [*target.split("."), name or ""]):
                    report(path, line, f"{part} is private to torch; use it in _torch_private.py")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and private(node.attr) and here != "_torch_private":
                # Other packages' private names are those that no file here defines; bench may use them.
                if node.attr not in defined[here] | PUBLIC and (here != "bench" or node.attr in of_package):
                    report(path, node.lineno, f"rule 6: {node.attr} is private to another room, or to torch")
            elif isinstance(node, ast.Constant) and here != "cpu" and "#include" in str(node.value):
                report(path, node.lineno, "rule 3: C++ belongs in cpu/")
    for path in sorted((root / "tssl_triton").rglob("*.[ch]pp")):
        if "cpu" not in path.relative_to(root).parts:
            report(path, 1, "rule 3: C++ belongs in cpu/")
    for circle in circles(arrows):
        report(modules[circle[0]], 1, f"a circle of imports: {' > '.join(circle)}")
    return arrows, list(problems)


def circles(arrows):
    """Circles of imports, each as a list of modules that begins and ends with the same one."""
    found, done = [], set()

    def walk(module, way):
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for target in sorted(arrows.get(module, ())):
                walk(target, [*way, module])
            done.add(module)

    for module in sorted(arrows):
        walk(module, [])
    return found


def floors(arrows):
    """Number of rooms in the longest chain of which each imports the next."""
    below = {}
    for module, targets in arrows.items():
        below.setdefault(room(module), set()).update(map(room, targets))

    def height(each, above=()):
        return 1 + max((height(other, (*above, each)) for other in below[each] - {each, *above}), default=0)

    return max(map(height, below), default=0)


# --- this project -----------------------------------------------------------------------------------------------


def test_every_import_is_allowed():
    _, problems = read(ROOT)
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)


def test_no_chain_of_imports_is_longer_than_twelve_rooms():
    arrows, _ = read(ROOT)
    assert floors(arrows) <= 12


def test_the_first_level_of_the_package_is_small():
    names = sorted(path.name for path in (ROOT / "tssl_triton").iterdir() if path.suffix in (".py", ".pyi"))
    assert len(names) <= 16, names


# --- made-up trees ----------------------------------------------------------------------------------------------


@pytest.fixture
def problems_of(tmp_path):
    """What `read` finds in a tree of the given files, each of them one import or statement."""

    def find(**contents):
        for folder in ("cli", "cpu", "inspection", "nn", "operators", "training"):
            contents.setdefault(f"tssl_triton/{folder}/__init__.py", "")
        for name, text in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read(tmp_path)[1]

    return find


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("tssl_triton/nn/a.py", "\nfrom tssl_triton.cli import main", "nn may not import cli, which is not below it"),
        ("tssl_triton/nn/a.py", "def f():\n    import tssl_triton.cli", "nn may not import cli, which is not below it"),
        ("tssl_triton/nn/a.py", "\nfrom ..cli import main", "nn may not import cli, which is not below it"),
        ("tssl_triton/nn/a.py", "\nfrom tssl_triton import lif", "nn may not import __init__, which is not below it"),
        ("kernels/a.py", "\nfrom tssl_triton import parameters", "kernels may not import parameters"),
        ("tssl_triton/cpu/a.py", "\nimport tssl_triton._checks", "rule 1"),
        ("tssl_triton/nn/a.py", "\nfrom tssl_triton.cpu import pack", "rule 2"),
        ("tssl_triton/nn/a.py", "\nimport tssl_triton.kernels.launch", "rule 2"),
        ("tssl_triton/operators/a.py", "\nfrom tssl_triton.cpu import loop", "rule 3"),
        ("tssl_triton/operators/a.py", "\nimport ctypes", "rule 3"),
        ("tssl_triton/operators/a.py", "\nSOURCE = '#include <math.h>'", "rule 3"),
        ("tssl_triton/training/a.py", "\nfrom tssl_triton.operators import b", "rule 5"),
        ("tssl_triton/inspection/a.py", "\nfrom tssl_triton.cpu import steps", "rule 5"),
        ("tssl_triton/training/a.py", "\nfrom tssl_triton.nn import _b", "rule 6: _b is private to nn"),
        ("tssl_triton/training/a.py", "from tssl_triton import nn\nnn._b", "rule 6: _b is private to another room"),
        ("tssl_triton/training/_a.py", "", "rule 6: files in a room"),
        ("tssl_triton/nn/a.py", "\nimport torch._C", "_C is private to torch"),
        ("tssl_triton/nn/a.py", "\nfrom torch.nn.modules.module import _hooks", "_hooks is private to torch"),
        ("tssl_triton/nn/a.py", "import torch\ntorch._C.f()", "rule 6: _C is private to another room, or to torch"),
        ("tssl_triton/nn/a.py", "def f(x):\n    return x._version", "rule 6: _version is private"),
        ("tssl_triton/nn/a.py", "\nfrom .nowhere import b", "there is no module tssl_triton.nn.nowhere"),
    ],
)
def test_a_broken_rule_is_found(problems_of, path, text, rule):
    others = {
        "tssl_triton/__init__.py": "",
        "tssl_triton/_checks.py": "",
        "tssl_triton/parameters.py": "",
        "tssl_triton/cpu/loop.py": "",
        "tssl_triton/cpu/steps.py": "",
        "tssl_triton/nn/b.py": "def _b(): ...",
        "tssl_triton/operators/b.py": "",
        "kernels/launch.py": "",
    }
    line = 2 if text else 1
    found = problems_of(**others, **{path: text})
    assert found
    assert all(problem.startswith(f"{path}:{line}: ") for problem in found)
    assert any(rule in problem for problem in found)


def test_a_circle_is_found(problems_of):
    found = problems_of(
        **{
            "tssl_triton/nn/a.py": "from .b import f",
            "tssl_triton/nn/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .c import g",
            "tssl_triton/nn/c.py": "def g():\n    from . import a",
            "tssl_triton/nn/d.py": "from . import a, b, c",
        }
    )
    (problem,) = found
    assert problem.startswith("tssl_triton/nn/a.py:1: a circle of imports: tssl_triton.nn.a > ")


def test_allowed_imports_pass(problems_of):
    assert not problems_of(
        **{
            "tssl_triton/__init__.py": "__version__ = '1'",
            "tssl_triton/_torch_private.py": "import torch\nversion = torch._C._version",
            "tssl_triton/parameters.py": "",
            "tssl_triton/cli/main.py": "from tssl_triton import __version__, nn\nfrom tssl_triton.nn import Layer",
            "tssl_triton/cpu/steps.py": "import ctypes\nfrom tssl_triton.kernels.layout import WORD",
            "tssl_triton/inspection/replay.py": "from tssl_triton.cpu.steps import step",
            "tssl_triton/nn/a.py": "from torch import nn\nfrom .b import _shared\nclass A:\n    _b = _shared, nn",
            "tssl_triton/nn/b.py": "from .. import parameters\ndef _shared(x):\n    return x.point._replace(x=x._b)\n",
            "tssl_triton/operators/devices.py": "from tssl_triton import cpu\nfrom tssl_triton.kernels import launch",
            "kernels/launch.py": "from .layout import WORD",
            "kernels/layout.py": "import torch",
            "bench/launches.py": "import tssl_triton\nfrom tssl_triton.kernels import launch\nlaunch.kernel._pack()",
        }
    )


def test_the_longest_chain_of_rooms():
    arrows = {
        "tssl_triton.nn.a": {"tssl_triton.nn.b", "tssl_triton.rules"},
        "tssl_triton.nn.b": {"tssl_triton.operators.c"},
        "tssl_triton.operators.c": {"tssl_triton.parameters"},
        "tssl_triton.rules": {"tssl_triton.parameters"},
        "tssl_triton.parameters": set(),
    }
    assert floors(arrows) == 3
