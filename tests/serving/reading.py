"""Decodes and encodes without the pauses of long requests and answers."""

from typing import TypeVar

from proteus_cli.serving.requests.query import Inputs, InTurns, ReadInputs, drained

Result = TypeVar("Result")


def inputs_of(read_inputs: ReadInputs | InTurns[Inputs]) -> Inputs:
    return drained(read_inputs.steps) if isinstance(read_inputs, InTurns) else read_inputs()


def at_once(result: Result | InTurns[Result]) -> Result:
    return drained(result.steps) if isinstance(result, InTurns) else result
