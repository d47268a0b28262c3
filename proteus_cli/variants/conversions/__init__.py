"""Conversions of ONNX files, which `proteus catalog derive` makes variants by; calibration rows for them."""
