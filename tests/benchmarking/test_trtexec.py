"""What `trtexec` is asked and how it is understood. The sample is made up, in the form that NVIDIA documents."""

import sys
from pathlib import Path

import pytest

from benchmarks.gpu.trtexec import Said, command, parse, run

SAMPLE = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101303] # trtexec --loadEngine=model.plan --shapes=x:32x64 --infStreams=2
[11/25/2026-10:00:00] [I] === Inference Options ===
[11/25/2026-10:00:00] [I] TensorRT version: 10.13.3
[11/25/2026-10:00:04] [I] === Trace details ===
[11/25/2026-10:00:04] [I] Trace averages of 10 runs:
[11/25/2026-10:00:04] [I] Average on 10 runs - GPU latency: 0.5 ms - Host latency: 0.7 ms (enqueue 0.1 ms)
[11/25/2026-10:00:04] [I] === Performance summary ===
[11/25/2026-10:00:04] [I] Throughput: 1234.5 qps
[11/25/2026-10:00:04] [I] Latency: min = 0.6 ms, max = 0.9 ms, mean = 0.7 ms, median = 0.7 ms, percentile(90%) = 0.8 ms
[11/25/2026-10:00:04] [I] Enqueue Time: min = 0.1 ms, max = 0.2 ms, mean = 0.1 ms, median = 0.1 ms
[11/25/2026-10:00:04] [I] H2D Latency: min = 0.1 ms, max = 0.1 ms, mean = 0.1 ms, median = 0.1 ms
[11/25/2026-10:00:04] [I] GPU Compute Time: min = 0.5 ms, max = 0.6 ms, mean = 0.5 ms, median = 0.5 ms
[11/25/2026-10:00:04] [I] Total Host Walltime: 3.01 s
[11/25/2026-10:00:04] [I] Total GPU Compute Time: 2.9 s
&&&& PASSED TensorRT.trtexec [TensorRT v101303] # trtexec --loadEngine=model.plan --shapes=x:32x64 --infStreams=2
"""


def test_the_throughput_is_the_one_of_the_summary() -> None:
    assert parse(SAMPLE) == Said(1234.5, "10.13.3")


def test_large_numbers_and_logs_without_a_version_are_read() -> None:
    assert parse("[I] Throughput: 1.25e+06 qps\n") == Said(1.25e6, None)


@pytest.mark.parametrize(
    "said", ["", SAMPLE.replace("Throughput", "Throughputs"), SAMPLE + SAMPLE, "[I] Throughput: 0 qps\n"]
)
def test_a_text_that_is_not_the_report_of_one_run_is_an_error(said: str) -> None:
    with pytest.raises(RuntimeError, match="throughputs"):
        parse(said)


def test_all_parameters_of_a_run_are_on_the_command_line() -> None:
    inputs = [("x", (32, 64)), ("mask", (32,))]
    assert command(Path("/bin/trtexec"), Path("m.plan"), inputs, streams=3, for_s=2.5) == [
        "/bin/trtexec", "--loadEngine=m.plan", "--shapes=x:32x64,mask:32", "--infStreams=3", "--duration=2.5",
        "--warmUp=500",
    ]  # fmt: skip


def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"failed \(1\): no such engine"):
        run([sys.executable, "-c", "print('no such engine'); raise SystemExit(1)"])
