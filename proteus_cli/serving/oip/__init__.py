"""The common part of REST and gRPC in the Open Inference Protocol v2: tensors, parameters, model metadata."""
