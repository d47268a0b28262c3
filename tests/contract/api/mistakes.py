"""Mistakes of code for other releases, or written by heart: each was right once, or looks right."""

from dataclasses import dataclass

TEN, ELEVEN, RTX = "10.13", "11.4", "RTX 1.7"
EVERYWHERE = frozenset({TEN, ELEVEN, RTX})
SINCE_ELEVEN = frozenset({ELEVEN, RTX})


@dataclass(frozen=True, slots=True)
class Mistake:
    """What to replace in the sample adapter, and which releases refuse it."""

    name: str
    right: str
    wrong: str
    refused_by: frozenset[str] = EVERYWHERE

    def made_in(self, text: str) -> str:
        """The text with the mistake. Raises `LookupError` where there is no place for it."""
        if self.right not in text:
            raise LookupError(f"{self.name}: {self.right!r} isn't in the text")
        return text.replace(self.right, self.wrong, 1)


def _line(name: str, wrong: str, refused_by: frozenset[str] = EVERYWHERE) -> Mistake:
    """A statement that is added before the profile is made."""
    right = "    profile = builder.create_optimization_profile()\n"
    return Mistake(name, right, f"    {wrong}\n{right}", refused_by)


MISTAKES = (
    Mistake(
        "explicit batch",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        SINCE_ELEVEN,
    ),
    _line("FP16 asked of the builder", "config.set_flag(trt.BuilderFlag.FP16)", SINCE_ELEVEN),
    _line("INT8 asked of the builder", "config.set_flag(trt.BuilderFlag.INT8)", SINCE_ELEVEN),
    _line("workspace as an attribute", "config.max_workspace_size = 1 << 30"),
    _line("batch size of the builder", "builder.max_batch_size = 8"),
    _line("calibrator", "print(config.int8_calibrator)", SINCE_ELEVEN),
    _line("question about FP16", "print(builder.platform_has_fast_fp16)", SINCE_ELEVEN),
    Mistake("engine instead of plan", "builder.build_serialized_network", "builder.build_engine"),
    Mistake(
        "plan without a configuration", "build_serialized_network(network, config)", "build_serialized_network(network)"
    ),
    Mistake("profile by kinds of shape", "min=(1, *rest), opt=(8, *rest)", "minimum=(1, *rest), optimum=(8, *rest)"),
    Mistake("profile without a maximum", ", max=(32, *rest)", ""),
    Mistake("timing cache without its flag", "(cache, ignore_mismatch=False)", "(cache)"),
    Mistake("parser without a network", "trt.OnnxParser(network, logger)", "trt.OnnxParser(logger)"),
    Mistake("error that isn't called", "get_error(index).desc()", "get_error(index).message"),
    Mistake("plan that may be None", "    if plan is None:\n        raise ValueError(onnx)\n", ""),
    Mistake("engine that may be None", "        if engine is None:\n            raise ValueError(plan)\n", ""),
    Mistake("bindings counted", "engine.num_io_tensors", "engine.num_bindings"),
    Mistake("binding named", "engine.get_tensor_name(index)", "engine.get_binding_name(index)"),
    Mistake(
        "mode as a question", "engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT", "engine.binding_is_input(name)"
    ),
    Mistake(
        "context without memory of its own",
        "create_execution_context(strategy=trt.ExecutionContextAllocationStrategy.STATIC)",
        "create_execution_context_without_device_memory()",
        SINCE_ELEVEN,
    ),
    Mistake("profile shape from the profile on", "get_tensor_profile_shape(name, 0)", "get_profile_shape(0, name)"),
    Mistake("binding shape", "self.context.set_input_shape(", "self.context.set_binding_shape("),
    Mistake(
        "execution with bindings", "execute_async_v3(stream_handle=", "execute_async_v2(bindings=[], stream_handle="
    ),
    Mistake("stream by another keyword", "stream_handle=", "stream="),
    Mistake("stream itself for its handle", "stream_handle=self.stream.handle", "stream_handle=self.stream"),
    Mistake("allocation itself for its address", "int(self.device[name])", "self.device[name]"),
    Mistake("priority of a stream", "cuda.Stream(1)", "cuda.Stream(flags=1, priority=0)"),
    Mistake("flags of a stream", "cuda.Stream(1)", "cuda.Stream(cuda.stream_flags.NON_BLOCKING)"),
    Mistake(
        "handle of an event", "self.done.record(self.stream)", "self.context.set_input_consumed_event(self.done.handle)"
    ),
    Mistake("copy with a size", "self.pinned[into], self.stream)", "self.pinned[into], 0, self.stream)"),
    Mistake(
        "copy in the wrong direction", "(self.device[into], self.pinned[into]", "(self.pinned[into], self.device[into]"
    ),
    Mistake("context of an own making", "retain_primary_context()", "make_context(0, 0, 0)"),
    Mistake("parameter of an override", "parent_phase: str", "parent: str"),
    Mistake("override of nothing", "def phase_finish(", "def phase_end("),
)
