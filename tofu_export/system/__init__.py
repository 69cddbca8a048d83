"""Files, memory, the machine, and onnxruntime."""
