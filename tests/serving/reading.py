"""Reads the inputs of a request at once, in the thread of the test."""

from proteus_cli.serving.oip.images import drained
from proteus_cli.serving.requests.query import Inputs, InThreads, ReadInputs


def inputs_of(read_inputs: ReadInputs | InThreads[Inputs]) -> Inputs:
    return drained(read_inputs.steps) if isinstance(read_inputs, InThreads) else read_inputs()
