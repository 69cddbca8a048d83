"""ONNX files: reading, writing, inputs, and metadata."""
