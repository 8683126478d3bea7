"""What a run will need, before it runs: `python -m jaxparse.plan --exp NAME --device GPU`.

The real training step is compiled ahead of time for a device that need not be there: XLA's CUDA
compiler needs a description of the GPU, not the GPU, so `jax[cuda12]` on any machine will do.
Nothing runs and no array is made. Autotuning would need the GPU, so the convolutions' workspaces
are those of XLA's default choice.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("plan")

import importlib.util
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from jaxparse import cli
from jaxparse.config import Config, parse_arguments
from jaxparse.devices import replicated
from jaxparse.models import fewest_pictures, require_enough_pictures
from jaxparse.models.parameters import parameters_table
from jaxparse.training.gpus import GPU, GPUS
from jaxparse.training.steps import TrainState, init_state, make_train_step

# Estimates, not figures of XLA: a CUDA context with cuDNN's and cuBLAS's code and workspaces; on a
# CPU Python and the libraries.
OVERHEAD = 0.7e9
JAX_SHARE = 0.75  # of a GPU's memory is what JAX takes by default
PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


@dataclass(frozen=True)
class PlanOptions:
    """Flags of this command beside the fields of Config."""

    device: str = "cpu"
    """Device to plan for: cpu (this machine's), rtx2080ti, t4, v100, rtx3090, rtx4090, l4, a100,
    a100-80, h100 or h200."""


class Plan(NamedTuple):
    """Of one training step; sizes in bytes."""

    arguments: dict[str, int]  # by part
    outputs: int  # those that do not take the place of an argument
    temporaries: int
    flops: int  # of products and convolutions
    accessed: int | None  # read and written by the compiled operations, a loop's body once
    seconds: float  # to compile

    @property
    def peak(self) -> int:
        """What is allocated while the step runs."""
        return sum(self.arguments.values()) + self.outputs + self.temporaries


def compile_only() -> None:
    """Sets JAX up to compile for devices that are not there; before its first use.

    Without the compilation cache: what it holds for absent devices cannot be read.
    """
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there may be no driver to ask
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)


def has_cuda_compiler() -> bool:
    """Whether a CUDA plugin of JAX is installed."""
    try:
        return any(importlib.util.find_spec(plugin) for plugin in PLUGINS)
    except ModuleNotFoundError:  # not even jax_plugins
        return False


def mesh_for(gpu: GPU | None) -> Mesh:
    """A mesh of one device: the GPU, if it is given and a compiler for it is there, or the CPU."""
    if gpu is None or not has_cuda_compiler():
        devices = jax.devices("cpu")
    else:
        devices = topologies.get_topology_desc(
            platform="cuda", topology="1x1x1", target_config=gpu.description()
        ).devices
    return Mesh(np.array(devices[:1]), ("data",))


def abstract_arguments(config: Config, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
    """The training step's state and batch as shapes."""
    state = jax.eval_shape(partial(init_state, config, mesh))
    shape = (config.batch_size, config.image_size, config.image_size)
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    array = partial(jax.ShapeDtypeStruct, dtype=np.uint8, sharding=sharded)
    here = replicated(mesh)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)
    return state, {"image": array((*shape, 3)), "label": array(shape)}


