"""The layers of the package: who may import whom, read from the sources."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxparse"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem != "__init__" or path.parent.name == "models"
}
LAYERS = [
    {"classes", "config", "files", "faults", "cli", "images", "gpus"},
    {
        "folders",
        "celebamask",
        "drawing",
        "portrait",
        "synthetic",
        "data",
        "losses",
        "metrics",
        "scoring",
        "score_tables",
        "score_folders",
        "optim",
        "precision",
        "logs",
        "overlay",
        "suspects",
        "html_page",
        "zip_names",
    }
    | {name for name in MODULES if name.startswith("models")},
    {
        "checkpoint",
        "weights",
        "steps",
        "sources",
        "weight_files",
        "distributed",
        "tiles",
        "parser",
        "submission",
    },
    {
        "train",
        "validation",
        "evaluate",
        "predict",
        "convert_weights",
        "verify",
        "benchmark",
        "check_data",
        "plot",
        "plan",
        "prepare",
        "report",
        "report_sections",
    },
]
# What a layer may import of itself: importer -> imported.
WITHIN = {
    "config": {"classes", "files"},
    "images": {"classes", "files"},
    "portrait": {"drawing"},
    "synthetic": {"portrait", "drawing"},
    "data": {"folders", "synthetic"},
    "score_tables": {"scoring"},
    "score_folders": {"folders", "scoring"},
    "steps": set(),
    "parser": {"weights", "steps", "tiles"},
    "suspects": {"scoring"},
    "report": {"evaluate", "plan", "plot", "report_sections"},
    "report_sections": {"plot"},
    "train": {"plan", "validation"},
    "convert_weights": {"verify"},
}
# data's command line, which imports it inside main().
LATE = {("data", "check_data")}
WITHOUT_JAX = {
    "classes",
    "config",
    "files",
    "faults",
    "images",
    "folders",
    "drawing",
    "portrait",
    "synthetic",
    "data",
    "scoring",
    "score_tables",
    "score_folders",
    "celebamask",
    "prepare",
    "zip_names",
    "submission",
    "suspects",
    "html_page",
}


def level(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


def imports(module: str, top_only: bool) -> set[str]:
    """Names that the module imports; with `top_only` those outside of functions."""
    tree = ast.parse(MODULES[module].read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def project_imports(module: str) -> set[str]:
    names = {name.removeprefix("jaxparse.") for name in imports(module, top_only=False)}
    return (names | {f"{name}.__init__" for name in names}) & MODULES.keys()


def test_every_module_has_a_layer() -> None:
    assert set().union(*LAYERS) == MODULES.keys()


@pytest.mark.parametrize("module", sorted(set(MODULES) - {n for n in MODULES if "models" in n}))
def test_imports_only_from_below(module: str) -> None:
    for imported in project_imports(module) - {"models.__init__"}:
        if (module, imported) in LATE:
            continue
        below = level(imported) < level(module)
        assert below or imported in WITHIN.get(module, ()), f"{module} imports {imported}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("models.")])
def test_layers_of_the_networks(module: str) -> None:
    imported = {name for name in project_imports(module) if name.startswith("models")}
    functions = {"models.functional", "models.convolution"}
    layers = functions | {"models.layers"}
    backbones = {"models.swin", "models.resnet"}
    heads = {"models.upernet", "models.deeplab", "models.psanet", "models.fcn"}
    allowed = {
        "models.functional": set(),
        "models.convolution": {"models.functional"},
        "models.layers": functions,
        "models.segmentor": layers,
        "models.__init__": layers | backbones | heads | {"models.segmentor"},
    }
    assert imported - {"models.__init__"} <= allowed.get(module, layers)


@pytest.mark.parametrize("module", sorted(WITHOUT_JAX))
def test_loader_workers_stay_light(module: str) -> None:
    assert not any(name.split(".")[0] in ("jax", "flax") for name in imports(module, False))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_torch_is_imported_only_inside_functions_for_other_packages(module: str) -> None:
    top_only = module in ("weight_files", "verify")
    roots = {name.split(".")[0] for name in imports(module, top_only)}
    assert not roots & {"torch", "timm"}
