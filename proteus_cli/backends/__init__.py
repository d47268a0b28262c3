"""Backends: what builds and runs models on one kind of device.

`onnxruntime` runs ONNX files on CPUs, `tensorrt` engines on GPUs, and `emulated` takes the times of a profile.

To add a backend:

1. Write a class that is a `base.Backend`, in a module of its own in this package. It imports its runtime when it is
   opened, and raises `BackendUnavailable` with the `pip install` command as its hint where the runtime is missing.
2. Open it in `registry.open_backend`. Where its devices are of a new kind, find them in `discovery.discover`, and name
   the kind in `domain.device.Device`.
3. Profiles and servers use it now. Name it in `REAL` of `serving.devices.hardware`, or servers say that its times are
   emulated. `serving.devices.cpu` runs its batches in the server. Where a fault of the runtime may end the process,
   give it a spec in `serving.devices.process.spec`, which a process of its own opens.
4. Test it like `tests/backends/test_onnxruntime_backend.py` does.
"""

import os

# ONNX Runtime would record its use in a database below the user's home, send that to its makers, and hold up the end of
# a process that can't reach them, by 30 s. It reads this where it is imported; who wants it sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
