"""The house: which rooms may import which, read from the sources."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxparse"
MODULES = sorted(PACKAGE.rglob("*.py"))
GROUND = ("classes", "config", "fields", "files", "cli", "cuda", "devices", "programs")
# Lower rooms first; a module may import its own room and those below.
ROOMS = (
    GROUND,
    ("data", "models"),
    ("weights", "scoring"),
    ("parsing", "exporting"),
    ("training",),
)
WITHOUT_JAX = ("classes", "config", "fields", "files", "cli", "cuda")
WITHOUT_JAX += ("data", "scoring")
LATE = ("torch", "timm", "transformers", "tensorflow", "mtcnn", "grain", "tyro")
LATE += ("onnx", "onnxruntime")


def room(path: Path) -> str:
    """The folder of a module, or the name of a file at the top."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def level(name: str) -> int:
    return next((i for i, rooms in enumerate(ROOMS) if name in rooms), len(ROOMS))


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Modules that the file imports; with `top_only` those outside of functions."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(path: Path) -> set[str]:
    """The rooms that the file imports."""
    parts = (name.split(".") for name in imports(path))
    names = {part[1] for part in parts if part[0] == "jaxparse" and len(part) > 1}
    return {
        name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_from_below(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):  # the front door and the console command
        return
    own = len(ROOMS) if path.name == "__main__.py" else level(here)  # a folder's command
    for other in rooms_of(path) - {here, "__main__"}:  # which runs a command given to python -m
        ground = own == 0 == level(other)
        assert ground or level(other) < own, f"{here} imports {other}"


def test_no_circle_within_a_room() -> None:
    names = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in MODULES}
    left = {name: imports(path, top_only=True) & names.keys() for name, path in names.items()}
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_and_optional_libraries_are_imported_late(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path, top_only=True)}
    commands = level(room(path)) == len(ROOMS)
    training = room(path) == "training"
    allowed = ("tyro",) if commands else ("grain",) if training else ()
    assert not roots & set(LATE) - set(allowed)


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room(path) in WITHOUT_JAX],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_loader_workers_stay_light(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "optax"}


def test_rooms_are_small() -> None:
    folders = {path.parent for path in MODULES if path.parent != PACKAGE}
    assert all(len(list(folder.glob("*.py"))) <= 16 for folder in folders)  # 15 and __init__
