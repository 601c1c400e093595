"""Everything public can be found, and has a docstring with an example that runs."""

import doctest
import warnings

import pytest
import torch

import fvae
from fvae.recipes import RECIPES

PUBLIC = {name: getattr(fvae, name) for name in fvae.__all__ if name != "__version__"} | RECIPES
METHODS = {f"LatentModel.{name}": getattr(fvae.LatentModel, name) for name in ("elbo", "log_prob", "sample", "encode")}


def test_dir_lists_everything_public():
    """Tab completion and the stub that editors read have the same names."""
    assert set(dir(fvae)) == set(fvae.__all__)
    stub = (__import__("pathlib").Path(fvae.__file__).with_suffix(".pyi")).read_text()
    assert [name for name in fvae.__all__ if f"import {name} as {name}" not in stub and f"{name}:" not in stub] == []
    with pytest.raises(AttributeError, match="module 'fvae' has no attribute 'fitt'"):
        fvae.fitt  # noqa: B018


@pytest.mark.parametrize("name", [*PUBLIC, *METHODS])
def test_docstrings_say_what_and_their_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thing = (PUBLIC | METHODS)[name]
    assert len((thing.__doc__ or "").splitlines()[0]) > 20
    examples = [t for t in doctest.DocTestFinder(recurse=False).find(thing, name) if t.examples]
    assert examples or name in METHODS or name == "recipes", f"{name} has no example"
    for test in examples:
        test.globs = {"fvae": fvae, "torch": torch}
        with warnings.catch_warnings():
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert result.failed == 0


def test_the_package_says_how_to_begin():
    assert doctest.testmod(fvae, extraglobs={}).failed == 0
