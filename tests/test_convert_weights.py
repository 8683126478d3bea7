import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from safetensors.numpy import save_file

from jaxparse import convert_weights
from jaxparse.checkpoint import flatten, load_weights, read_weights, unflatten
from jaxparse.classes import NAMES
from jaxparse.config import load_experiment
from jaxparse.convert_weights import convert, convert_file, read_checkpoint
from jaxparse.models import split_model
from tests import reference

StateDict = dict[str, np.ndarray]
NANO = load_experiment("swin_nano")
FRESH = tuple(f"backbone.norm{i}." for i in range(4)) + ("decode_head.", "auxiliary_head.")


def mmseg() -> StateDict:
    return reference.state_dict("mmseg_swin_nano")


def timm() -> StateDict:
    """timm's Swin-T shrunk to swin_nano: a third of the channels and heads, two blocks a stage."""

    def shrink(key: str, shape: list[int]) -> list[int]:
        if key.endswith("relative_position_bias_table"):
            return [169, shape[1] // 3]
        return [size // 3 if size % 96 == 0 else size for size in shape]

    shapes = reference.SHAPES["timm_swin_t"].items()
    kept = {k: v for k, v in shapes if not re.match(r"layers\.2\.blocks\.[2-5]", k)}
    return {key: reference.fill(key, shrink(key, shape)) for key, shape in kept.items()}


def as_microsofts(state_dict: StateDict) -> StateDict:
    """timm's names -> Microsoft's, with the buffers that Microsoft's files have."""

    def rename(key: str) -> str:
        key = re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", key)
        return key.replace("head.fc.", "head.")

    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((49, 49), np.int64),
        "layers.0.blocks.1.attn_mask": np.zeros((64, 49, 49), np.float32),
    }
    return {rename(key): array for key, array in state_dict.items()} | buffers


def microsoft() -> StateDict:
    return as_microsofts(timm())


def write(path: Path, state_dict: StateDict, wrapper: str | None = None) -> Path:
    """A .safetensors, or a .pth with the state dict under the key `wrapper`."""
    if path.suffix == ".safetensors":
        save_file(state_dict, path)
        return path
    torch = pytest.importorskip("torch", reason="torch is not installed; it reads .pth files")
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state_dict.items()}
    torch.save({"meta": {"seed": 0}, wrapper: tensors} if wrapper else tensors, path)
    return path


