"""What clients send, in fewer bits."""

from fedml_core.compression.compress import Compress, Decompressing
from fedml_core.compression.compressor import Compressor, NoCompression, Packed, compressors
from fedml_core.compression.quantizers import Drive, Rotated, TernGrad, Uniform
from fedml_core.compression.topk import TopK

__all__ = [
    "Compress",
    "Compressor",
    "Decompressing",
    "Drive",
    "NoCompression",
    "Packed",
    "Rotated",
    "TernGrad",
    "TopK",
    "Uniform",
    "compressors",
]
