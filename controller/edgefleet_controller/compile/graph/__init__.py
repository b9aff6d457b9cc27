"""What passes over ONNX graphs share, and the passes every model goes through."""
