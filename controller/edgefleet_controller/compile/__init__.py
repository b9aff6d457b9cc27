"""The compiler: checks models and samples, and makes artifacts of them, each step in a child process.

One module per target (`ort`, `misbehave`), found by name when it is needed; what each can build is data in `registry`.
Only modules that run in the child import numpy, onnx or onnxruntime.
"""
