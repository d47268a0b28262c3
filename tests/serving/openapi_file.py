"""The OpenAPI document of the REST API."""

import json
from importlib.resources import files
from typing import Any


def openapi() -> Any:
    return json.loads((files("proteus_cli.serving.rest") / "openapi.json").read_text(encoding="utf-8"))
