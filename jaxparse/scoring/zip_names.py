"""The names in a zip of masks, against those of the test images: what a server would refuse."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import Literal

Format = Literal["server", "codabench"]
CODE_FILES = ("solution/ckpt.pth", "solution/requirements.txt", "solution/run.py")
STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini"}  # and every hidden file, as .DS_Store


def mask_folder(path: Path, format: Format) -> str:
    """The folder in the zip at `path` that is to hold the masks."""
    return "masks" if format == "codabench" else path.stem


class ZipNames:
    """The entries of a zip, for the masks `wanted`: name -> image.

    `folder` is where the masks belong; `server` accepts any single folder name.
    """

    def __init__(
        self,
        entries: list[zipfile.ZipInfo],
        folder: str,
        wanted: dict[str, Path],
        format: Format,
    ) -> None:
        self.entries = entries
        self.counts = Counter(entry.filename for entry in self.entries)
        self.files = [entry.filename for entry in self.entries if not entry.is_dir()]
        self.wanted = wanted
        self.twins = {_loose(name): name for name in wanted}
        self.code = ("solution/",) if format == "codabench" else ()
        if format == "server":
            # Of several folders the fullest is the one meant, so that the faults name the others.
            used = Counter(n.split("/")[0] for n in self.files if "/" in n and not _is_leftover(n))
            folder = max(used, key=used.__getitem__, default=folder)
        self.folder = folder

    def faults(self) -> dict[str, str]:
        """Name in the zip, or of what is missing -> what is wrong."""
        found = {e.filename: fault for e in self.entries if (fault := self._entry_fault(e))}
        code = {name for name in self.files if name.startswith(self.code)}
        others = (name for name in self.files if name not in code and not _is_leftover(name))
        for name in self.wanted.keys() - map(self._meant, others):
            found[f"{self.folder}/{name}"] = f"is missing; {self.wanted[name]} has no mask"
        for name in set(CODE_FILES) - code if code else ():
            found[name] = "is missing; the test phase runs the code"
        return found

    def _meant(self, name: str) -> str | None:
        """The mask that the file may be meant for, whatever its folder and spelling."""
        file = name.replace("\\", "/").split("/")[-1]
        return file if file in self.wanted else self.twins.get(_loose(file))

    def _entry_fault(self, entry: zipfile.ZipInfo) -> str | None:
        name = entry.filename
        parts = name.removesuffix("/").split("/")
        if "\\" in name or ":" in parts[0] or {"", ".", ".."} & set(parts):
            return "is not a plain path inside the zip; zip the folder itself, with / in the names"
        if self.counts[name] > 1:
            return f"is in the zip {self.counts[name]} times; keep one"
        if entry.flag_bits & 1:
            return "is encrypted; zip without a password"
        if entry.compress_type not in STORED_OR_DEFLATED:
            return f"has compression method {entry.compress_type}; store or deflate it"
        if name.startswith(self.code):
            return None
        if _is_leftover(name):
            return "is a leftover of the operating system or an editor; zip without it"
        if entry.is_dir():
            empty = not any(file.startswith(name) for file in self.files)
            return f"is a second folder; expected only {self.folder}/" if empty else None
        file = parts[-1]
        if parts[:-1] != [self.folder]:
            return f"does not lie directly in {self.folder}/; expected {self.folder}/{file}"
        if file in self.wanted:
            return None
        meant = self._meant(file)
        if meant is None or f"{self.folder}/{meant}" in self.counts:
            return "belongs to no image; remove it"
        fix = "rename it" if file.lower().endswith(".png") else "save it as a PNG"
        return f"is not named as its image, expected {meant}; {fix}"


def _is_leftover(name: str) -> bool:
    parts = name.lower().split("/")
    return any(part in LEFTOVERS or (part[:1] == "." and part.strip(".")) for part in parts)


def _loose(file: str) -> str:
    """The name without what people get wrong: suffix, case, zeros in front."""
    return Path(file).stem.lower().lstrip("0")
