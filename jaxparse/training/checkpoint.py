"""The training state of a run on disk, by orbax."""

import json
import logging
import shutil
import sys
import warnings
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import grain
import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave
from jax.experimental import multihost_utils

from jaxparse.devices import PyTree
from jaxparse.files import reason, writing

SUMS = "crc32.json"  # in a sealed folder: the checksums of the files in its sub-folders


def quiet_aftermath() -> None:
    """Silences the follow-up tracebacks of a failed orbax read or write.

    The first failure is raised; asyncio then logs, tensorstore's callbacks print, and Python warns
    of a coroutine never awaited, once more for each array that was being read or written.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:  # a name for type checkers only
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = hook


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file in the folder's folders, by relative path."""
    return {
        str(path.relative_to(folder)): _crc32(path)
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file()
    }


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total = zlib.crc32(chunk, total)
    return total


def seal(folder: Path) -> None:
    """Stores the checksums; files beside the sub-folders may still change, as orbax's do."""
    (folder / SUMS).write_text(json.dumps(checksums(folder), indent=1))


def require_intact(folder: Path) -> None:
    """Raises ValueError naming a file that changed since `seal`; an unsealed folder passes."""
    if not (folder / SUMS).is_file():
        return
    found = checksums(folder)
    for name, total in json.loads((folder / SUMS).read_text()).items():
        if found.get(name) != total:
            raise ValueError(f"{name} is {'damaged' if name in found else 'missing'}")


def used_fields(state: PyTree) -> dict[str, PyTree]:
    """Fields of a TrainState that are not None: a run's checkpoint holds no others.

    Checkpoints saved before a field existed can therefore still be read.
    """
    return {name: value for name, value in state._asdict().items() if value is not None}


def _data_file(index: int, count: int | str) -> str:
    """The file where grain keeps the data position of one of `count` processes."""
    return f"process_{index}-of-{count}.json"


def _restore_shared_position(data: Path, loader: grain.DatasetIterator) -> None:
    """Restores the data position saved by a run with another number of processes.

    Together they have taken all pictures up to there, each the same number.
    """
    counts = [int(path.stem.rsplit("-", 1)[1]) for path in data.glob(_data_file(0, "*"))]
    if len(counts) != 1:
        raise ValueError(f"{data} holds no data position; delete that checkpoint, {data.parent}")
    taken = json.loads((data / _data_file(0, counts[0])).read_text())["next_index"] * counts[0]
    loader.set_state({"next_index": taken // jax.process_count()})


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether the run in `workdir` has saved its state."""
    folder = Path(workdir) / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


class Checkpoints:
    """The training states of a run, the newest two, by orbax.

    Saving returns at once and writes in the background; what a killed process leaves half-written
    is ignored. A checkpoint holds the TrainState and the state of the data iterator, per process,
    and the checksums of its files: tensorstore reads flipped bits of an array without complaint.
    """

    def __init__(self, workdir: str | Path) -> None:
        self.folder = Path(workdir).resolve() / "checkpoints"
        self._saving = 0
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        try:
            self.manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError:
            raise
        except Exception as error:  # orbax reads a file of each checkpoint, and trusts its types
            raise ValueError(
                f"{self.folder} cannot be opened ({reason(error)}); restore it from a copy, or "
                "delete the newest checkpoint in it to resume from the one before"
            ) from error

    def _seal(self) -> None:
        """Called when all files are written, before orbax renames the folder into place."""
        if jax.process_index() == 0:
            seal(next(self.folder.glob(f"{self._saving}.*tmp*")))

    def _writing(self) -> AbstractContextManager[None]:
        kept = [step for step in self.manager.all_steps() if step != self._saving]
        said = (
            f"the checkpoint after step {max(kept)} is kept"
            if kept
            else "there is no checkpoint yet"
        )
        return writing(f"the checkpoint after step {self._saving}", self.folder, said)

    def latest_step(self) -> int | None:
        """Steps done at the newest checkpoint that is on disk, None if there is none.

        Raises OSError if it could not be written.
        """
        with self._writing():
            self.manager.wait_until_finished()
        return self.manager.latest_step()

    def check(self) -> None:
        """Raises OSError if the last checkpoint could not be written; does not wait for it."""
        if not self.manager.is_saving_in_progress():
            self.latest_step()

    def save(self, step: int, state: PyTree, loader: grain.DatasetIterator) -> None:
        """Saves after `step` steps, unless that is already saved."""
        if step == self.latest_step():
            return
        args = {"state": ocp.args.StandardSave(used_fields(state)), "data": CheckpointSave(loader)}
        self._saving = step
        with self._writing():
            self.manager.save(step, args=ocp.args.Composite(**args))

    def restore(
        self, state: PyTree, loader: grain.DatasetIterator
    ) -> tuple[PyTree, int, list[str]]:
        """Restores the newest intact checkpoint: (state, step, a line per newer damaged one).

        The state is placed like `state`, which comes back with step 0 if there is no checkpoint;
        `loader` is moved to its position. Damaged ones are renamed to STEP.corrupt. Raises
        ValueError if there are checkpoints and none can be read: it never restarts silently.
        """
        folders = (path for path in self.folder.iterdir() if path.name.isdigit())
        faults: dict[Path, str] = {}
        for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
            try:
                require_intact(folder)
                restored = self._read(int(folder.name), state, loader)
            except Exception as error:  # libraries raise all kinds on damaged files
                faults[folder] = reason(error)
                continue
            return restored, int(folder.name), self._put_aside(faults)
        if not faults:
            return state, 0, []
        listed = "; ".join(f"{folder.name}: {fault}" for folder, fault in faults.items())
        raise ValueError(
            f"no checkpoint in {self.folder} can be read ({listed}); restore one from a copy, or "
            "delete that folder to start from the first step"
        )

    def _read(self, step: int, state: PyTree, loader: grain.DatasetIterator) -> PyTree:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, used_fields(state))
        args = {"state": ocp.args.StandardRestore(abstract)}
        data = self.folder / str(step) / "data"
        if (data / _data_file(jax.process_index(), jax.process_count())).exists():
            args["data"] = CheckpointRestore(loader)
        else:
            _restore_shared_position(data, loader)
        restored = self.manager.restore(step, args=ocp.args.Composite(**args))
        return state._replace(**restored.state)

    def _put_aside(self, faults: Mapping[Path, str]) -> list[str]:
        lines = []
        if not faults:
            return lines
        for folder, fault in faults.items():
            aside = folder.with_name(f"{folder.name}.corrupt")
            lines.append(f"{folder} cannot be read ({fault}); it was renamed to {aside.name}")
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
        multihost_utils.sync_global_devices("checkpoints put aside")
        self.manager.reload()
        return lines

    def close(self) -> None:
        """Waits until all is on disk. Raises OSError if the last could not be written."""
        self.latest_step()
        self.manager.close()