def require_equal(arrays: StateDict, expected: StateDict) -> None:
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "make, wrapper, name, fresh, command",
    [
        (mmseg, "state_dict", "mmsegmentation Swin segmentor", (), "evaluate --weights"),
        (timm, None, "timm ImageNet Swin", FRESH, "train --init-weights"),
        (microsoft, "model", "Microsoft ImageNet Swin", FRESH, "train --init-weights"),
    ],
)
def test_file_is_converted(
    make: Callable[[], StateDict],
    wrapper: str | None,
    name: str,
    fresh: tuple[str, ...],
    command: str,
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = write(tmp_path / f"theirs{suffix}", make(), wrapper)
    output = tmp_path / "out" / "ours.safetensors"
    convert_file("swin_nano", checkpoint, output)
    arrays, metadata = read_weights(output)
    require_equal(arrays, convert(checkpoint, make(), NANO).arrays)
    assert metadata["source"] == f"{name}, theirs{suffix}"
    assert metadata["fresh"] == ",".join(fresh)
    assert metadata["classes"] == ",".join(NAMES)
    assert '"backbone": "swin_nano"' in metadata["network"]
    printed = capsys.readouterr().out
    assert f"{checkpoint}: {name}\n" in printed
    assert f"  python -m jaxparse.{command} {output} --exp swin_nano" in printed


def test_table_counts_every_key() -> None:
    state_dict = mmseg()
    conversion = convert(Path("f"), state_dict, NANO)
    assert len(conversion.arrays) + len(conversion.dropped) == len(state_dict)
    columns = [
        list(column.cells) for column in convert_weights.conversion_table(conversion).columns
    ]
    assert columns == [
        ["backbone", "decode_head", "auxiliary_head"],
        ["125", "62", "7"],
        ["2,282,926", "637,139", "37,619"],
        ["8 relative_position_index", "12 num_batches_tracked", "1 num_batches_tracked"],
        ["", "", ""],
    ]
    table = convert_weights.conversion_table(convert(Path("f"), microsoft(), NANO))
    dropped = "norm.weight norm.bias head.weight head.bias relative_position_index attn_mask"
    assert next(table.columns[3].cells).split("\n") == [f"1 {key}" for key in dropped.split()]
    assert list(table.columns[4].cells) == ["norm0.\nnorm1.\nnorm2.\nnorm3.", "all", "all"]


def test_converted_backbone_loads_and_leaves_the_rest(tmp_path: Path) -> None:
    output = tmp_path / "ours.safetensors"
    convert_file("swin_nano", write(tmp_path / "theirs.safetensors", timm()), output)
    _, params, batch_stats = split_model(NANO)
    with pytest.raises(ValueError, match="train from it first"):
        load_weights(output, NANO, params, batch_stats)
    loaded, stats = load_weights(output, NANO, params, batch_stats, allow_fresh=True)
    kept = {name for name, array in flatten(loaded).items() if not isinstance(array, np.ndarray)}
    assert kept == {name for name in flatten(params) if name.startswith(FRESH)}
    assert stats == batch_stats


def test_microsofts_names_give_the_arrays_of_timms() -> None:
    require_equal(
        convert(Path("f"), microsoft(), NANO).arrays, convert(Path("f"), timm(), NANO).arrays
    )


@pytest.mark.parametrize("backbone", ["swin_t", "swin_b"])
def test_backbone_from_timm_gives_timms_maps(backbone: str) -> None:
    config = load_experiment(backbone)
    arrays = convert(Path("f"), reference.state_dict(f"timm_{backbone}"), config).arrays
    graphdef, params, batch_stats = split_model(config)
    params = unflatten(
        {k: arrays.get(k, np.zeros(v.shape, v.dtype)) for k, v in flatten(params).items()}
    )

    @reference.jit
    def stages(params: dict[str, Any], image: Array) -> list[Array]:
        model = nnx.merge(graphdef, params, batch_stats).backbone
        # timm does not shift where the map is a single window; mmsegmentation does.
        for block in model.layers[3].blocks:
            block.attn.shift = 0
        x, maps = model.patch_embed(image), []
        for layer in model.layers:
            x = layer(x, None)
            maps.append(x)
        return maps

    for stage, x in enumerate(stages(params, reference.image(1, 224, 224))):
        name = f"{backbone}/timm/stage{stage}"
        if f"{name}_mean/step" in reference.OUTPUTS:
            name, x = f"{name}_mean", x.mean(-1)
        assert reference.sample_error(name, x) < 1e-5, name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_becomes_float32(suffix: str, dtype: str, tmp_path: Path) -> None:
    state_dict = timm()
    halved = {key: np.asarray(jnp.asarray(a, dtype)) for key, a in state_dict.items()}
    path = tmp_path / f"theirs{suffix}"
    if suffix == ".safetensors":
        save_file(halved, path)
    else:
        torch = pytest.importorskip("torch", reason="torch is not installed; it reads .pth files")
        half = getattr(torch, dtype)
        torch.save({k: torch.from_numpy(a).to(half) for k, a in state_dict.items()}, path)
    require_equal(read_checkpoint(path), {k: a.astype(np.float32) for k, a in halved.items()})


def test_prefix_of_data_parallel_training_is_dropped(tmp_path: Path) -> None:
    wrapped = {f"module.{key}": array for key, array in timm().items()}
    require_equal(read_checkpoint(write(tmp_path / "f.safetensors", wrapped)), timm())


class HistoryBuffer:
    """Pickles like mmengine's."""

    def __init__(self) -> None:
        self.max_length, self._log_history = 10, np.array([1.5, 2.5])

    def min(self) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_statistics_methods": {"min": HistoryBuffer.min}}


def test_training_checkpoint_of_mmengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; it reads .pth files")
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    path = tmp_path / "iter_10.pth"
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", module.__name__):
            patch.setitem(sys.modules, name, module)
        patch.setattr(HistoryBuffer, "__module__", module.__name__)
        patch.setattr(HistoryBuffer.min, "__module__", module.__name__)
        hub = {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"best": np.float64(3)}}
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter])
        parameter.sum().backward()
        optimizer.step()
        weights = {key: torch.from_numpy(array) for key, array in timm().items()}
        state = {"optimizer": optimizer.state_dict(), "message_hub": hub, "state_dict": weights}
        torch.save(state, path)
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert {"builtins.getattr", "mmengine.logging.history_buffer.HistoryBuffer"} < set(needed)
    allowed = set(torch.serialization.get_safe_globals())
    require_equal(read_checkpoint(path), timm())
    assert set(torch.serialization.get_safe_globals()) == allowed


class Command:
    """Runs when it is unpickled."""

    def __init__(self, function: Callable, *args: str) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function, asked", [(os.mkdir, "posix.mkdir"), (eval, "eval")])
