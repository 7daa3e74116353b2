"""The fixtures of the suite, such as ``case`` and ``engine``, for each engine under test.

They are not in the plug-in, which a project may load beside its own tests: many projects have a
fixture named ``engine``.
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from asgi_ipc.engines import find
from asgi_ipc.engines.base import Engine
from asgi_ipc.exceptions import EngineUnavailable

from .case import Case
from .plugin import RUN, chosen, engine_options, require

if TYPE_CHECKING:
    from .wires.proxy import ProxyProcess

#: Seconds after which a test counts as hanging; its worker then prints all stacks and exits.
WATCHDOG = 300.0


@pytest.fixture(scope="session")
def real_stderr(request: pytest.FixtureRequest) -> Iterator[int]:
    """The real stderr, for a watchdog: pytest captures descriptor 2 while a test runs."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        descriptor = os.dup(2)
    else:
        with capture.global_and_fixture_disabled():
            descriptor = os.dup(2)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(scope="session")
def conformance_engine(request: pytest.FixtureRequest) -> str:
    """The engine under test; the plug-in gives each test its own."""
    require(request.config)
    raise NotImplementedError("the plug-in has not parametrized this test")


@pytest.fixture(scope="session")
def engine_proxy(request: pytest.FixtureRequest) -> Iterator[ProxyProcess | None]:
    """The proxy in front of the engine's server, if the command line names its option."""
    from .wires.proxy import ProxyProcess

    named = chosen(request.config, "--engine-proxy")
    if not named:
        yield None
        return
    options = engine_options(request.config)
    if named[-1] not in options:
        raise pytest.UsageError(
            f"--engine-proxy {named[-1]}: give --engine-option {named[-1]}=HOST:PORT too"
        )
    proxy = ProxyProcess(str(options[named[-1]]))
    yield proxy
    proxy.end()


@pytest.fixture
def network(case: Case, engine_proxy: ProxyProcess | None) -> Iterator[ProxyProcess]:
    """The network between the engine and its server, which afterwards is whole."""
    if engine_proxy is None:
        pytest.skip("no --engine-proxy names the option with the server's address")
    yield engine_proxy
    engine_proxy.order("heal")
    engine_proxy.order("thaw")
    engine_proxy.order("cut")


@pytest.fixture
def around(
    request: pytest.FixtureRequest, case: Case, network: ProxyProcess
) -> Callable[[], Engine]:
    """Opens the test's store with nothing between the engine and its server."""
    option = chosen(request.config, "--engine-proxy")[-1]
    return lambda: case.open(options={**case.options, option: network.server})


@pytest.fixture
def case(
    request: pytest.FixtureRequest,
    conformance_engine: str,
    real_stderr: int,
    engine_proxy: ProxyProcess | None,
) -> Iterator[Case]:
    """One engine under test with its own prefix; afterwards nothing may be left behind."""
    try:
        factory: Any = find(conformance_engine)
    except EngineUnavailable as error:
        # Registered, but its import fails: a defect of the package that registered it.
        pytest.fail(str(error), pytrace=False)
    unavailable = getattr(factory, "unavailable", None)
    reason = unavailable() if unavailable is not None else None
    if reason is not None:
        pytest.skip(f"{conformance_engine} can't work here: {reason}")
    for marker in request.node.iter_markers("needs"):
        for capability in marker.args:
            if not getattr(factory.capabilities, capability):
                pytest.skip(f"{conformance_engine} declares no {capability}")
    prefix = f"{request.config.stash[RUN]}-{secrets.token_hex(5)}"
    options = engine_options(request.config)
    if engine_proxy is not None:
        options[chosen(request.config, "--engine-proxy")[-1]] = engine_proxy.address
    faulthandler.dump_traceback_later(WATCHDOG, exit=True, file=real_stderr)
    try:
        case = Case(conformance_engine, factory.capabilities, prefix, options)
        try:
            yield case
        finally:
            left = case.clean_up()
        assert not left, "left behind:\n" + "\n".join(left)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def engine(case: Case) -> Engine:
    """The engine under test, open."""
    return case.open()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Make Python switch threads every microsecond, so that a missing lock shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


__all__ = [
    "case",
    "conformance_engine",
    "engine",
    "engine_proxy",
    "hasty_threads",
    "network",
    "real_stderr",
]
