"""Kinds of damaged zips, lists of CelebA, experiments and command lines."""

import contextlib
import io
import json
import random
import zipfile
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np

from jaxparse.config import Config, load_experiment, parse_arguments
from jaxparse.data.releases.celebamask import (
    MAPPING,
    PARTITION,
    challenge_like_split,
    make_record,
    official_split,
)
from jaxparse.devices import ONE_PROCESS
from jaxparse.prepare import RECORD, keep_record
from jaxparse.scoring.submissions import decode_mask, inspect_submission
from tests import zips
from tests.fuzzing.damage import BYTES, CHUNKS, Damage
from tests.fuzzing.judge import Kind
from tests.fuzzing.typed import JSON, TEXT, words

CENTRAL = b"PK\x01\x02"
MEMBER_NAMES = (
    "../0007.png",
    "/etc/0007.png",
    "C:\\0007.png",
    "test_mask/",
    "test_mask/../../0007.png",
    "test_mask/0007.png",
    "\n",
    "a\nb.png",
    ".",
    "ä\udcff.png".encode("utf-8", "surrogateescape").decode("latin-1"),
    "x" * 60000,
)
# In the central directory: offset of a field, its size.
CENTRAL_FIELDS = {"version": (6, 2), "flags": (8, 2), "method": (10, 2), "crc": (16, 4)}
CENTRAL_FIELDS |= {"packed": (20, 4), "size": (24, 4), "name": (28, 2), "offset": (42, 4)}


def central_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A number in the zip's list of members: flags, method, sizes, place."""
    place, size = rng.choice(sorted(CENTRAL_FIELDS.values()))
    starts = [i for i in range(len(data)) if data.startswith(CENTRAL, i)]
    start = rng.choice(starts) + place
    value = rng.choice((0, 1, 9, 14, 99, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF))
    value &= 256**size - 1
    return data[:start] + value.to_bytes(size, "little") + data[start + size :]


def member(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A member more: by another name, twice, a folder, or a mask that is damaged."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.infolist()[0].filename
        content = archive.read(first)
        choice = rng.randrange(3)
        name = rng.choice((*MEMBER_NAMES, first)) if choice < 2 else f"{first[:-8]}2999.png"
        damage = rng.choice(sorted(BYTES | CHUNKS))
        archive.writestr(name, (BYTES | CHUNKS)[damage](rng, content, content))
    return file.getvalue()


def damaged_mask(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The zip again, one of its masks damaged before it was packed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        chosen = rng.choice([name for name in old.namelist() if name.endswith(".png")])
        damages = BYTES | CHUNKS
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                content = damages[rng.choice(sorted(damages))](rng, content, content)
            new.writestr(name, content)
    return file.getvalue()


def bomb(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The zip again, one of its members packed small and huge unpacked: up to 3.9 GB of zeros."""
    size = 1 << 20
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(size)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = rng.choice((1, 100, 3900))
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            # The blocks end in an empty last one; their checksum is not worth its seconds.
            packed = block * count + b"\3\0" if name == chosen else old.read(name)
            new.writestr(name, packed)
            if name == chosen:
                entry = new.infolist()[-1]
                entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, size * count
    return file.getvalue()


ZIPS: dict[str, Damage] = {"central field": central_field, "member": member}
ZIPS |= {"damaged mask": damaged_mask, "bomb": bomb}


def submissions(folder: Path) -> Kind:
    """Zips of the server's and of CodaBench's format, as `submission check` reads them."""
    images = zips.write_images(folder / "images")
    code = [(zipfile.ZipInfo(f"solution/{name}"), b"x") for name in ("ckpt.pth", "run.py")]
    code.append((zipfile.ZipInfo("solution/requirements.txt"), b"x"))
    zips.write_zip(folder / "test_mask.zip", zips.good())
    zips.write_zip(folder / "masks.zip", zips.good("masks") + code)
    originals = {p.name: p.read_bytes() for p in folder.glob("*.zip")}

    def read(path: Path) -> dict[str, np.ndarray]:
        form = "codabench" if path.stem == "masks" else "server"
        inspection = inspect_submission(path, images, form)
        if inspection.faults:  # each is printed on a line of its own
            worst = max(inspection.faults, key=lambda line: (not line.isprintable(), len(line)))
            raise ValueError(worst if path.name in worst else f"{path}: {worst}")
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            return {name: decode_mask(archive.read(name)) for name in names}

    return Kind(originals, BYTES | ZIPS, read, sums=True)


def celeba_lists(folder: Path) -> Kind:
    """The release's mapping to CelebA, and CelebA's partition."""
    header = "idx orig_idx orig_file\n"
    rows = "".join(f"{i} {i + 100} {i + 101:06d}.jpg\n" for i in range(40))
    partition = "".join(f"{i + 101:06d}.jpg {i % 3}\n" for i in range(40))
    originals = {MAPPING: (header + rows).encode(), PARTITION: partition.encode()}

    def read(path: Path) -> object:
        return official_split(path.parent), challenge_like_split(path.parent)

    return Kind(originals, TEXT | {"word": words, "word ": words}, read)


def record(folder: Path) -> Kind:
    """What `prepare` notes in its output."""
    numbers = {"train": [1, 2], "val": [3], "test": []}
    settings = make_record("official", "official", numbers)
    keep_record(folder, settings)
    original = {RECORD: (folder / RECORD).read_bytes()}
    return Kind(original, TEXT | JSON, lambda path: keep_record(folder, settings))


EXPERIMENT = '''"""An experiment."""

from dataclasses import replace

from jaxparse.config import Config, load_experiment

config = replace(load_experiment("quickstart"), steps=3)
'''
LINES = (
    "config = Config(lr=3)",
    "config = Config(steps='3')",
    "config = load_experiment('missing')",
    "import missing",
    "raise KeyError('x')",
    "1 / 0",
    "    config = Config()",
    "config = replace(config, steps=0)",
    "config = 3",
    "config = Config(",
    "def f(): return f()\nf()",
    "raise ValueError('two\\nlines')",
    "assert False",
)


def code(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One more line at the end."""
    return data + rng.choice(LINES).encode() + b"\n"


def experiments(folder: Path) -> Kind:
    """A user's own experiment."""
    text = {k: TEXT[k] for k in ("truncated", "zero tail", "empty", "other encoding", "1 bit")}
    original = {"own_experiment.py": EXPERIMENT.encode()}
    return Kind(original, text | {"code": code}, lambda path: load_experiment(str(path)))


FLAG_VALUES = (
    *("", "x", "0", "1", "-1", "1.5", "nan", "inf", "-inf", "1e999", "1e-320", "None", "True"),
    *("[]", "{}", "[red]", "a b", "9" * 10, "9" * 30, "9" * 400, "9" * 5000, "x" * 300),
    *("--help-me", "\udcff", "a\nb", "٣", "1_000", " 1", "0x10"),
)


def flag(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Another value, none, or two."""
    values = rng.choice(([rng.choice(FLAG_VALUES)],) * 8 + ([], rng.sample(FLAG_VALUES, 2)))
    return json.dumps(values).encode()


def command_line(folder: Path) -> Kind:
    """Every field of Config as a flag of `train`; the file, named as it, holds the values."""

    def read(path: Path) -> Config:
        values = json.loads(path.read_text())
        args = ["--exp", "quickstart", *([] if values is None else [f"--{path.name}", *values])]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return parse_arguments("train", "Trains.", ONE_PROCESS, args)[1]

    originals = {field.name: b"null" for field in fields(Config)}
    return Kind(originals, {"value": flag}, read)
