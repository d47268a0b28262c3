"""Which variants a device could load, and has neither active nor warm."""

from proteus_cli.control.controller import Controller
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.fleet.loading import Loader


def cold_on(device: str, loader: Loader, controller: Controller) -> list[VariantKey]:
    """The variants that are cold on a device (by id): profiled there, with a model, and not loaded."""
    resident = controller.change.resident_on(device)
    return [key for key in loader.loadable(device) if key not in resident]
