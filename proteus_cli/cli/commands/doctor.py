"""``proteus doctor``: check what is here and what is missing, and say how to get it."""

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command_line.defaults import require_cluster
from proteus_cli.cli.options import cluster as cluster_options
from proteus_cli.cli.options import common


def doctor(
    context: typer.Context,
    *,
    cluster: cluster_options.Cluster = None,
    cluster_key: cluster_options.ClusterKey = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Check the installation, this machine's devices and the workspace. Exits with code 1 if something is missing.

    With --cluster, also its hosts: whether they can be reached, their versions, what they have free, and which of their
    devices are measured.
    """
    from proteus_cli.cli.views.findings_table import findings_table
    from proteus_cli.cli.workflows.diagnosis import diagnose

    require_cluster(context, cluster)
    findings = diagnose(workspace_dir)
    if cluster is not None:
        from proteus_cli.cli.workflows.cluster.diagnosis import diagnose_cluster
        from proteus_cli.cli.workflows.cluster.hosts import host_list
        from proteus_cli.store import Workspace

        findings += diagnose_cluster(host_list(cluster, cluster_key, workspace_dir), Workspace(workspace_dir))
    console.deliver(findings, json=json, tables=[findings_table(findings)])
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
