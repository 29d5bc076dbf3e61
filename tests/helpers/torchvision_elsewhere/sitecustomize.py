"""Lets a torchvision import whose library was built for another torch: it misses operators that it describes.

nnU-Net looks through its own trainers by importing them all; some import timm, which imports torchvision. None of the
operators is used. A folder with this file is in the PYTHONPATH of the tests of nnU-Net where torchvision needs it.
"""

import sys


class _DefinesOperators:
    library = None

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        """Define the operators before torchvision is imported; the others find the module."""
        if name == "torchvision" and cls.library is None:
            import torch

            cls.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                cls.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _DefinesOperators)
