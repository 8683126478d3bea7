"""What is kept on disk for the next start, and when it is not used."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxparse import programs
from jaxparse.programs import Program, remember


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """JAX's folder of compiled programs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


@contextmanager
def jax_compiles_all() -> Iterator[None]:
    """JAX keeps small programs as well."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    compilation_cache.reset_cache()
    yield
    jax.config.update(name, before)


class Counted:
    """A computation that counts how often it was done."""

    def __init__(self, value: object) -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> object:
        self.calls += 1
        return self.value


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("jaxparse-*"))


def test_what_is_remembered_is_computed_once(folder: Path) -> None:
    shapes = Counted({"a": jax.ShapeDtypeStruct((2, 3), np.float32)})
    for _ in range(2):
        assert remember("shapes", ("swin_t", 19), shapes) == shapes.value
    assert shapes.calls == 1 and len(kept(folder)) == 1
    remember("shapes", ("swin_t", 11), shapes)
    remember("program", ("swin_t", 19), shapes)
    assert shapes.calls == 3 and len(kept(folder)) == 3


def test_other_code_or_settings_are_computed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = Counted(1)
    remember("x", (), value)
    monkeypatch.setattr(programs, "code", lambda: "changed")
    remember("x", (), value)
    with jax.default_matmul_precision("highest"):
        remember("x", (), value)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=none")
    remember("x", (), value)
    assert value.calls == 4


def test_damaged_files_and_folders_cost_only_time(folder: Path) -> None:
    value = Counted(1)
    remember("x", (), value)
    (path,) = kept(folder)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:8] + bytes([whole[8] ^ 1]) + whole[9:]):
        path.write_bytes(damaged)
        assert remember("x", (), value) == 1
        assert path.read_bytes() == whole
    assert value.calls == 4
    folder.with_name("file").write_text("")
    jax.config.update("jax_compilation_cache_dir", str(folder.with_name("file")))
    assert remember("x", (), value) == 1


def test_nothing_is_kept_without_a_folder(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    value = Counted(1)
    assert [remember("x", (), value) for _ in range(2)] == [1, 1]
    assert value.calls == 2


def double(factor: float) -> Counted:
    """Gives the compiled function (weights, x) -> factor · weights · x."""
    return Counted(jax.jit(lambda weights, x: factor * weights["w"] * x))


def run(program: Callable, *shape: int) -> list[float]:
    return program({"w": jnp.full(shape, 3.0)}, jnp.ones(shape)).ravel().tolist()


def test_a_program_is_made_once(folder: Path) -> None:
    first, second, other = double(2), double(2), double(5)
    program = Program(first, "double")
    assert run(program, 2) == run(program, 2) == [6, 6]
    assert run(program, 3) == [6, 6, 6]
    assert first.calls == 2  # once for each shape
    again = Program(second, "double")
    assert run(again, 2) == [6, 6] and run(again, 3) == [6, 6, 6]
    assert second.calls == 0
    assert run(Program(other, "fivefold"), 2) == [15, 15]
    assert other.calls == 1


def test_a_damaged_program_is_made_again(folder: Path) -> None:
    run(Program(double(2), "double"), 2)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for path in kept(folder):
        path.write_bytes(b"")
    second = double(2)
    assert run(Program(second, "double"), 2) == [6, 6]
    assert second.calls == 1


def test_programs_that_jax_has_compiled_already_are_compiled_anew(folder: Path) -> None:
    """Read by JAX from its own folder, they could not be kept: they fail when they run again."""

    def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        x = jnp.exp(x) @ weights["w"]
        return jax.nn.softmax(x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True)))

    with jax_compiles_all():
        before = run(jax.jit(network), 32, 32)
        jax.clear_caches()
        assert run(jax.jit(network), 32, 32) == before  # from the folder
    jax.clear_caches()
    made = Counted(jax.jit(network))
    for _ in range(2):
        assert run(Program(made, "network"), 32, 32) == before
    assert made.calls == 1
    assert jax.config.jax_enable_compilation_cache


def test_on_other_devices_jax_keeps_the_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    made = double(2)
    assert run(Program(made, "double"), 2) == [6, 6]
    assert made.calls == 1 and not kept(folder)


@pytest.mark.full
def test_a_second_start_needs_no_flax(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "if sys.argv[1] == 'second': sys.modules['flax'] = None  # an ImportError\n"
        "import numpy as np\n"
        "from jaxparse import Parser\n"
        "print(np.bincount(Parser.load()(np.full((64, 64, 3), 90, np.uint8)).mask.ravel()))\n"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", script, which],
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        for which in ("first", "second")
    )
    assert first.returncode == 0 == second.returncode, second.stderr
    assert first.stdout == second.stdout
