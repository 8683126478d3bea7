import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxparse import plan as plan_module
from jaxparse.cli import run
from jaxparse.config import Config
from jaxparse.models import split_model
from jaxparse.plan import (
    Plan,
    changes_to_try,
    compile_step,
    count_flops,
    flags,
    has_cuda_compiler,
    least_seconds,
    mesh_for,
    plan_run,
    verdict,
)
from jaxparse.training.gpus import GPU, GPUS
from tests import mini
from tests.runs import CONFIG


def fake_plan(peak: float, seconds: float = 1) -> Plan:
    return Plan({"params": 0}, 0, int(peak), 10**12, 10**9, seconds)


def tiny(gigabytes: float) -> GPU:
    """A device that leaves this much to the step."""
    return GPUS["t4"]._replace(memory=(gigabytes * 1e9 + plan_module.OVERHEAD + 1e3) / 2**30)


def flops_of(function: object, *shapes: tuple[int, ...]) -> int:
    return count_flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)))


def test_prints_the_numbers_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, compile_ = [], jax.stages.Lowered.compile

    def record(self: jax.stages.Lowered, **options: object) -> jax.stages.Compiled:
        seen.append(compile_(self, **options))
        return seen[-1]

    monkeypatch.setattr(jax.stages.Lowered, "compile", record)
    monkeypatch.setattr(plan_module, "JAX_SHARE", 0.0)  # says nothing of a CPU
    assert plan_run(CONFIG, "quickstart", "cpu", Console(width=100)) == 0
    memory, text = seen[0].memory_analysis(), capsys.readouterr().out
    _, params, _ = split_model(CONFIG)
    size = sum(4 * x.size for x in jax.tree.leaves(params))
    assert f"{size // 4:,}" in text
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    cost = seen[0].cost_analysis()["bytes accessed"]
    sizes = {"argument params": size, "temporaries": memory.temp_size_in_bytes, "peak": peak}
    sizes["outputs (the rest reuses arguments)"] = 4 * 4  # the metrics
    cells = {
        row[1].strip(): row[2].strip()
        for row in map(lambda s: s.split("│"), text.split("\n"))
        if len(row) == 4
    }
    assert {name: cells[name] for name in sizes} == {
        k: f"{v / 1e9:.3f} GB" for k, v in sizes.items()
    }
    assert cells["memory read and written"] == f"{cost / 1e9:,.1f} GB"
    assert f"quickstart on cpu: peak {peak / 1e9:.2f} of " in text
    assert "MEM_FRACTION" not in text


def test_order_of_the_changes() -> None:
    lean = "--precision float16 --remat"
    assert [flags(change) for change in changes_to_try(CONFIG, "float16")] == [
        "--precision float16",
        "--remat",
        lean,
        f"{lean} --accumulate-steps 2",
        f"{lean} --batch-size 2",
    ]
    done = replace(CONFIG, precision="float16", remat=True, accumulate_steps=2)
    assert [flags(change) for change in changes_to_try(done, "float16")] == [
        "--accumulate-steps 1 --batch-size 2",
    ]
    pooling_free = [flags(c) for c in changes_to_try(replace(CONFIG, head="psanet"), "float16")]
    assert pooling_free[-2:] == [f"{lean} --accumulate-steps 4", f"{lean} --batch-size 1"]


