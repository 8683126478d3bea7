import jax
import pytest


@pytest.fixture(params=["cpu", "elsewhere"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both formulations: that of the CPU, and that of other devices, made to run here."""
    if request.param == "elsewhere":
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
        )
        jax.clear_caches()
    return request.param
