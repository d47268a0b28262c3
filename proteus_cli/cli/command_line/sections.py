"""The sections of ``--help``: what is needed first, then the rest by topic, with the same names in all commands."""

ARGUMENTS = "Arguments"
OPTIONS = "Options"
"""The options that are needed first."""
MEASURING = "Measuring"
EXCHANGE = "Import and export"
SHAPES = "Shapes"
DEVICES = "Devices"
OBJECTIVES = "Objectives"
LIMITS = "Limits"
SIMULATION = "Simulation"
REQUESTS = "Requests"
SECURITY = "Security"
ADAPTATION = "Adaptation"
SAMPLES = "Samples"
TRACES = "Traces"
ROLLOUT = "Roll-out"

SECTIONS = (
    ARGUMENTS, OPTIONS, MEASURING, EXCHANGE, SHAPES, DEVICES, OBJECTIVES, LIMITS, SIMULATION, REQUESTS, SECURITY,
    ADAPTATION, SAMPLES, TRACES, ROLLOUT,
)  # fmt: skip
"""In order."""
