"""What the process that follows a Ray cluster says to the server: lines of JSON."""

from collections.abc import Mapping

import msgspec


class Listed(msgspec.Struct, frozen=True, tag=True):
    """The hosts with an agent, all of them, and where these listen."""

    hosts: Mapping[str, tuple[str, int]]


class Problem(msgspec.Struct, frozen=True, tag=True):
    """What the user should know. ``is_fatal``: no hosts will be listed."""

    message: str
    hint: str = ""
    is_fatal: bool = True


RayReport = Listed | Problem
