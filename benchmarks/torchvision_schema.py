"""Make torchvision importable beside a CPU build of torch.

The torchvision wheel is built for CUDA; beside CPU torch its compiled operators do not load, and its import
fails where it registers their fake implementations. Declaring their schemas first is all that is needed, as
no model of the zoo calls them. Import this module before torchvision.
"""

from __future__ import annotations

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# The declarations last as long as the library object.
library = torch.library.Library("torchvision", "FRAGMENT")
for schema in _OPERATORS:
    if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
        library.define(schema)
