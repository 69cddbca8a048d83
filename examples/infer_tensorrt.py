"""Run a TensorRT plan on the GPU with Polygraphy; images come normalised from a .npy file.

POLYGRAPHY_USE_TENSORRT_RTX=1 python infer_tensorrt.py out/model.fp16.tensorrt-rtx.engine images.npy
"""

import sys

import numpy as np
from polygraphy.backend.common import BytesFromPath
from polygraphy.backend.trt import EngineFromBytes, TrtRunner

pixels = np.load(sys.argv[2]).astype(np.float32)  # [B, C, H, W]
with TrtRunner(EngineFromBytes(BytesFromPath(sys.argv[1]))) as runner:
    logits = runner.infer({"input": pixels})["logits"]
print(*logits.argmax(axis=1))
