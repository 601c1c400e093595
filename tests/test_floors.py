"""Imports run one way: each module or package imports only from those before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fvae"

# Modules and packages, from the ground up: each may import those before it.
ORDER = [
    "fvae.errors",
    "fvae.settings",
    "fvae.files",
    "fvae.memory",
    "fvae.watch",
    "fvae.precision",
    "fvae.density",
    "fvae.transforms",
    "fvae.data",
    "fvae.runs",
    "fvae.networks",
    "fvae.conditioners",
    "fvae.flows",
    "fvae.decoders",
    "fvae.model",
    "fvae.statistics",
    "fvae.recipes",
    "fvae.renamed",
    "fvae.checkpoint",
    "fvae.evaluate",
    "fvae.information",
    "fvae.aggressive",
    "fvae.feed",
    "fvae.train",
    "fvae.progress",
    "fvae.compare",
    "fvae.checks",
    "fvae.commands",
    "fvae.convert",
    "fvae.demo",
    "fvae.model_flags",
    "fvae.cli",
    "fvae.__main__",
]
# Packages that import less than their floor allows.
ONLY = {
    "fvae.networks": (),  # networks know no probability
    "fvae.data": ("fvae.errors", "fvae.settings", "fvae.files", "fvae.density"),
    "fvae.conditioners": ("fvae.precision", "fvae.transforms"),
    "fvae.model": (
        "fvae.density",
        "fvae.transforms",
        "fvae.data",
        "fvae.conditioners",
        "fvae.flows",
    ),  # and no concrete part
}
FENCED = {"fvae.flows.fused": ("fvae.recipes", "fvae.statistics", "fvae.train")}  # who may reach the fast paths
LIGHT = ["fvae", "fvae.errors", "fvae.settings", "fvae.files", "fvae.cli"]  # no torch until it is needed
BANNED = ("pytorch_lightning", "torchvision")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Every module that ``module`` imports anywhere, in functions and under TYPE_CHECKING too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            # ``from package import module`` imports the module; __version__ and the like import nothing.
            names = [f"{base}.{alias.name}" for alias in node.names]
            modules = {name for name in names if name in MODULES}
            others = [name for name in names if name not in modules and not name.endswith("__")]
            found |= modules | ({base} if others else set())
    return found


def place(module: str) -> str:
    """The entry of ``ORDER`` that a module belongs to, "" for the package itself, which hands on anything."""
    return next((name for name in ORDER if module == name or module.startswith(name + ".")), "")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "fvae"])
def test_imports_run_one_way(module):
    """A module imports from its own package and those before it, and from fewer where its package says so."""
    own = place(module)
    assert own, f"{module} has no place: give it one in ORDER, after all that it imports"
    for other in sorted(name for name in imports(module) if name.startswith("fvae.")):
        there = place(other)
        assert there == own or ORDER.index(there) < ORDER.index(own), f"{module} imports {other}, which comes after it"
        assert there in (own, *ONLY.get(own, ORDER)), f"{own} may import {ONLY.get(own)} only; {module} imports {other}"
        for fenced, friends in FENCED.items():
            inside = other.startswith(fenced) and not module.startswith(fenced)
            assert not inside or own in friends, f"{module} imports {other}, which is for {friends} only"


def test_the_walk_finds_what_it_should():
    """The parser sees plain and nested imports, and the modules that there are."""
    assert {"fvae.density", "fvae.flows", "torch", "math"} <= imports("fvae.model")
    assert "fvae.statistics" in imports("fvae")  # inside a function
    assert "fvae.flows.base" in imports("fvae.flows.elementwise")
    assert len(set(ORDER)) == len(ORDER) and {"fvae.recipes", "fvae.networks.conv"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_no_banned_imports(module):
    """Lightning is imported as ``lightning``; torchvision is not used."""
    assert not {name for name in imports(module) if name.split(".")[0] in BANNED}


@pytest.mark.parametrize("module", [name for name in LIGHT if name in MODULES])
def test_light_modules_leave_torch_alone(module):
    """The command's help does not wait for torch."""
    heavy = "('torch', 'lightning', 'datasets', 'matplotlib', 'sklearn')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
