"""What the REST and gRPC forms of the Open Inference Protocol v2 share: tensors, parameters, model metadata."""
