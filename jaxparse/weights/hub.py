"""Networks by their names on the Hugging Face hub: downloaded, converted once, uploaded.

huggingface_hub does the transfers: it shows progress, resumes, compares checksums, and respects
HF_HOME, HF_TOKEN and HF_HUB_OFFLINE.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from glob import escape
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

from jaxparse import cli
from jaxparse.files import brief, reason
from jaxparse.weights.files import HUB_FILE, is_ours
from jaxparse.weights.foreign import INDEX
from jaxparse.weights.stated import CONFIG, PREPROCESSING

# What a repository may keep its weights in: those of the first suffix that it has come into
# question.
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# transformers' own names, which others beside them do not put in question.
USUAL = tuple(f"{stem}{end}" for stem in (HUB_FILE, "pytorch_model.bin") for end in ("", INDEX))
NAME = r"(\w[\w.-]*/[\w.-]+)(?:/([^@]+))?(?:@([\w./-]+))?"  # repository, file, revision
FORMS = "user/repo, user/repo/FILE or either with @REVISION"
# Behind the repository in the address of one of its pages.
PAGE = r"^([^/]+/[^/]+)/(?:tree|blob|resolve|raw)/(refs/\w+/[^/]+|[^/]+)(?:/(.+))?$"
ASSETS = "jaxparse_2"  # whose number is raised when files are converted otherwise
FOLDERS = ("runs", "weights")  # where jaxparse writes: no users of the hub
Result = TypeVar("Result")


class HubName(NamedTuple):
    """user/repo, or with a file in it, a revision or both: user/repo/folder/file.pt@v1."""

    repository: str
    file: str | None
    revision: str | None

    @classmethod
    def of(cls, name: str) -> "HubName":
        """The parts of a name, or of the address of a page on the hub.

        Raises ValueError if it is of another form.
        """
        if "://" in name:
            return cls._of_address(name)
        if not (match := re.fullmatch(NAME, name)):
            raise ValueError(f"{name} is not a name on the Hugging Face hub; give {FORMS}")
        found = cls(*match.groups())
        if found.revision and found.revision.endswith(SUFFIXES):
            revision, _, file = found.revision.partition("/")
            right = cls(found.repository, file, revision)
            raise ValueError(f"{name}: the revision comes last; give {right}")
        return found

    @classmethod
    def _of_address(cls, address: str) -> "HubName":
        from huggingface_hub.constants import ENDPOINT

        for site in ("https://huggingface.co", "https://hf.co", ENDPOINT):
            if address.startswith(f"{site}/"):
                path = re.split("[?#]", address.removeprefix(f"{site}/"))[0].strip("/")
                page = re.match(PAGE, path)
                repository, revision, file = page.groups() if page else (path, None, None)
                if re.fullmatch(NAME, repository) and repository.count("/") == 1:
                    return cls(repository, file and unquote(file), revision and unquote(revision))
        raise ValueError(
            f"{address} is not the page of a repository on the Hugging Face hub: give {FORMS}, or "
            "download the file and give that"
        )

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{self.repository}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def address(self) -> str:
        """Where a browser finds the file."""
        from huggingface_hub.constants import ENDPOINT

        file = self.file or HUB_FILE
        return f"{ENDPOINT}/{self.repository}/resolve/{self.revision or 'main'}/{file}"


def is_hub_name(weights: str) -> bool:
    """Whether this is a name on the hub and not a path: no such file or folder is here."""
    path = Path(weights)
    return "://" in weights or (
        re.fullmatch(NAME, weights) is not None
        and (path.suffix not in (".json", ".py", *SUFFIXES) or len(path.parts) > 2)
        and not path.exists()
        and path.parts[0] not in FOLDERS
        and not Path(path.parts[0]).is_dir()
    )


def ask(name: str, request: Callable[[], Result], fix: str) -> Result:
    """The answer of the hub. Raises ValueError, with what to do instead, if there is none."""
    try:
        return request()
    except Exception as error:  # the hub's, the network's or the disk's
        kind = type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if kind == "GatedRepoError":
            fix = "accept its terms on its page there, log in with `hf auth login`, and try again"
        elif kind == "RepositoryNotFoundError":
            fix = "check the name; for a private one log in with `hf auth login`"
            fix += f"; there is no file or folder {name} here either"
        elif kind == "RevisionNotFoundError":
            fix = "check what stands behind the @"
        elif status == 401:
            fix = "its token is not valid: log in with `hf auth login`, or unset HF_TOKEN"
        why = f"{kind}: {brief(reason(error))}"
        raise ValueError(f"{name}: the hub cannot be used ({why}); {fix}") from error


def files_in(folder: Path) -> list[str]:
    """The paths of the files in a folder and two levels below."""
    paths = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def weights_among(files: Sequence[str]) -> list[str]:
    """The files of weights and the indices of several."""
    endings = (*SUFFIXES, *(f"{suffix}{INDEX}" for suffix in SUFFIXES))
    return [each for each in files if each.endswith(endings)]


def pick(place: str, files: Sequence[str], file: str | None = None, behind: str = "") -> str:
    """The file of weights, or the index of several, among the files of a repository or folder.

    That is `file`, or of those at the top the one by a usual name, or the only one. Raises
    ValueError, listing what users can name (`place`/FILE`behind`), if none or more than one
    comes into question.
    """
    if file in files:
        return file
    weights = weights_among(files)
    top = [each for each in weights if "/" not in each]
    indices = [each for each in top if each.endswith(INDEX)]
    of_suffix = ([each for each in top if each.endswith(suffix)] for suffix in SUFFIXES)
    found = [each for each in USUAL if each in top][:1] or indices
    found = found or next(filter(None, of_suffix), [])
    if not weights:
        kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise ValueError(f"{place} has no file of weights ({kinds}); give another")
    if file or len(found) != 1:
        several = "several files of weights" if found else "weights in folders alone"
        what = f"no file {file}" if file else several
        shown = ", ".join(brief(f"{place}/{each}{behind}") for each in weights[:4])
        more = f" and {len(weights) - 4} more" if len(weights) > 4 else ""
        raise ValueError(f"{place} has {what}; give one of: {shown}{more}")
    return found[0]


def _wanted(taken: str) -> list[str]:
    """Patterns of the file that is taken, its parts if it is an index, and what is beside it."""
    folder = taken.rpartition("/")[0]
    parts = [f"*{Path(taken.removesuffix(INDEX)).suffix}"] if taken.endswith(INDEX) else []
    beside = (str(Path(escape(folder), name)) for name in (CONFIG, PREPROCESSING, *parts))
    return [escape(taken), *beside]


def download(name: str, words: Sequence[str] = ()) -> tuple[Path, str]:
    """The repository's folder in the hub's cache, and the path in it of the weights, which are
    downloaded with what is stated beside them, and nothing else.

    Without the network it is the copy in the cache. Raises ValueError if there is none, with the
    address to download by hand and the command for that file, whose further `words` are the
    caller's.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, file, revision = named = HubName.of(name)
    of = partial(pick, repository, file=file, behind=f"@{revision}" if revision else "")
    by_hand = cli.line_for_shell("convert_weights", *words, "--weights", Path(named.address).name)
    fix = f"check the network, or download {named.address} by hand, then: {by_hand}"
    snapshot = partial(snapshot_download, repository, revision=revision)
    try:
        # Not list_repo_files, which tries for 20 s where there is no network.
        about = ask(name, partial(HfApi().model_info, repository, revision=revision), fix)
    except ValueError:
        try:
            folder = Path(snapshot(local_files_only=True, allow_patterns=[]))
        except Exception:  # noqa: BLE001 - what it was that failed first is said
            folder = None
        if folder is None:
            raise
        return folder, of(files_in(folder))
    taken = of([each.rfilename for each in about.siblings or []])
    return Path(ask(name, partial(snapshot, allow_patterns=_wanted(taken)), fix)), taken


def cached() -> dict[str, Path]:
    """Name on the hub -> file of this package, for the networks that are on this disk already."""
    from huggingface_hub.constants import HF_ASSETS_CACHE, HF_HUB_CACHE

    ours = Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{HUB_FILE}")
    found = [(path.parents[2].name.removeprefix("models--"), path) for path in ours]
    converted = (Path(HF_ASSETS_CACHE) / ASSETS).glob(f"*/*/{HUB_FILE}")
    found += [(path.parents[1].name, path) for path in converted]
    networks = {}
    for folder, path in sorted(found, key=lambda item: item[1].stat().st_mtime):
        with suppress(ValueError):  # a download that was cut off
            if is_ours(path):
                networks[folder.replace("--", "/", 1)] = path
    return networks
