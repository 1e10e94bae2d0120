"""How near each test's numbers came to its tolerances, the nearest first.

    XLA_FLAGS=--xla_cpu_max_isa=AVX2 scripts/test.sh -p tests.margins --weights-seed 1

A margin is the largest error as a part of what was allowed: above 1 the test fails, and near it the
test may fail on another machine, or with other weights in the tiny model.
"""

import numpy as np
import pytest

SHOWN = 0.1
ApproxScalar = type(pytest.approx(0.0))
plain_allclose, plain_equal = np.testing.assert_allclose, ApproxScalar.__eq__
margins: list[float] = []  # of the test that runs


def note(error: np.ndarray, allowed: np.ndarray) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        margins.append(float(np.nanmax(np.where(error == 0, 0, error / allowed), initial=0)))


def allclose(actual, desired, rtol=1e-7, atol=0.0, **options) -> None:
    x, y = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    note(np.abs(x - y), atol + rtol * np.abs(y))
    plain_allclose(actual, desired, rtol, atol, **options)


def equal(self, actual) -> bool:
    if isinstance(actual, int | float | np.number) and isinstance(self.expected, int | float):
        note(np.abs(float(actual) - self.expected), np.float64(self.tolerance))
    return plain_equal(self, actual)


def pytest_addoption(parser):
    parser.addoption("--weights-seed", type=int, default=0, help="seed of the tiny model")


def pytest_configure(config):
    import tiny  # here, since conftest.py sets XLA's flags first

    tiny.make_params.__defaults__ = (config.getoption("--weights-seed"),)
    np.testing.assert_allclose, ApproxScalar.__eq__ = allclose, equal


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call" and margins:
        item.user_properties.append(("margin", max(margins)))
    margins.clear()


def pytest_terminal_summary(terminalreporter):
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    found = {r.nodeid: dict(r.user_properties).get("margin", 0) for r in reports}
    for name in sorted(found, key=found.get, reverse=True):
        if found[name] >= SHOWN:
            terminalreporter.write_line(f"{found[name]:.3f}  {name}")
