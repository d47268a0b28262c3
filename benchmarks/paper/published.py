"""What Ahmad et al. (ASPLOS 2024, figure 4) and the logs of their artifact say of the same trace and cluster."""

from proteus_cli.domain.base import Value


class Published(Value, frozen=True):
    """One system: violations as fractions, accuracy in percent, drop in points.

    ``violations_lax`` is as published, where late means later than 1000 ms; ``violations`` counts the same logs at the
    SLO of 300 ms. ``relative_accuracy`` and ``max_drop`` are from the logs, with the paper's own number where it is
    another.
    """

    ours: str
    system: str
    violations_lax: float
    violations: float
    relative_accuracy: str
    max_drop: str


PUBLISHED = (
    Published("clipper-ha", "Clipper-HA", 0.334, 0.59, "99.9", "0.2"),
    Published("clipper-ht", "Clipper-HT", 0.114, 0.35, "80.5", "20.1"),
    Published("infaas-accuracy", "INFaaS-Accuracy", 0.169, 0.63, "92.8", "13.7"),
    Published("sommelier", "Sommelier", 0.099, 0.22, "96.4 (paper: 91.8)", "7.9 (paper: 16.9)"),
    Published("proteus-paper", "Proteus", 0.027, 0.30, "98.7 (paper: 97.7)", "3.2 (paper: 4.8)"),
)
