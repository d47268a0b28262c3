"""Reads the inputs of a request at once, in the thread of the test."""

from proteus_cli.serving.oip.images import drained
from proteus_cli.serving.requests.query import InOneTurn, Inputs, InThreads, LongReadInputs, ReadInputs


def inputs_of(read_inputs: ReadInputs | LongReadInputs) -> Inputs:
    match read_inputs:
        case InThreads():
            return drained(read_inputs.steps)
        case InOneTurn():
            return read_inputs.work()
    return read_inputs()
