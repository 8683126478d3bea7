"""Errors of GPUs in one line with the fix; the messages are those that JAX and XLA gave."""

import logging
import re
from types import SimpleNamespace

import pytest

from jaxparse import cli, cuda
from jaxparse.devices import all_devices, unused_gpu
from jaxparse.train import advice_on_memory
from tests.refusal import refuses

NO_DRIVER = (
    "jaxlib/cuda/versions_helpers.cc:135: operation cuInit(0) failed: Unknown CUDA error 303; "
    "cuGetErrorName failed. This probably means that JAX was unable to load the CUDA libraries."
)
OLD_DRIVER = (
    "jaxlib/cuda/versions_helpers.cc:98: operation cudaGetDeviceCount failed: CUDA driver version "
    "is insufficient for CUDA runtime version"
)
FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8.79GiB."
CUDNN = "FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above"


@pytest.fixture
def jax_log(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """JAX's logger, without what other tests have left."""
    logger = logging.getLogger(cuda.LOGGER)
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(cuda, "_plugin_faults", [])
    return logger


def fail(logger: logging.Logger, message: str) -> None:
    """What JAX does when the plugin's start raises."""
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        logger.exception("Jax plugin configuration error: %s", error)


@pytest.mark.parametrize(
    "message, fix",
    [
        (NO_DRIVER, "--gpus all"),
        (OLD_DRIVER, "580 or newer"),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled", "580 or newer"),
        ("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES"),
        (CUDNN, "pip install --upgrade"),
        (FULL, "smaller --batch-size"),
    ],
)
def test_each_error_has_its_fix(message: str, fix: str) -> None:
    line = cuda.explained(message)
    assert fix in line and message[:40] in line and "\n" not in line
    assert [fix in other for other in cuda.FAULTS.values()].count(True) == 1


def test_other_errors_stay_as_they_are() -> None:
    assert cuda.explained("INVALID_ARGUMENT: shapes differ") is None
    with pytest.raises(RuntimeError):
        cli.print_error(RuntimeError("INVALID_ARGUMENT: shapes differ"))


def test_out_of_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.print_error(RuntimeError(f"{FULL}\nBufferAssignment OOM Debugging.\n")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "kind, device", [("NVIDIA H100 80GB HBM3", "h100"), ("cpu", "cpu"), ("NVIDIA X", "GPU")]
)
def test_a_run_that_does_not_fit_names_the_plan(
    monkeypatch: pytest.MonkeyPatch, kind: str, device: str
) -> None:
    monkeypatch.setattr("jax.local_devices", lambda: [SimpleNamespace(device_kind=kind)])
    with (
        refuses(f"jaxparse.plan --exp swin_b --device {device}", "--remat"),
        advice_on_memory("swin_b"),
    ):
        raise RuntimeError(FULL)
    with pytest.raises(RuntimeError, match="shapes differ"), advice_on_memory("swin_b"):
        raise RuntimeError("INVALID_ARGUMENT: shapes differ")


def test_a_plugin_that_fails_is_one_line_of_the_log(
    jax_log: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    cuda.shorten_logs()
    cuda.shorten_logs()
    assert len(jax_log.filters) == 1
    jax_log.warning("another line")
    fail(jax_log, NO_DRIVER)
    assert caplog.messages[0] == "another line"
    assert re.match("warning: the CPU computes: .*nvidia-smi", caplog.messages[1])
    assert caplog.records[1].exc_info is None
    assert cuda.plugin_fault() in caplog.messages[1]
    fail(jax_log, "a bug")
    assert caplog.records[2].exc_info is not None


def test_where_only_cuda_is_allowed_the_fault_is_the_error(
    jax_log: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    cuda.shorten_logs()
    fail(jax_log, OLD_DRIVER)
    assert not caplog.messages

    def none() -> None:
        raise AssertionError

    monkeypatch.setattr("jax.devices", none)
    with pytest.raises(ValueError, match="580 or newer"):
        all_devices()


def test_a_gpu_whose_fault_is_known_is_not_called_unused(
    jax_log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert "jaxparse[cuda13]" in unused_gpu()
    cuda.shorten_logs()
    fail(jax_log, NO_DRIVER)
    assert unused_gpu() is None
