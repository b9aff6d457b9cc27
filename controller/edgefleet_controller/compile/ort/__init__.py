"""Target `ort`: ONNX files for ONNX Runtime and its execution providers."""
