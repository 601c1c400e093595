"""The architecture: packages import one way, and what data or parts are is decided by their owners alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fvae"

# From the ground up: each module or package may import those before it.
ORDER = [
    *("errors", "tokens", "schema", "documents", "columns", "settings", "files", "precision", "density", "transforms"),
    "data",
    "networks",
    *("conditioners", "terms", "flows", "decoders"),
    *("model", "statistics", "interpolation"),
    *("parts", "recipes"),
    "metrics",
    "runs",
    "training",
    "estimator",
    *("cli", "__main__"),
]
ONLY = {  # packages that import less than their place allows
    "networks": {"tokens"},  # networks know no probability
    "data": {"errors", "tokens", "schema", "documents", "columns", "settings", "files", "density"},
    "conditioners": {"columns", "precision", "transforms", "density"},
    "model": {"density", "transforms", "data", "conditioners", "flows", "errors", "terms"},  # and no concrete part
}
FENCED = {"fvae.flows.fused": {"flows", "parts", "statistics", "training"}}  # who may import the fast paths
LIGHT = ["fvae", "fvae.settings", "fvae.files", "fvae.cli"]  # no torch until it is needed


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Every module that ``module`` imports anywhere, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name != "fvae"])
def test_imports_run_one_way(module):
    own = module.split(".")[1]
    for other in sorted(name for name in imports(module) if name.startswith("fvae.")):
        there = other.split(".")[1]
        assert there == own or ORDER.index(there) < ORDER.index(own), f"{module} imports {other}, which comes after it"
        assert there in {own} | ONLY.get(own, set(ORDER)), f"{module} imports {other}, but {own} may not"
        for fenced, friends in FENCED.items():
            assert not other.startswith(fenced) or own in friends, f"{module} imports {other}, which is for {friends}"


def test_the_imports_that_are_found_are_all():
    assert {"fvae.density", "fvae.flows", "torch", "math"} <= imports("fvae.model")
    assert "torch.utils.tensorboard" in imports("fvae.training.tensorboard")  # inside a function
    assert {name.split(".")[1] for name in MODULES if name != "fvae"} == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_lightning_has_one_name_and_torchvision_is_not_used(module):
    assert not {name for name in imports(module) if name.split(".")[0] in ("pytorch_lightning", "torchvision")}


DECIDED_ELSEWHERE = re.compile(
    r"isinstance\(self\.(posterior|prior|decoder)|prior\.flows\[|len\((self\.)?shape\)|bits is None|\.vocabulary\b"
)
OWNERS = (
    "fvae.data",
    "fvae.decoders",
    "fvae.networks.by_shape",
    "fvae.recipes.registry",
)  # decoders: of bins or densities


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(OWNERS)])
def test_what_data_and_parts_are_is_decided_by_their_owners(module):
    """No test of a shape's length, of missing bits, of a vocabulary or of a part's class anywhere else."""
    lines = MODULES[module].read_text().splitlines()
    assert [line for line in lines if DECIDED_ELSEWHERE.search(line)] == []


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_do_not_import_torch(module):
    """The command's help does not wait for torch."""
    heavy = "('torch', 'lightning', 'datasets', 'matplotlib', 'sklearn')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
