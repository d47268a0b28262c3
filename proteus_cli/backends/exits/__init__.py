"""Multi-exit models: chains of engines of an ordinary backend, which queries leave at the first exit that is enough.

A *chain file* (`store.models.exit_chains`) has K stages and the condition `stop_when`. Stage k takes the features of
stage k - 1, and gives the outputs of the family, which are the answer of exit k, and the features for the next.
`runner.ExitRunner` takes a batch through the stages. After each stage, rows for which the condition holds have their
answer. The features of the others become a smaller batch on the device, without a way through the server. The last exit
answers all that get there. Outputs are in the order of the inputs again. `HostExitRunner` does so with runners of
another backend; `backends.tensorrt.chain` has the runner of GPUs.

Besides the outputs, the runner gives *notes* of each row: the exit that answered it, the confidence of the answer,
whether it was cut short, the exit at which its condition held, and its energy if that is limited. They travel behind
the outputs, as further tensors that `Signature.notes` describes, and no client gets them as such.

`loading.WithExits` is a backend on top of another one, which it leaves alone but for chain files. Variants that have
stages in common (the same chain under several conditions) share their engines, which stay loaded until the last is
left.
"""
