"""Kinds of model sources, and how each becomes one ONNX file."""
