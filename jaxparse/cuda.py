"""What goes wrong between JAX and a GPU, each in one line with the fix.

JAX and XLA report it in a page of C++ or Python. Where a CUDA plugin fails as JAX starts, JAX logs
that and goes on with the CPU.
"""

import logging
import os
import re

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY"
# What the messages hold -> what it means and the fix, the first that is found.
FAULTS = {
    OUT_OF_MEMORY: "the device's memory does not suffice; give a smaller --batch-size, where the "
    "command has one, or end other programs on the device",
    "driver version is insufficient|INSUFFICIENT_DRIVER|DRIVER_MISMATCH|UNSUPPORTED_PTX|"
    "unsupported toolchain": "NVIDIA's driver is too old for this CUDA; update it (CUDA 13 needs "
    "580 or newer), or pip install 'jaxparse[cuda12]' (525 or newer)",
    "cudnn|DNN library": "cuDNN cannot be used; pip install --upgrade 'jax[cuda13]' (or cuda12), "
    "and unset LD_LIBRARY_PATH if it names another CUDA",
    "CUDA_ERROR|cuInit|cudaGetDeviceCount|no CUDA-capable device|CUDA libraries": "JAX's CUDA "
    "plugin sees no GPU; nvidia-smi must list it (in Docker: --gpus all), and CUDA_VISIBLE_DEVICES "
    "must not hide it",
}
LOGGER = "jax._src.xla_bridge"  # which loads the plugins
SHOWN = 160  # characters of the original message

_plugin_faults: list[str] = []


def explained(message: str) -> str | None:
    """One line on an error of XLA or CUDA: what it means, the fix, and how the message begins."""
    for pattern, line in FAULTS.items():
        if re.search(pattern, message, re.IGNORECASE):
            first = " ".join(message.split())
            return f"{line} ({first[:SHOWN]}{'...' if len(first) > SHOWN else ''})"
    return None


def plugin_fault() -> str | None:
    """Why JAX could not start its CUDA plugin, if it has tried and `shorten_logs` is on."""
    return _plugin_faults[-1] if _plugin_faults else None


def _shorten(record: logging.LogRecord) -> bool:
    """Makes one line of a plugin's traceback; none where JAX has no CPU to go on with."""
    error = record.exc_info and record.exc_info[1]
    line = explained(str(error)) if error else None
    if line is None:
        return True
    _plugin_faults.append(line)
    record.msg, record.args, record.exc_info = f"warning: the CPU computes: {line}", (), None
    return "cpu" in os.environ.get("JAX_PLATFORMS", "cpu")


def shorten_logs() -> None:
    """From now on JAX's log of a plugin that cannot start is one line on stderr."""
    logger = logging.getLogger(LOGGER)
    if _shorten not in logger.filters:
        logger.addFilter(_shorten)
