"""Imports run one way: each module stands on a floor and imports only from floors below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fvae"

# From the ground up. A module may import those before it; what is not written yet may be named.
FLOORS = [
    "fvae.errors",
    "fvae.settings",
    "fvae.files",
    "fvae.memory",
    "fvae.watch",
    "fvae.data.samples",
    "fvae.data.decode",
    "fvae.data.sources",
    "fvae.data.images",
    "fvae.data.vectors",
    "fvae.data.texts",
    "fvae.data",
    "fvae.runs",
    "fvae.atoms",
    "fvae.params",
    "fvae.flows.base",
    "fvae.flows.reshape",
    "fvae.flows.affine",
    "fvae.flows.linear",
    "fvae.flows.coupling",
    "fvae.flows.dequantise",
    "fvae.flows.multiscale",
    "fvae.flows.steps",
    "fvae.flows",
    "fvae.likelihoods",
    "fvae.bound",
    "fvae.nets",
    "fvae.nets.products",
    "fvae.nets.conv",
    "fvae.nets.mlp",
    "fvae.nets.text",
    "fvae.tokens",
    "fvae.registry",
    "fvae.rooms",
    "fvae.recipes",
    "fvae.checkpoint",
    "fvae.evaluate",
    "fvae.information",
    "fvae.aggressive",
    "fvae.pictures",
    "fvae.outputs",
    "fvae.kinds",
    "fvae.feed",
    "fvae.train",
    "fvae.progress",
    "fvae.compare",
    "fvae.checks",
    "fvae.commands",
    "fvae.demo",
    "fvae.cli",
    "fvae.__main__",
    "fvae",  # the front door: it may hand on anything, and nothing inside goes through it
]
# Groups that import less than their floor allows.
ONLY = {
    "fvae.nets": ("fvae.nets",),  # networks know no probability
    "fvae.data": ("fvae.data", "fvae.errors", "fvae.settings"),
    "fvae.atoms": (),
    "fvae.params": (),  # the hinge knows neither networks nor flows
    "fvae.flows": ("fvae.flows", "fvae.atoms", "fvae.params"),
}
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
            modules = {name for name in names if name in MODULES or name in FLOORS}
            others = [name for name in names if name not in modules and not name.endswith("__")]
            found |= modules | ({base} if others else set())
    return found


def group(module: str) -> str | None:
    return next((g for g in ONLY if module == g or module.startswith(g + ".")), None)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    """A module imports from lower floors alone, and from its group's few where it has one."""
    assert module in FLOORS, f"{module} stands on no floor: give it its place in FLOORS, above all that it imports"
    below = FLOORS[: FLOORS.index(module)]
    allowed = ONLY.get(group(module) or "")
    for other in sorted(imports(module)):
        if other.split(".")[0] != "fvae":
            continue
        assert other in below, f"{module} imports {other}, which is not below it"
        fits = allowed is None or any(other == a or other.startswith(a + ".") for a in allowed)
        assert fits, f"{module} may import from {allowed} only; it imports {other}"


def test_the_walk_finds_what_it_should():
    """The parser sees plain, nested and type-checking imports, and the modules that there are."""
    assert {"fvae.atoms", "fvae.flows", "torch", "math"} <= imports("fvae.bound")
    assert "fvae.bound" in imports("fvae")  # inside a function
    assert "fvae.flows.base" in imports("fvae.flows.affine")
    assert len(set(FLOORS)) == len(FLOORS)
    assert {"fvae.recipes", "fvae.nets.conv", "fvae.flows.base"} <= set(MODULES)


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
