"""TensorRT engines: built from ONNX files, kept on the disk, run on CUDA streams."""
