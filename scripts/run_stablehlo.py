"""Labels images: run_stablehlo.py FILE.stablehlo IMAGES.npy. Needs jax, flatbuffers."""

import json
import sys

import numpy as np
from jax import export

network = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
names = json.load(open(sys.argv[1] + ".json"))["dataset"]["label_names"]
logits = network.call(np.load(sys.argv[2]))  # of uint8 [B, H, W, C]
print(*(names[label] for label in np.argmax(logits, axis=-1)), sep="\n")