def test_search_stops_at_the_first_change_that_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []

    def compile_fake(config: Config, mesh: jax.sharding.Mesh) -> Plan:
        compiled.append(config)
        return fake_plan({0: 4e9, 1: 3e9, 2: 2e9}[len(compiled) - 1])

    monkeypatch.setattr(plan_module, "compile_step", compile_fake)
    monkeypatch.setattr(plan_module, "has_cuda_compiler", lambda: False)
    monkeypatch.setitem(GPUS, "tiny", tiny(2))
    assert plan_run(CONFIG, "quickstart", "tiny", Console(width=100)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rough: compiled for this CPU")
    assert "quickstart on tiny: peak 4.00 of 2.00 GB, does not fit (compiled in 1 s)" in lines
    assert lines[-1] == "add to the command: --remat"
    assert len(compiled) == 3


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(plan_module, "compile_step", lambda config, mesh: fake_plan(4e9))
    monkeypatch.setitem(GPUS, "tiny", tiny(2))
    monkeypatch.setattr(plan_module, "has_cuda_compiler", lambda: False)
    assert plan_run(CONFIG, "runs[/x].py", "tiny", Console(width=100)) == 1
    out = capsys.readouterr().out
    assert "\nruns[/x].py on tiny: peak 4.00" in out  # no markup
    assert out.splitlines()[-1] == "nothing tried makes it fit tiny; a smaller --image-size would"


def test_large_share_of_a_gpu_needs_a_setting() -> None:
    gpu = GPUS["rtx2080ti"]  # 11.554 GB
    assert verdict(fake_plan(8.6e9), gpu) == (
        True,
        "peak 8.60 of 10.85 GB, fits (compiled in 1 s)",
    )
    assert verdict(fake_plan(8.7e9), gpu)[1].endswith(
        ", with XLA_CLIENT_MEM_FRACTION=0.93 (JAX takes 0.75 by default)"
    )
    assert verdict(fake_plan(10.9e9), gpu)[0] is False


def test_least_time_is_that_of_the_slower_of_arithmetic_and_memory() -> None:
    plan = Plan({}, 0, 0, flops=134 * 10**11, accessed=308 * 10**9, seconds=1)
    assert least_seconds(plan, GPUS["rtx2080ti"], "float32") == pytest.approx(1)
    assert least_seconds(plan, GPUS["rtx2080ti"], "float16") == pytest.approx(0.5)


def test_flops() -> None:
    def loop(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)[0]

    def branches(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        pads = ((1, 1), (1, 1))
        return jax.lax.conv_general_dilated(x, w, (2, 2), pads, dimension_numbers=dimensions)

    product = 2 * 5 * 7 * 7
    assert flops_of(jnp.matmul, (5, 7), (7, 7)) == product
    assert flops_of(jax.jit(jax.checkpoint(loop)), (5, 7), (7, 7)) == 3 * product
    assert flops_of(branches, (5, 7), (7, 7)) == product
    forward = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 6)
    shapes = ((2, 8, 8, 6), (3, 3, 6, 5))
    assert flops_of(conv, *shapes) == forward
    both = jax.grad(lambda x, w: conv(x, w).sum(), argnums=(0, 1))
    assert flops_of(both, *shapes) == 3 * forward


def test_plan_needs_no_data_and_no_weights_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_module, "compile_only", lambda: None)
    monkeypatch.setattr(plan_module, "compile_step", lambda config, mesh: fake_plan(9e9))
    monkeypatch.setattr(plan_module, "has_cuda_compiler", lambda: False)
    monkeypatch.setattr(sys, "argv", ["plan", "--exp=swin_b", "--device=rtx2080ti"])
    assert plan_module.main() == 0
    text = capsys.readouterr().out
    assert "121,178,846" in text
    assert "swin_b on rtx2080ti: peak 9.00 of 10.85 GB, fits" in text
    assert not list(tmp_path.iterdir())


def test_unknown_device_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "compile_only", lambda: None)
    monkeypatch.setattr(sys, "argv", ["plan", "--exp=swin_b", "--device=abacus"])
    with pytest.raises(SystemExit) as stop:
        run(plan_module.main)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "abacus" in error and "cpu, rtx2080ti, t4, " in error
    assert error.count("\n") == 1


@pytest.mark.skipif(not has_cuda_compiler(), reason="needs jax[cuda12], with or without a GPU")
def test_compiles_for_a_gpu_that_is_not_there() -> None:
    command = f"-m jaxparse.plan --exp {mini.__file__}"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, *command.split(), "--device", "rtx2080ti"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "rough" not in done.stdout
    assert "on rtx2080ti: peak 0." in done.stdout
    here = compile_step(CONFIG, mesh_for(None))
    assert f"{here.flops / 1e9:,.1f} GFLOP" in done.stdout
