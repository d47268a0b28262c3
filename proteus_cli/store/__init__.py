"""Artefacts: atomic files, the paths of a workspace, digests of inputs, and whether a profile is still current."""

from proteus_cli.store.catalog_files import parse_catalog
from proteus_cli.store.current_models import (
    ACCURACY_TOLERANCE,
    is_as_declared,
    require_current_models,
    require_model,
)
from proteus_cli.store.digests import (
    ModelStamp,
    content_digest,
    digest,
    digest_of,
    model_digest,
    model_parts,
    model_stamp,
)
from proteus_cli.store.files import (
    interrupts_deferred,
    made_by,
    read_json,
    remove,
    rename_in_order,
    to_json,
    write_bytes,
    write_in_order,
    write_json,
    write_new,
    write_text,
    writing,
    writing_text,
)
from proteus_cli.store.hosts import read_hosts, split_address
from proteus_cli.store.workspace import Workspace

__all__ = [
    "ACCURACY_TOLERANCE",
    "ModelStamp",
    "Workspace",
    "content_digest",
    "digest",
    "digest_of",
    "interrupts_deferred",
    "is_as_declared",
    "made_by",
    "model_digest",
    "model_parts",
    "model_stamp",
    "parse_catalog",
    "read_hosts",
    "read_json",
    "remove",
    "rename_in_order",
    "require_current_models",
    "require_model",
    "split_address",
    "to_json",
    "write_bytes",
    "write_in_order",
    "write_json",
    "write_new",
    "write_text",
    "writing",
    "writing_text",
]
