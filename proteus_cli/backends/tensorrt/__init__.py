"""TensorRT engines: built from ONNX files, kept on the disk, run on CUDA streams.

`backend` is the `Backend`. It finds an engine in the `cache`, or has `building` make it (`progress`,
`timing_cache`); `engine` loads it with its `slots` in the context of `cuda`. `inventory` lists what is built.

A *plan* is NVIDIA's word for a serialized engine, and has only this meaning in this package.
"""
