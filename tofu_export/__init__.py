"""Token Fusion for vision transformers: plan, patch, export to ONNX, verify, build engines, profile."""
