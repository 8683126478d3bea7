"""The mean of the weights of a run's last evaluations, as weights of their own.

    python -m jaxparse.train --exp NAME --keep-evaluations 5
    python -m jaxparse.average runs/NAME

The method is described in training/averaging.py.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("average")

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from tyro.conf import Positional

from jaxparse import cli
from jaxparse.config import Config, override, read_config
from jaxparse.data.loaders import make_train_loader
from jaxparse.devices import make_mesh, require_shards, use_compilation_cache
from jaxparse.files import require_writable_file
from jaxparse.training.averaging import (
    EVALUATIONS,
    batch_statistics,
    kept_evaluations,
    mean_weights,
)
from jaxparse.weights.files import AVERAGE_WEIGHTS, flatten, save_weights


def last_evaluations(run: Path, last: int | None) -> list[Path]:
    """The newest `last` weights that the run keeps, or all. Raises ValueError if there are none."""
    if last is not None and last < 1:
        raise ValueError(f"--last is {last}; give at least 1")
    kept = kept_evaluations(run)
    if len(kept) < (last or 1):
        raise ValueError(
            f"{run / EVALUATIONS} holds the weights of {len(kept)} evaluations, expected "
            f"{last or 'at least 1'}: train keeps them with --keep-evaluations N"
        )
    return kept[-last:] if last else kept


def save_average(paths: Sequence[Path], config: Config, run: Path, batches: int) -> Path:
    """Writes the mean of the weights, with batch statistics of its own, with a progress bar."""
    params, batch_stats = mean_weights(paths, config)
    loader = islice(make_train_loader(config, warn=_warn_of(config)), batches)
    tracked = cli.track(loader, batches, "batch statistics", first=cli.COMPILING)
    arrays = flatten(params) | flatten(batch_statistics(config, params, batch_stats, tracked))
    steps = ", ".join(path.stem for path in paths)
    origin = f"mean of the weights after steps {steps} of {run}, batch norm over {batches} batches"
    save_weights(run / AVERAGE_WEIGHTS, arrays, config, origin)
    return run / AVERAGE_WEIGHTS


def _warn_of(config: Config) -> Callable[[str], None] | None:
    """What tells of pictures that are skipped; None where they end the command."""
    if config.on_bad_data == "stop":
        return None
    return lambda line: print(f"warning: {line}", file=sys.stderr)


def average(
    run: Positional[Path],
    last: int | None = None,
    batches: int = 200,
    data_dir: str | None = None,
    num_workers: int | None = None,
) -> None:
    """Writes average.safetensors into a run's folder: the mean of its last evaluations' weights.

    Args:
        run: Folder of a run that was trained with --keep-evaluations.
        last: How many of the evaluations, the newest; default: all that are kept.
        batches: Batches of training pictures from which batch norm's statistics are computed.
        data_dir: Folder with train/; default: as in the run.
        num_workers: Threads that decode pictures; default: as in the run.
    """
    if batches < 1:
        raise ValueError(f"--batches is {batches}; give at least 1")
    changes = {"data_dir": data_dir, "num_workers": num_workers}
    config = replace(override(read_config(run), changes), workdir=str(run))
    paths = last_evaluations(run, last)
    require_writable_file(run / AVERAGE_WEIGHTS, "the run's")
    require_shards(config.batch_size, make_mesh())
    path = save_average(paths, config, run, batches)
    print(f"mean of {cli.counted(len(paths), 'evaluation')}: {path}")


def main() -> None:
    """Command line of `average`."""
    use_compilation_cache()
    cli.command(average, "average")