def inner_jaxprs(values: Iterable[Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The programs among the parameters of an operation."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from inner_jaxprs(value)
        elif isinstance(value, Jaxpr | ClosedJaxpr):
            yield value


def count_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Operations of all products and convolutions in a jaxpr: 2 for each multiply-add.

    Loops count each round, branches the costliest. XLA's own count ignores cuDNN's and cuBLAS's
    calls and counts a loop once.
    """
    total = 0
    for eqn in jaxpr.eqns:
        params, shapes = eqn.params, [v.aval.shape for v in eqn.invars]
        if eqn.primitive.name == "dot_general":
            contracted = math.prod(shapes[0][axis] for axis in params["dimension_numbers"][0][0])
            total += 2 * eqn.outvars[0].aval.size * contracted
        elif eqn.primitive.name == "conv_general_dilated":
            out_channels = shapes[1][params["dimension_numbers"].rhs_spec[0]]
            taps = math.prod(shapes[1]) // out_channels
            zeros = math.prod(params["lhs_dilation"])  # between the pixels of a strided gradient
            total += 2 * eqn.outvars[0].aval.size * taps // zeros
        inner = [count_flops(program) for program in inner_jaxprs(params.values())]
        if inner:
            branches = eqn.primitive.name == "cond"
            total += params.get("length", 1) * (max(inner) if branches else sum(inner))
    return total


def bytes_accessed(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that the compiled operations read and write, None if this jaxlib does not know."""
    cost = compiled.cost_analysis()
    if cost is None:  # for a device that is not there
        try:
            from jaxlib._jax import hlo_module_cost_analysis
        except ImportError:
            return None
        module = compiled.runtime_executable().hlo_modules()[0]
        cost = hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
    return int(cost["bytes accessed"])


def compile_step(config: Config, mesh: Mesh) -> Plan:
    """Compiles the training step of `config` for the device of `mesh`."""
    started = time.perf_counter()
    state, batch = abstract_arguments(config, mesh)
    traced = make_train_step(config).trace(state, batch)
    # Autotuning would run candidates on the GPU.
    options = None if mesh.devices.flat[0].platform == "cpu" else {"xla_gpu_autotune_level": 0}
    compiled = traced.lower().compile(compiler_options=options)
    memory = compiled.memory_analysis()
    parts = state._asdict() | {"batch": batch}
    arguments = {
        name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for name, tree in parts.items()
    }
    return Plan(
        arguments,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        count_flops(traced.jaxpr),
        bytes_accessed(compiled),
        time.perf_counter() - started,
    )


def total_memory(gpu: GPU | None) -> int:
    """Bytes of the GPU's memory, or of this machine's."""
    if gpu is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(gpu.memory * 2**30)


def least_seconds(plan: Plan, gpu: GPU, precision: str) -> float:
    """The step at the data sheet's speeds of arithmetic and memory, whichever takes longer."""
    speed = 1e12 * (gpu.float32 if precision == "float32" else gpu.half)
    return max(plan.flops / speed, (plan.accessed or 0) / (1e9 * gpu.bandwidth))


def changes_to_try(config: Config, half: str) -> Iterator[dict[str, Any]]:
    """Changes that save memory: those that cost nothing first, a smaller batch last.

    Accumulation steps are the batch size's divisors that leave enough pictures for batch norm.
    """
    lean, fewest = {"precision": half, "remat": True}, fewest_pictures(config)
    divisors = [n for n in range(2, config.batch_size + 1) if config.batch_size % n == 0]
    parts = [n for n in divisors if config.batch_size // n >= fewest]
    changes = [{"precision": half}, {"remat": True}, lean]
    changes += [lean | {"accumulate_steps": n} for n in parts]
    changes += [lean | {"accumulate_steps": 1, "batch_size": fewest}]
    tried = [config]
    for change in changes:
        change = {k: v for k, v in change.items() if v != getattr(config, k)}
        changed = replace(config, **change)
        if changed not in tried:
            tried.append(changed)
            yield change


def flags(change: dict[str, Any]) -> str:
    """The command line's form of a change."""
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in change.items()
    )


def plan_table(plan: Plan, config: Config, gpu: GPU | None) -> Table:
    """Work, memory and the device's memory."""
    total = total_memory(gpu)
    table = Table("one training step", title=gpu.name if gpu else "this machine's CPU")
    table.add_column("", justify="right")
    table.add_row("arithmetic of products and convolutions", f"{plan.flops / 1e9:,.1f} GFLOP")
    if plan.accessed is not None:
        table.add_row("memory read and written", f"{plan.accessed / 1e9:,.1f} GB")
    if gpu:
        seconds = least_seconds(plan, gpu, config.precision)
        table.add_row("a bound by the data sheet, not a measurement", f"≥ {seconds:.3f} s")
    table.add_section()
    sizes = {f"argument {name}": size for name, size in plan.arguments.items() if size > 1e3}
    sizes |= {"outputs (the rest reuses arguments)": plan.outputs}
    sizes |= {"temporaries": plan.temporaries, "peak": plan.peak}
    for name, size in sizes.items():
        table.add_row(name, f"{size / 1e9:.3f} GB")
    table.add_section()
    table.add_row("device's memory", f"{total / 1e9:.3f} GB")
    held = "CUDA context and libraries" if gpu else "Python and libraries"
    table.add_row(f"{held} (estimate)", f"{OVERHEAD / 1e9:.3f} GB")
    return table


def verdict(plan: Plan, gpu: GPU | None) -> tuple[bool, str]:
    """Whether the peak fits beside the overhead, and a line that says so."""
    total = total_memory(gpu)
    fits = plan.peak <= total - OVERHEAD
    line = f"peak {plan.peak / 1e9:.2f} of {(total - OVERHEAD) / 1e9:.2f} GB, "
    line += f"{'fits' if fits else 'does not fit'} (compiled in {plan.seconds:.0f} s)"
    if gpu and fits and plan.peak > JAX_SHARE * total:
        share = math.floor(100 * (1 - OVERHEAD / total)) / 100
        line += f", with XLA_CLIENT_MEM_FRACTION={share} (JAX takes {JAX_SHARE} by default)"
    return fits, line


def plan_run(config: Config, exp: str, device: str, console: Console) -> int:
    """Prints the plan of `config` on `device`; returns 0 if it fits as it is, otherwise 1.

    If it does not fit, compiles changes of flags until one does, and prints its command.

    Raises ValueError for an unknown device.
    """
    if device not in (*GPUS, "cpu"):
        raise ValueError(f"there is no device {device}; give one of: cpu, {', '.join(GPUS)}")
    require_enough_pictures(config)
    gpu = GPUS.get(device)
    say = partial(cli.show, console)
    mesh = mesh_for(gpu)
    if gpu and not has_cuda_compiler():
        say("rough: compiled for this CPU; pip install 'jax[cuda12]' compiles for the GPU itself")
    console.print(parameters_table(abstract_arguments(config, mesh)[0].params))
    with cli.busy(f"compiling {exp}"):
        plan = compile_step(config, mesh)
    console.print(plan_table(plan, config, gpu))
    fits, line = verdict(plan, gpu)
    say(f"{exp} on {device}: {line}")
    if fits:
        return 0
    for change in changes_to_try(config, gpu.half_precision() if gpu else "bfloat16"):
        with cli.busy(f"compiling {flags(change)}"):
            plan = compile_step(replace(config, **change), mesh)
        fits, line = verdict(plan, gpu)
        say(f"{flags(change)}: {line}")
        if fits:
            say(f"add to the command: {flags(change)}")
            return 1
    say(f"nothing tried makes it fit {device}; a smaller --image-size would")
    return 1


def main() -> int:
    """Command line: `--exp NAME --device GPU`, and every field of its Config."""
    about = (cli.prog("plan"), "Compiles the training step and says what it needs; 0 if it fits.")
    exp, config, options = parse_arguments(*about, PlanOptions())
    compile_only()
    return plan_run(config, exp, options.device, Console())
