"""RGB to the planes that H.264 stores: the BT.601 matrix, limited range, 4:2:0.

Done here and not by the codec library, whose rounding differs between its versions: the same frames give the same
bytes. BT.601 and not BT.709, because everything reads it right: players that heed a file's tags, players that go by the
size of the picture, and PyAV before 17, which takes every file for BT.601 and in ComfyUI shifts the colours of others.
"""

from __future__ import annotations

from typing import Final

import torch
from einops import rearrange, reduce
from torch import Tensor

LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma: ITU-R BT.601-7, 2.5.1."""
# The chroma axes follow from them; white has to be 1 to the last bit.
_RED, _, _BLUE = LUMA
_GREEN = 1.0 - _RED - _BLUE
_RGB_TO_YUV = (
    (_RED, _GREEN, _BLUE),
    (-_RED / (2 - 2 * _BLUE), -_GREEN / (2 - 2 * _BLUE), 0.5),
    (0.5, -_GREEN / (2 - 2 * _RED), -_BLUE / (2 - 2 * _RED)),
)
# Limited range with 8 bits (BT.601-7, 2.5.3): black and white are 16 and 235, colourless is 128.
_LUMA_OFFSET, _LUMA_SPAN = 16.0, 219.0
_CHROMA_OFFSET, _CHROMA_SPAN = 128.0, 224.0


def rgb_to_yuv420(frame: Tensor) -> Tensor:
    """A frame H W 3, float in [0, 1], H and W even, to its planes below each other: uint8 (3/2 H) W.

    The H rows of luma are followed by H/4 rows that hold the H/2 x W/2 values of U, and as many of V.
    """
    height, width, _ = frame.shape
    yuv = frame @ torch.tensor(_RGB_TO_YUV, dtype=frame.dtype, device=frame.device).T
    luma = _LUMA_OFFSET + _LUMA_SPAN * yuv[..., 0]
    chroma = reduce(yuv[..., 1:], "(h two_h) (w two_w) c -> c h w", "mean", two_h=2, two_w=2)
    chroma = rearrange(_CHROMA_OFFSET + _CHROMA_SPAN * chroma, "c h w -> (c h w)").view(height // 2, width)
    return torch.cat((luma, chroma)).round().to(torch.uint8)
