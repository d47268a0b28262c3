"""ONNX file → serialized engine (a *plan*).

The file decides the precision, as networks are strongly typed: a variant in FP16 is a file of its own.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from traceback import clear_frames

from proteus_cli import store
from proteus_cli.backends.base import OnBuildProgress, require_batched
from proteus_cli.backends.tensorrt.bindings import tensorrt_version, trt
from proteus_cli.backends.tensorrt.progress import BuildProgress, error_logger, progress_monitor
from proteus_cli.backends.tensorrt.records import BuildOptions, EngineKey, Gpu
from proteus_cli.backends.tensorrt.timing_cache import keep_timings, timing_path, use_timings
from proteus_cli.errors import BuildCancelled, DeviceUnavailable, EngineError
from proteus_cli.store.models.onnx_files import TOLD_BY_CHECK

OnDevice = Callable[[], AbstractContextManager[object]]


ASK_EVERY_S = 0.1

_HINTS = (
    (r"out ?of ?memory", "free memory of the GPU, or build for smaller batches"),
    (r"workspace", "allow a larger workspace"),
    (r"profile|shape", "the model must take every batch up to the largest: is a batch size fixed within it?"),
)
_NO_HINT = "`trtexec --onnx=FILE` shows whether TensorRT can build it at all"


def key_of(model: Path, gpu: Gpu, options: BuildOptions) -> EngineKey:
    """What an engine that is built now is built from. Raises `ArtefactError`, `BackendUnavailable`."""
    return EngineKey(store.model_digest(model), tensorrt_version(), gpu, options)


def build(
    model: Path,
    options: BuildOptions,
    timings_in: Path,
    progress: OnBuildProgress,
    *,
    on_device: OnDevice = nullcontext,
) -> bytes:
    """Build the plan of an ONNX file.

    ``timings_in`` is the directory of the device type's timing cache. ``progress`` is called on this thread. The
    builder has a thread of its own, on which ``on_device`` makes the GPU current; so Ctrl-C cancels the build, and is
    raised once the builder has ended.

    Raises `EngineError` where the model cannot be built, `BuildCancelled` where ``progress`` returns False,
    `BackendUnavailable` without TensorRT.
    """
    state = BuildProgress()
    with ThreadPoolExecutor(1, thread_name_prefix="build") as thread:
        plan = thread.submit(_plan, model, options, timing_path(timings_in), state, on_device)
        try:
            while not plan.done():
                if not progress(state.now, state.done_frac):
                    state.cancel()
                wait([plan], ASK_EVERY_S)
        except BaseException:
            state.cancel()
            raise
    if state.is_cancelled:
        raise BuildCancelled(f"Building `{model}` was cancelled.", hint="nothing was kept; build it again at any time")
    return plan.result()


def _plan(model: Path, options: BuildOptions, timings: Path, state: BuildProgress, on_device: OnDevice) -> bytes:
    """`_build`, after which TensorRT's objects are freed in any case: on this thread, while the GPU is current.

    The traceback of an error would keep them, until any thread drops it and frees them with the GIL held. That thread
    would wait for a lock of TensorRT's, which another build may hold while it waits for the GIL, to log something.
    """
    with on_device():
        try:
            return _build(model, options, timings, state)
        except BaseException as error:
            clear_frames(error.__traceback__)
            raise


def _build(model: Path, options: BuildOptions, timings: Path, state: BuildProgress) -> bytes:
    errors: list[str] = []
    logger = error_logger(errors)
    builder = _builder(logger, errors)
    network = builder.create_network(flags=1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)  # it owns the weights, so it lives as long as the build
    parse(parser, network, model, errors)
    config = _config(builder, network, options, model)
    use_timings(config, timings)
    config.progress_monitor = progress_monitor(state)
    errors.clear()  # errors of the timing cache are no reason why a build fails
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(model, errors)
    keep_timings(config, timings)
    return bytes(memoryview(plan))


def _builder(logger: "trt.ILogger", errors: Sequence[str]) -> "trt.Builder":
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # its constructor raises these on a null pointer
        raise DeviceUnavailable(
            f"TensorRT can't use the GPU: {reason(errors)}.", hint="`proteus devices` lists the GPUs that are here"
        ) from error


def _config(
    builder: "trt.Builder", network: "trt.INetworkDefinition", options: BuildOptions, model: Path
) -> "trt.IBuilderConfig":
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        smallest, best, largest = (
            tuple(batch if size == BATCH else int(size) for size in tensor.shape)
            for batch in (options.min_batch, options.opt_batch, options.max_batch)
        )
        profile.set_shape(tensor.name, min=smallest, opt=best, max=largest)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses the batch sizes of `{model}`.", hint="is it a model of batches?")
    return config


def _failed(model: Path, errors: Sequence[str]) -> EngineError:
    """The error of a build; only the builder's log says why, and names the node of the ONNX file."""
    why = reason(errors)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, why, re.IGNORECASE)), _NO_HINT)
    return EngineError(f"TensorRT can't build `{model}`: {why}.", hint=hint)


