"""TFLite files from ONNX models: `target` builds, the other modules are its steps."""
