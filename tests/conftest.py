"""Set-up for every test: shapes and types checked at run time, one thread, hypothesis profiles, small random models."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config as jaxtyping_config

from tests import type_checks

# before anything imports the packages: only then are their annotations checked
type_checks.install(["hooked_whisper", "sae_lens_audio"])

from tests.core.parity import WORST, parity_table  # noqa: E402
from tests.core.twins import SIZES, Twins, make_twins  # noqa: E402

torch.set_num_threads(1)

_relaxed = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("local", max_examples=25, deadline=None, suppress_health_check=_relaxed)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, database=None, max_examples=10)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-table", action="store_true", help="print the worst relative L2 error per comparison")


def pytest_configure(config: pytest.Config) -> None:
    # not in pyproject.toml: pytest would import the package before its annotations are checked
    config.addinivalue_line("filterwarnings", "error::hooked_whisper._support.renamed.RenamedWarning")


# these begin first, so that two processes end at about the same time
_LONG = ("tests/tutorials/", "tests/endurance/", "tests/docs/test_snippets.py", "tests/real/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # the imported packages stay: collections need not walk them


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    torch.manual_seed(7919)  # random models do not depend on earlier tests, nor on the process that runs them


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--parity-table") and WORST:
        terminalreporter.section("parity: worst relative L2 error")
        terminalreporter.write_line(parity_table())


@pytest.fixture(scope="session")
def one_block() -> Twins:
    """The smallest model there is: one block in each stack."""
    return make_twins("one_block")


@pytest.fixture(scope="session")
def odd() -> Twins:
    """Everything unlike the released sizes: 128 mels, 2 encoder and 3 decoder blocks, heads of 32, 60 positions."""
    return make_twins("odd")


@pytest.fixture(scope="session")
def tiny() -> Twins:
    """The dimensions of the released ``tiny``, random weights."""
    return make_twins("tiny")


@pytest.fixture(scope="session", params=[name for name in SIZES if name != "tiny"])
def twins(request: pytest.FixtureRequest) -> Twins:
    """Each of the small size classes in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No run-time shape checks: for tests of the errors a user sees, who does not have them."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)
