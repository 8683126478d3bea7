"""Weights of a run -> a repository of the Hugging Face hub, with a model card.

    python -m jaxparse.push runs/swin_t user/repo

`Parser.from_pretrained("user/repo")` and `predict --weights user/repo` read it back.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("push")

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tyro.conf import Positional

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes
from jaxparse.config import Config, read_config
from jaxparse.models.parameters import parameter_counts
from jaxparse.training.logs import METRICS, best_row, class_ious, read_runs
from jaxparse.weights.files import HUB_FILE, read_weights
from jaxparse.weights.find import find_weights, load_network, run_of
from jaxparse.weights.hub import HubName, ask

# Fields that say nothing of what was learnt, or name folders of this machine.
UNSAID = ("workdir", "data_dir", "num_workers", "log_every", "keep_evaluations", "mirrored_masks")
LICENCE = """\
The licence of the weights is that of what they were trained on, and of the weights that they
started from: CelebAMask-HQ, for example, is for non-commercial research and education. jaxparse
itself, the code, is under Apache-2.0."""


def scores_section(run: Path, classes: Classes) -> str:
    """Scores of the run's best evaluation as Markdown; empty if there are none."""
    row = best_row(read_runs([run])[0]) if (run / METRICS).is_file() else {}
    if not row:
        return ""
    totals = " | ".join(f"{100 * row[f'val/{name}']:.2f}" for name in ("mIoU", "aAcc", "mAcc"))
    ious = zip(classes.names, class_ious(row, classes.names), strict=True)
    shown = ((name, f"{iou:.2f}" if np.isfinite(iou) else "absent") for name, iou in ious)
    classes = "\n".join(f"| {name} | {iou} |" for name, iou in shown)
    return (
        f"## Scores\n\nOn the validation pictures after step {int(row['step'])}, in %:\n\n"
        f"| mIoU | aAcc | mAcc |\n|---|---|---|\n| {totals} |\n\n"
        f"| class | IoU |\n|---|---|\n{classes}\n\n"
    )


def recipe_section(config: Config) -> str:
    """The settings of the run that are not the defaults, as Markdown."""
    fields, defaults = vars(config), vars(Config())
    changed = {k: v for k, v in fields.items() if v != defaults[k] and k not in UNSAID}
    changed |= {name: fields[name] for name in ("steps", "batch_size", "learning_rate")}
    changed |= {"init_weights": Path(config.init_weights).name}
    rows = "\n".join(f"| {name} | {value} |" for name, value in sorted(changed.items()))
    return f"## Recipe\n\n| setting | value |\n|---|---|\n{rows}\n\n"


def model_card(weights: Path, run: Path | None, config: Config, repository: str) -> str:
    """The README.md of the repository: what the network is, how to use it, scores, licence."""
    _, params, _ = load_network(weights)
    origin = read_weights(weights)[1]["source"]
    origin = origin.replace(config.workdir, Path(config.workdir).name)  # no folder of this machine
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(config.classes.names))
    known = sorted(config.classes.names) == sorted(CELEBAMASK.names)  # other tables do not say
    sides = " Left and right are the person's own." if known else ""
    return (
        "---\nlibrary_name: jaxparse\npipeline_tag: image-segmentation\n"
        "tags: [face-parsing, jax]\n---\n\n"
        f"# {repository.split('/')[1]}\n\n"
        f"A face-parsing network: {config.backbone} + {config.head}, "
        f"{sum(parameter_counts(params).values()):,} parameters. It takes pictures at "
        f"{config.image_size}x{config.image_size} and gives each pixel one of "
        f"{len(config.classes)} classes.\n\n"
        "```python\nfrom jaxparse import Parser\n\n"
        f'parser = Parser.from_pretrained("{repository}")\n'
        'parser("photo.jpg").save("mask.png")\n```\n\n'
        f"## Classes\n\n{classes}.{sides}\n\n"
        f"{scores_section(run, config.classes) if run else ''}"
        f"{recipe_section(config) if run else ''}"
        f"## Origin and licence\n\n{origin}\n\n{LICENCE}\n"
    )


def write_repository(weights: str, repository: str, folder: Path) -> None:
    """Writes the files of the repository: the weights, config.json, README.md."""
    path, run = find_weights(weights), run_of(weights)
    config = read_config(run) if run else load_network(path)[0]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / HUB_FILE)
    network = json.loads(read_weights(path)[1]["network"])
    (folder / "config.json").write_text(json.dumps({"model_type": "jaxparse"} | network) + "\n")
    (folder / "README.md").write_text(model_card(path, run, config, repository))


def push(
    weights: Positional[str],
    repository: Positional[str],
    private: bool = False,
    card: Path | None = None,
) -> None:
    """Uploads weights with a model card to the Hugging Face hub.

    Args:
        weights: A run's folder (its best weights), or what else `predict --weights` takes.
        repository: USER/NAME, made if it does not exist. Log in first: `hf auth login`.
        private: Make the repository visible to its owner only.
        card: Only write the repository's files to this folder, to look at; nothing is uploaded.
    """
    if HubName.of(repository).repository != repository:
        raise ValueError(f"{repository} names more than a repository; give USER/NAME")
    if card:
        write_repository(weights, repository, card)
        print(f"written to {card}; nothing was uploaded")
        return
    with TemporaryDirectory() as folder:
        write_repository(weights, repository, Path(folder))
        upload(repository, Path(folder), private)
    words = "PICTURES", "--weights", repository, "--output", "MASKS"
    print(f"uploaded; next: {cli.line_for_shell('predict', *words)}")


def upload(repository: str, folder: Path, private: bool) -> None:
    """Makes the repository unless it is there, and uploads the folder's files as one commit."""
    from huggingface_hub import HfApi

    api, fix = HfApi(), "log in with `hf auth login`, check the name and your rights to it"
    ask(repository, lambda: api.create_repo(repository, private=private, exist_ok=True), fix)
    ask(repository, lambda: api.upload_folder(repo_id=repository, folder_path=folder), fix)


def main() -> None:
    """Command line of `push`."""
    cli.command(push, "push", {"--weights": ""})
