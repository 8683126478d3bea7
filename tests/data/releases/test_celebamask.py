from pathlib import Path

import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.data.releases.celebamask import (
    CHALLENGE_COUNTS,
    MAPPING,
    OFFICIAL_COUNTS,
    PAINT_ORDERS,
    PARTITION,
    PARTS,
    challenge_like_split,
    find_parts,
    official_split,
)
from tests.refusal import refuses

ABBREVIATIONS = {"l_": "left_", "r_": "right_", "u_": "upper_"}
OTHERS = {"eye_g": "eye_glasses", "ear_r": "earring", "neck_l": "necklace"}
OTHERS |= {"l_lip": "lower_lip"}


def write_lists(folder: Path, parts: list[int], partition: bool = True) -> Path:
    """Picture i is CelebA's file 2i + 1 and in train (0), val (1) or test (2) by `parts[i]`."""
    files = [f"{2 * number + 1:06d}.jpg" for number in range(len(parts))]
    rows = (f"{i:<8}{2 * i:<12}{file}" for i, file in enumerate(files))
    (folder / MAPPING).write_text("\n".join(["idx     orig_idx    orig_file", *rows]) + "\n")
    if partition:
        every_file = {f"{number:06d}.jpg": number % 3 for number in range(2 * len(parts))}
        every_file |= dict(zip(files, parts, strict=True))
        rows = (f"{file} {part}\n" for file, part in sorted(every_file.items()))
        (folder / PARTITION).write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lists of a release of 30,000 pictures."""
    numbers = range(30_000)
    # A permutation: 7919 is prime to 30,000.
    places = [number * 7919 % 30_000 for number in numbers]
    parts = [(place >= 24_183) + (place >= 24_183 + 2_993) for place in places]
    return write_lists(tmp_path_factory.mktemp("lists"), parts)


def test_the_parts_are_the_classes_in_their_order() -> None:
    for part, name in zip(PARTS, CELEBAMASK.names[1:], strict=True):
        assert OTHERS.get(part, ABBREVIATIONS.get(part[:2], part[:2]) + part[2:]) == name
    for order in PAINT_ORDERS.values():
        assert sorted(order) == sorted(PARTS)
    assert set(PAINT_ORDERS["accessories-last"][-4:]) == {"eye_g", "hat", "ear_r", "neck_l"}


def test_the_official_split_follows_the_mapping_to_celeba(tmp_path: Path) -> None:
    split = official_split(write_lists(tmp_path, [2, 0, 0, 1, 0, 2]))
    assert split == {"train": [1, 2, 4], "val": [3], "test": [0, 5]}


def test_lists_with_a_byte_order_mark_or_from_kaggle(tmp_path: Path) -> None:
    write_lists(tmp_path, [2, 0, 1])
    expected = official_split(tmp_path)
    for name in (MAPPING, PARTITION):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert official_split(tmp_path) == expected
    rows = (tmp_path / PARTITION).read_text("utf-8-sig").replace(" ", ",")
    (tmp_path / PARTITION).unlink()
    (tmp_path / PARTITION).with_suffix(".csv").write_text(f"image_id,partition\n{rows}")
    assert official_split(tmp_path) == expected


def test_the_official_split_of_a_whole_release_has_the_known_counts(lists: Path) -> None:
    split = official_split(lists)
    assert {name: len(numbers) for name, numbers in split.items()} == OFFICIAL_COUNTS
    assert sorted(sum(split.values(), [])) == list(range(30_000))


def test_a_whole_release_that_splits_otherwise_is_refused(tmp_path: Path) -> None:
    write_lists(tmp_path, [0] * 24_182 + [1] * 2_994 + [2] * 2_824)
    with refuses(tmp_path / PARTITION, "24182", "24183"):
        official_split(tmp_path)


def test_challenge_like_draws_from_each_official_split(lists: Path) -> None:
    split, pools = challenge_like_split(lists), official_split(lists)
    assert {name: len(numbers) for name, numbers in split.items()} == CHALLENGE_COUNTS
    for name, numbers in split.items():
        assert numbers == sorted(set(numbers)) and set(numbers) <= set(pools[name])
    # Drawn, not the first: as many from the second half of the pictures as from the first.
    assert sum(number >= 15_000 for number in split["train"]) == pytest.approx(2500, abs=120)


def test_challenge_like_without_the_partition_is_fixed_for_good(tmp_path: Path) -> None:
    split = challenge_like_split(write_lists(tmp_path, [0] * 30_000, partition=False))
    assert {name: len(numbers) for name, numbers in split.items()} == CHALLENGE_COUNTS
    assert len(set(sum(split.values(), []))) == 7000
    assert [split[name][:4] for name in split] == [
        [0, 12, 13, 24],
        [26, 30, 31, 43],
        [6, 77, 80, 113],
    ]


def test_challenge_like_of_few_pictures_takes_them_all(tmp_path: Path) -> None:
    split = challenge_like_split(write_lists(tmp_path, [0] * 14, partition=False))
    assert [len(numbers) for numbers in split.values()] == [10, 2, 2]
    assert sorted(sum(split.values(), [])) == list(range(14))


def test_a_missing_partition_says_where_it_comes_from(tmp_path: Path) -> None:
    write_lists(tmp_path, [0] * 3, partition=False)
    with refuses("there is no", tmp_path / PARTITION, "CelebA.html", "--split challenge-like"):
        official_split(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (MAPPING, "0 5 000001.jpg\n1 x 000003.jpg\n", ("line 2", "'1 x 000003.jpg'", "copy")),
        (PARTITION, "000001.jpg 0\n000003.jpg\n", ("line 2", "'000003.jpg'", "copy")),
        (PARTITION, "000001.jpg 3\n", ("line 1", "'000001.jpg 3'", "copy")),
        (PARTITION, "000001.jpg 0\n", ("000003.jpg", "picture 1", "copy")),
        (PARTITION, "\xff\x00", ("line 1",)),
    ],
)
def test_malformed_lists_are_refused(
    tmp_path: Path, file: str, text: str, words: tuple[str, ...]
) -> None:
    write_lists(tmp_path, [0, 1])
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    with refuses(tmp_path / file, *words):
        official_split(tmp_path)


def test_masks_that_are_not_parts_are_named(tmp_path: Path) -> None:
    base = tmp_path / "CelebAMask-HQ-mask-anno"
    names = ("0/00000_skin.png", "0/00000_ear_r.png", "1/02000_hat.png")
    bad = ("0/00000_beard.png", "0/0000_skin.png", "0/02000_hair.png")
    for name in (*names, *bad, "0/._00000_skin.png", "0/Thumbs.db"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    parts, faults = find_parts(tmp_path)
    skin, earring, hat = (base / name for name in names)
    assert parts == {0: {"skin": skin, "ear_r": earring}, 2000: {"hat": hat}}
    assert [fault.split(" ")[0] for fault in faults] == [str(base / name) for name in bad]
    assert "wrong folder" in faults[2]


def test_a_folder_without_a_release_is_refused(tmp_path: Path) -> None:
    with refuses("there is no", tmp_path / "CelebAMask-HQ-mask-anno"):
        find_parts(tmp_path)
    with refuses("there is no", tmp_path / MAPPING):
        official_split(tmp_path)


def test_a_damaged_mapping_is_named_beside_the_partition(tmp_path: Path) -> None:
    write_lists(tmp_path, [0, 1, 2])
    mapping = tmp_path / MAPPING
    mapping.write_text(mapping.read_text().replace("000003.jpg", "00\x1b003.jpg"))
    with refuses(MAPPING, PARTITION, r"00\x1b003.jpg", "picture 1"):
        official_split(tmp_path)
