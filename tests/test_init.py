import subprocess
import sys

import pytest

import jaxparse
from jaxparse.parsing import parser
from tests.refusal import refuses


def test_the_python_interface_is_at_the_top() -> None:
    for name in ("Parser", "Parsing", "TestTime"):
        assert name in jaxparse.__all__
        assert getattr(jaxparse, name) is getattr(parser, name)
    with refuses("Parsre", error=AttributeError):
        _ = jaxparse.Parsre
    with pytest.raises(ImportError):
        from jaxparse import Parsre  # noqa: F401


def test_importing_the_package_does_not_import_jax() -> None:
    script = "import sys, jaxparse; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = set(result.stdout.split())
    assert "jaxparse" in modules
    assert not modules & {"jax", "numpy", "jaxparse.parsing"}
