"""What depends on the code alone, kept on disk for the next start: compiled programs, shapes.

JAX keeps compiled programs too, but must build, trace and lower the network to find them: more than
half of the time in which a small network masks a photograph. Here a program is found by the code
that makes it. In JAX's own folder, so nothing is kept unless `devices.use_compilation_cache` or the
user names one; on CPUs alone.
"""

import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from jaxparse.files import atomic_path

PACKAGE = Path(__file__).parent

T = TypeVar("T")


@cache
def code() -> str:
    """Checksum of this package's sources, and of the processor, which programs are compiled for."""
    total = sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        total.update(path.read_bytes())
    with suppress(OSError), open("/proc/cpuinfo") as file:
        total.update(next((line for line in file if line.startswith("flags")), "").encode())
    return total.hexdigest()


def _place(what: str, about: tuple[object, ...]) -> Path | None:
    """The file for `what`, which `about` and all that JAX's results depend on decide."""
    folder = jax.config.jax_compilation_cache_dir
    if not folder or not jax.config.jax_enable_compilation_cache:
        return None
    settings = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
    versions = version("jax"), version("jaxlib"), os.environ.get("XLA_FLAGS"), settings
    digest = sha256(repr((about, versions, code())).encode()).hexdigest()
    return Path(folder) / f"jaxparse-{what}-{digest}"


def remember(what: str, about: tuple[object, ...], compute: Callable[[], T]) -> T:
    """What `compute` returns, or what it returned for `about` at an earlier start.

    A file that is damaged, or cannot be written, changes nothing but the time.
    """
    if (path := _place(what, about)) is None:
        return compute()
    # Pickles run code: so do the compiled programs that JAX reads from the same folder.
    with suppress(Exception):
        return pickle.loads(zlib.decompress(path.read_bytes()))
    value = compute()
    with suppress(Exception):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(zlib.compress(pickle.dumps(value), 1))
    return value


@contextmanager
def _compiling_anew() -> Iterator[None]:
    """Within the block JAX reads no compiled program: those cannot be serialised again.

    They lose functions, and fail when they run ("Function ... not found", jax 0.10.2 on a CPU).
    """
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # or it would not look at the setting
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


class Program:
    """A compiled function, kept on disk. Its calls may differ in the shape of the last argument."""

    def __init__(self, make: Callable[[], Callable[..., Any]], *about: object) -> None:
        """`make` gives the function, as `jax.jit` does; all that it depends on is in `about`."""
        self._make, self._about = make, about
        self._compiled: dict[tuple[object, ...], Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:  # noqa: ANN401
        shape = args[-1].shape, args[-1].dtype
        if shape not in self._compiled:
            self._compiled[shape] = self._find(args)
        return self._compiled[shape](*args)

    def _find(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        if jax.default_backend() != "cpu" or jax.device_count() > 1:
            return self._make()
        shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(args)]
        about = *self._about, shapes, str(jax.tree.structure(args))

        def compiled() -> tuple[Any, ...]:
            with _compiling_anew():
                whole = serialize_executable.serialize(self._make().lower(*args).compile())
            jax.block_until_ready(serialize_executable.deserialize_and_load(*whole)(*args))
            return whole  # it runs

        if _place("program", about) is None:
            return self._make()
        with suppress(Exception):
            return serialize_executable.deserialize_and_load(*remember("program", about, compiled))
        return self._make()
