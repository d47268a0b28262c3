import pytest
from contract.api.contracts import Contract
from contract.api.releases import RELEASES, Release, install, typed
from contract.downloads import BUILD


@pytest.fixture(scope="session")
def contracts() -> dict[str, Contract]:
    """The contract with each release, by its name. Fails where the bindings can't be had."""
    return {release.name: _contract(release) for release in RELEASES}


def _contract(release: Release) -> Contract:
    bindings = install(release)
    return Contract(bindings, typed(bindings), BUILD / "mypy")  # one cache, as numpy is the same for all


@pytest.fixture(scope="session", params=[release.name for release in RELEASES])
def contract(request: pytest.FixtureRequest, contracts: dict[str, Contract]) -> Contract:
    return contracts[request.param]
