"""ONNX files: reading, writing, feeding, and what they say about themselves."""
