"""The benchmark behind `python -m torch_conv_ext bench`: what is timed, how, and how it is told.

layers    a convolution layer as numbers, its class, its suites
networks  the layers of published networks
families  layers by kind: depthwise, grouped, thin, transposed, slow cases that users reported
zoo       whole networks
models    their training steps and inference, single calls
machine   what it runs on: malloc's state, FMA peak, memory bandwidth
timing    tensors, the check against float64, timing in turns
rivals    onnxruntime and openvino, where installed
results   rows, summaries, targets, files, comparison of two files
report    tables
plot      the picture
"""
