"""Classify an image with an exported file; needs onnxruntime, numpy and Pillow, nothing of this project.

python infer_onnxruntime.py out/model.fp32.onnx cat.jpg [--no-vnni]
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

options = onnxruntime.SessionOptions()
if "--no-vnni" in sys.argv:  # an int8 file on x86-64 without VNNI, where its products overflow; elsewhere it is slow
    options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession(sys.argv[1], options)
wanted = json.loads(session.get_modelmeta().custom_metadata_map["tofu_export.preprocessing"])
channels, height, width = wanted["input_size"]
image = Image.open(sys.argv[2]).convert("L" if channels == 1 else "RGB")
resampling = Image.Resampling[wanted["interpolation"].upper()]
scaled = (int(width / wanted["crop_pct"]), int(height / wanted["crop_pct"]))
if wanted.get("crop_mode") == "squash":  # without regard to the ratio of the sides
    image = image.resize(scaled, resampling)
elif wanted.get("crop_mode") == "border":  # all of the image, with its mean around it
    inside = ImageOps.contain(image, scaled, resampling)
    mean = tuple(round(255 * value) for value in wanted["mean"])
    image = Image.new(
        inside.mode, (max(width, inside.width), max(height, inside.height)), mean if channels > 1 else mean[0]
    )
    image.paste(inside, ((image.width - inside.width) // 2, (image.height - inside.height) // 2))
elif scaled[0] == scaled[1]:  # the shorter side, and the longer one rounded down as in torchvision
    image = image.resize(tuple(scaled[0] * side // min(image.size) for side in image.size), resampling)
else:
    image = ImageOps.cover(image, scaled, resampling)
left, top = round((image.width - width) / 2), round((image.height - height) / 2)
pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
pixels = (pixels.reshape(height, width, channels) - wanted["mean"]) / wanted["std"]
(logits,) = session.run(None, {"input": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
print(int(logits.argmax()))
