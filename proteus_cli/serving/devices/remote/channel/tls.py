"""The TLS contexts of the channels between the machines of a cluster.

A *cluster key* is one PEM file with a private key and its certificate, which every machine of the cluster has. Both
ends of a channel present the certificate and trust no other: who has the file is a member of the cluster. Channels
speak TLS 1.3 (RFC 8446) only. The certificate never expires, so clocks do not matter.
"""

import os
import ssl
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import SETTINGS, read_bytes

OTHERS_MAY, OTHERS_MAY_OF_ROOTS = 0o077, 0o037
"""Permissions of group and others that a cluster key must not have. The group may read a key that root owns: Kubernetes
gives secrets to users other than root in this way."""

_HINT = "`proteus cluster key` makes one; copy it to each machine of the cluster"
_NO_PASSPHRASE = ""  # never ask on the terminal


def cluster_tls(path: Path, *, listens: bool) -> ssl.SSLContext:
    """The context of one end of a channel: the end that ``listens``, or the one that connects.

    Raises `ArtefactError` where the file is missing, is no cluster key, or may be read by others.
    """
    read_bytes(path, SETTINGS, hint=_HINT)
    if is_known_to_others(path.stat()):
        raise ArtefactError(f"Others than its owner may read `{path}`.", hint=f"chmod 600 {path}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate names the cluster, not a machine
    context.verify_mode = ssl.CERT_REQUIRED
    if listens:
        context.num_tickets = 0  # channels last; sessions are not resumed
    try:
        context.load_cert_chain(path, password=_NO_PASSPHRASE)
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise ArtefactError(f"`{path}` is no key of a cluster.", hint=_HINT) from error
    return context


def is_known_to_others(status: os.stat_result) -> bool:
    """Whether a file's permissions let users read or change it who must not know a cluster key."""
    return bool(status.st_mode & (OTHERS_MAY if status.st_uid else OTHERS_MAY_OF_ROOTS))
