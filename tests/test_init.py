import json
import os
import subprocess
import sys
from pathlib import Path

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


CHANGED_BY_IMPORTS = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings
import flax.nnx, grain, huggingface_hub, jax, matplotlib.figure, numpy, optax, rich.console, tyro
import jax.experimental.multihost_utils, jax.experimental.topologies, orbax.checkpoint, PIL.Image
import safetensors.numpy

def state():
    loggers = logging.Logger.manager.loggerDict.values()
    return {
        "signals": [str(signal.getsignal(n)) for n in sorted(signal.valid_signals())],
        "hooks": [str(h) for h in (sys.excepthook, sys.unraisablehook, warnings.showwarning)],
        "warnings": [str(w) for w in warnings.filters],
        "environment": dict(os.environ),
        "logging": [(x.name, x.level) for x in loggers if getattr(x, "level", 0)],
        "handlers": len(logging.root.handlers),
        "matplotlib": {k: str(v) for k, v in matplotlib.rcParams.items()},
        "jax": {k: str(v) for k, v in jax.config.values.items()},
        "numpy": [numpy.geterr(), numpy.get_printoptions()],
        "pillow": [PIL.Image.MAX_IMAGE_PIXELS, sorted(PIL.Image.OPEN)],
        "Python": [sys.argv, sys.path, sys.getrecursionlimit()],
    }

before = state() | {"Ctrl-C": str(signal.default_int_handler)}
import jaxparse
for module in pkgutil.walk_packages(jaxparse.__path__, "jaxparse."):
    importlib.import_module(module.name)
after = state() | {"Ctrl-C": str(signal.getsignal(signal.SIGINT))}
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


def test_importing_every_module_changes_nothing_outside(tmp_path: Path) -> None:
    """Run as a program by `python -m`, as a package whose program imports jaxparse is."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text("import jaxparse\n")
    (tmp_path / "program" / "__main__.py").write_text(CHANGED_BY_IMPORTS)
    command = [sys.executable, "-m", "program"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(result.stdout) == []