def test_pickle_that_runs_code_is_refused(
    function: Callable, asked: str, zipped: bool, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; it reads .pth files")
    made = tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    content = {"state_dict": {"patch_embed.proj.bias": Command(function, argument)}}
    path = tmp_path / "evil.pth"
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=rf"^{path} is refused: it asks for {asked}, .*$") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not made.exists()
    pickle.loads(pickle.dumps(content))
    assert made.is_dir()  # so it would have been


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("f.pth", b"", "is no torch checkpoint or is cut short: EOFError"),
        ("f.pth", b"<!DOCTYPE html>\n<p>", "is no torch checkpoint or is cut short"),
        ("f.safetensors", b"", "is not a safetensors file or is cut short"),
        ("f.safetensors", b"<!DOCTYPE html>\n<p>", "is not a safetensors file or is cut short"),
    ],
)
def test_file_of_another_kind(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    if name.endswith(".pth"):
        pytest.importorskip("torch", reason="torch is not installed; it reads .pth files")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} {message}.*$"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_cut_short(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"f{suffix}", {"patch_embed.proj.bias": np.ones(1000, np.float32)})
    for size in (100, path.stat().st_size - 100):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=rf"^{path} is no.* is cut short: .*$"):
            read_checkpoint(path)


def test_missing_file() -> None:
    with pytest.raises(ValueError, match="there is no file nowhere.pth; --checkpoint takes"):
        read_checkpoint(Path("nowhere.pth"))


def test_pth_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "f.pth"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"f.pth needs PyTorch .* pip install 'jaxparse\[torch\]'"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"epoch": 3}}, {"model": 5}])
def test_pth_without_weights(content: object, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; it reads .pth files")
    path = tmp_path / "f.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="f.pth .*; accepted: mmsegmentation Swin segmentor, timm"):
        convert(path, read_checkpoint(path), NANO)


@pytest.mark.parametrize(
    "make, exp, message",
    [
        (mmseg, "swin_t", r"holds swin_nano \(embed_dim 32, depths 2 2 2 2\), not swin_t; check"),
        (timm, "swin_b", r"holds swin_nano \(embed_dim 32, depths 2 2 2 2\), not swin_b; check"),
        (lambda: {"conv1.weight": np.ones(3)}, "swin_t", "no network that is known here; accepted"),
    ],
)
def test_file_of_another_network(make: Callable, exp: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^theirs.pth .*{message}.*$"):
        convert(Path("theirs.pth"), make(), load_experiment(exp))


def test_swin_of_unknown_size() -> None:
    deeper = timm()
    deeper |= {k.replace("s.1.", "s.2."): v for k, v in deeper.items() if "layers.3.blocks" in k}
    with pytest.raises(ValueError, match="a size unknown here .embed_dim 32, depths 2 2 2 3., not"):
        convert(Path("f"), deeper, NANO)


def test_strays_gaps_and_shapes_are_listed_together() -> None:
    state_dict = mmseg()
    state_dict["backbone.extra.weight"] = np.ones((2, 3), np.float32)
    del state_dict["decode_head.conv_seg.bias"]
    state_dict["auxiliary_head.conv_seg.weight"] = np.ones((150, 32, 1, 1), np.float32)
    with pytest.raises(ValueError) as error:
        convert(Path("f.pth"), state_dict, NANO)
    assert str(error.value) == (
        "f.pth does not fit the network: missing decode_head.conv_seg.bias; unknown "
        "backbone.extra.kernel; auxiliary_head.conv_seg.kernel is (1, 1, 32, 150), "
        "not (1, 1, 32, 19)"
    )


def test_two_names_for_one_parameter() -> None:
    state_dict = mmseg()
    state_dict["backbone.patch_embed.proj.bias"] = np.ones(32, np.float32)
    with pytest.raises(ValueError, match="f.pth has two names for one parameter"):
        convert(Path("f.pth"), state_dict, NANO)


@pytest.mark.parametrize(
    "make, init_weights, expected",
    [
        (mmseg, "weights/start.safetensors", "weights/small.safetensors"),
        (timm, "weights/start.safetensors", "weights/start.safetensors"),
        (timm, "none", "weights/small.safetensors"),
    ],
)
def test_command_line_and_default_output(
    make: Callable,
    init_weights: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = "backbone='swin_nano', head_channels=64, auxiliary_channels=32"
    Path("small.py").write_text(
        "from jaxparse.config import Config\n"
        f"config = Config({fields}, init_weights={init_weights!r})\n"
    )
    write(Path("theirs.safetensors"), make())
    argv = "convert_weights --exp small.py --checkpoint theirs.safetensors"
    monkeypatch.setattr(sys, "argv", argv.split())
    convert_weights.main()
    assert [str(path) for path in Path("weights").iterdir()] == [expected]


def test_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.safetensors", timm())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the file to convert itself; give another --output"):
        convert_file("swin_nano", path, path)
    assert path.read_bytes() == before
