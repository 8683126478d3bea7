"""Weights -> one file with the whole path from picture to mask, for other runtimes.

    python -m jaxparse.export runs/swin_t --to onnx --output swin_t.onnx

The file is run at once, beside JAX, and is not written unless both agree.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("export")

import json
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from tyro.conf import Positional

from jaxparse import cli
from jaxparse.config import Config
from jaxparse.devices import use_compilation_cache
from jaxparse.exporting import onnx, stablehlo, tflite
from jaxparse.exporting.check import Agreement, compare, reference, require_agreement
from jaxparse.exporting.program import Weights, picture_spec, picture_to_mask, trace
from jaxparse.files import require_writable_file
from jaxparse.weights.files import SHIPPED, flatten, read_metadata
from jaxparse.weights.find import find_weights, load_network

Format = Literal["onnx", "tflite", "stablehlo"]
Precision = Literal["float32", "float16"]
LIBRARIES = {"onnx": ("onnx", "onnxruntime"), "tflite": ("tensorflow",), "stablehlo": ()}


def halved(weights: Weights) -> Weights:
    """Kernels in 16 bits; what norms and biases hold stays as it is."""
    return {k: w.astype(np.float16) if w.ndim > 1 else w for k, w in weights.items()}


class Export(NamedTuple):
    """What is exported, and as what."""

    config: Config
    weights: Weights
    to: Format
    precision: Precision
    about: dict[str, str]  # the file's metadata

    def write(self, path: Path, probabilities: bool) -> None:
        """Writes the file."""
        # TensorFlow Lite has no kernels of 16 bits on CPUs: it stores, and widens, the weights.
        maps = "float32" if self.to == "tflite" else self.precision
        function = picture_to_mask(self.config, maps, probabilities)
        pictures = picture_spec(self.config)
        if self.to == "stablehlo":
            weights = halved(self.weights) if self.precision == "float16" else self.weights
            stablehlo.write(function, weights, self.config, path, self.about)
        elif self.to == "onnx":
            onnx.write(trace(function, self.weights, pictures), path, self.about)
        else:
            one = jax.ShapeDtypeStruct((1, *pictures.shape[1:]), pictures.dtype)
            program = trace(function, self.weights, one)
            tflite.write(program, path, self.about, halve=self.precision == "float16")


def load(to: Format, path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """An exported file as a function of pictures."""
    return {"onnx": onnx.load, "tflite": tflite.load, "stablehlo": stablehlo.load}[to](path)


def about(config: Config, precision: str, source: str) -> dict[str, str]:
    """The metadata: what the file takes and gives; each value JSON or words."""
    side = config.image_size
    return {
        "classes": json.dumps(config.classes.names),
        "colours": json.dumps(config.classes.colours),
        "input": f"image: uint8 [N, {side}, {side}, 3], RGB, the whole picture resized to it",
        "resize_filter": config.resize_filter,
        "normalisation": "inside",
        "image_mean": json.dumps(config.image_mean),
        "image_std": json.dumps(config.image_std),
        "network": f"{config.backbone} + {config.head}",
        "precision": precision,
        "source": source,
        "jaxparse": metadata.version("jaxparse"),
    }


def require_libraries(to: Format) -> None:
    """Raises ValueError with the command that installs what the format needs."""
    if missing := [name for name in LIBRARIES[to] if not util.find_spec(name)]:
        raise ValueError(f'--to {to} needs {", ".join(missing)}: pip install "jaxparse[{to}]"')


def write_checked(export: Export, path: Path, probabilities: bool) -> Agreement:
    """Writes the file and runs it beside JAX. Raises ValueError if they differ too much.

    Without probabilities a file that has them is compared first, and then the masks.
    """
    export.write(path, probabilities=True)
    image, expected = reference(export.config, export.weights)
    found = compare(load(export.to, path), image, expected)
    if not probabilities:
        export.write(path, probabilities=False)
        mask = load(export.to, path)(image)["mask"]
        found = found._replace(masks=min(found.masks, float((mask == expected["mask"]).mean())))
    require_agreement(found, export.precision)
    return found


def export(
    weights: Positional[str | None] = None,
    *,
    to: Format,
    output: Path,
    precision: Precision = "float32",
    probabilities: bool = False,
) -> None:
    """Exports a network to one file, from picture to mask, and compares it with JAX.

    Args:
        weights: What `predict --weights` takes; default: the network that comes with jaxparse.
        to: onnx, tflite (convolutional networks alone), or stablehlo (for JAX without jaxparse).
        output: The file to write.
        precision: Type of the maps inside; float16 halves the file.
        probabilities: Give the classes' probabilities as well as the mask.
    """
    require_writable_file(output)
    require_libraries(to)
    if weights is None:
        print(f"no weights named: {SHIPPED.stem} of jaxparse, for non-commercial use")
    config, *trees = load_network(weights)
    arrays = {k: np.asarray(v) for tree in trees for k, v in flatten(tree).items()}
    source = read_metadata(find_weights(weights))["source"]
    exported = Export(config, arrays, to, precision, about(config, precision, source))
    started = time.monotonic()
    with cli.written(output) as temporary:
        with cli.busy("exporting"):
            found = write_checked(exported, temporary, probabilities)
        show(exported, temporary, found, time.monotonic() - started)


def show(exported: Export, path: Path, found: Agreement, seconds: float) -> None:
    """Lines on what was written, what it takes and gives."""
    about, megabytes = exported.about, path.stat().st_size / 1e6
    size = f"{megabytes:.1f} MB, made in {seconds:.0f} s"
    print(f"{about['network']}, {exported.to}, {exported.precision}, {size}")
    print(
        f"beside JAX probabilities differ by at most {found.difference:.1e}, and "
        f"{100 * found.masks:.3f} % of the pixels have the same class"
    )
    print(f"takes {about['input']} ({about['resize_filter']}); gives mask: uint8, class indices")


def main() -> None:
    """Command line of `export`."""
    use_compilation_cache()
    cli.command(export, "export", {"--weights": ""})