BATCH = -1  # how TensorRT writes an axis that is dynamic

_BROKEN = f"is it a complete ONNX file, with its external data beside it? {TOLD_BY_CHECK}"
_INVALID = f"is the model valid? {TOLD_BY_CHECK}"
_UNSUPPORTED = (
    "export the model with other operators or another opset; which operators TensorRT takes stands in "
    "docs/operators.md of github.com/onnx/onnx-tensorrt"
)

_HEADING = r"^Invalid Node - |In function \w+:$|^$"
_NOISE = (
    r"^\[\d+\] ",  # a code
    r"^\[[^\]]*::[^\]]*\] ?",  # [file.cpp::function::line]
    r"^\w+\.cpp:\d+: ",
    r"^.*Assertion failed: .*?\): ",
    r'^.* && "|"$',  # condition && "message"
    r"^\w+::\w+: Error Code \d+: ",
    r"\.? In \w+ at [^\s:]+:\d+",
)


def parse(parser: "trt.OnnxParser", network: "trt.INetworkDefinition", model: Path, errors: Sequence[str]) -> None:
    """Read an ONNX file into ``network``; ``errors`` are the messages of the logger.

    Raises `EngineError` where TensorRT refuses the file, or where queries could not be batched.
    """
    if not parser.parse_from_file(str(model)):
        raise _refused(parser, model, errors)
    if network.num_outputs == 0:  # TensorRT takes anything for an empty model
        raise EngineError(f"`{model}` holds no model.", hint=_BROKEN)
    tensors = [(network.get_input(index), True) for index in range(network.num_inputs)]
    tensors += [(network.get_output(index), False) for index in range(network.num_outputs)]
    for tensor, is_input in tensors:
        shape = tuple(int(size) for size in tensor.shape)
        require_batched(f"`{tensor.name}` of `{model}`", shape, is_input=is_input)


def _refused(parser: "trt.OnnxParser", model: Path, errors: Sequence[str]) -> EngineError:
    error = parser.get_error(0) if parser.num_errors else None  # the others follow from it
    if error is None or not error.node_operator():
        return EngineError(f"TensorRT can't read `{model}`: {reason(errors)}.", hint=_BROKEN)
    name, operator, what = str(error.node_name()), str(error.node_operator()), tidy(str(error.desc()))
    node = f"node `{name}`" if name else f"node {error.node()}"
    why = "it has no such operator" if what == "false" else what
    is_unsupported = error.code() == trt.ErrorCode.UNSUPPORTED_NODE or "Plugin not found" in what
    return EngineError(
        f"TensorRT can't take {node} ({operator}) of `{model}`: {why}.",
        hint=_UNSUPPORTED if is_unsupported else _INVALID,
    )


def reason(errors: Sequence[str]) -> str:
    """The first of TensorRT's messages; the others follow from it."""
    return tidy(errors[0]) if errors else "it gives no reason"


def tidy(message: str) -> str:
    """A message on one line, without its assertions, paths of C++ sources and full stop."""
    said = [line for line in message.splitlines() if not re.search(_HEADING, line)]
    text = said[0] if said else " ".join(message.split())
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    return text.strip().rstrip(".? ")
