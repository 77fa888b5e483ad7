"""Peak rates of GPUs by the makers' figures, for the share of them that a run reaches (MFU)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAKER = re.compile(r"(NVIDIA )?(Tesla |GeForce )?")


@dataclass(frozen=True)
class Peak:
    """What one GPU does at most, in 10^12 operations per second.

    Attributes:
        name: the driver's name, without the maker's, as a regular expression that has to match all of it: a laptop's
            GPU, a slice of a GPU (MIG) and a variant for one customer have other rates under names that contain it.
        bf16: dense matrix products in bfloat16 with float32 sums; ``None`` where the GPU has none or no figure is sure.
        float32: outside the tensor cores, without TF32; ``None`` where no figure is sure.
    """

    name: str
    bf16: float | None
    float32: float | None


PEAKS = (
    Peak("GB200", 2500, None),
    Peak("B200", 2250, None),
    Peak(r"GH200 (480GB|144G HBM3e|120GB)", 989, 67),
    Peak("H200", 989, 67),
    Peak("H200 NVL", 835, 60),
    Peak("H100 80GB HBM3", 989, 67),
    Peak("H100 PCIe", 756, 51),
    Peak("H100 NVL", 835, 60),
    Peak("H800", 989, 67),
    Peak("H800 PCIe", 756, 51),
    Peak("A100-(SXM4|SXM|PCIE|PCIe)-(40|80)GB|A100 80GB PCIe", 312, 19.5),
    Peak("A800-SXM4-(40|80)GB|A800 80GB PCIe", 312, 19.5),
    Peak("L40S", 362, 91.6),
    Peak("L40", 181, 90.5),
    Peak("L4", 121, 30.3),
    Peak("A40", 149.7, 37.4),
    Peak("A30", 165, 10.3),
    Peak("A10G", 70, 31.5),
    Peak("A10", 125, 31.2),
    Peak("RTX 6000 Ada Generation", 364, 91.1),
    Peak("RTX A6000", 154.8, 38.7),
    Peak("RTX 5090", 209.5, 104.8),
    Peak("RTX 5080", 112.6, 56.3),
    Peak("RTX 4090", 165.2, 82.6),
    Peak("RTX 4080", 97.5, 48.7),
    Peak("RTX 3090 Ti", 80, 40),
    Peak("RTX 3090", 71, 35.6),
    Peak("T4", None, 8.1),
    Peak("V100-SXM2-(16|32)GB", None, 15.7),
    Peak("V100S-PCIE-32GB", None, 16.4),
    Peak("V100-PCIE-(16|32)GB", None, 14),
)
"""Sources: NVIDIA's data sheets of each card of the data centre and of the RTX A6000 and RTX 6000 Ada; the white papers
"NVIDIA Ampere GA102", "NVIDIA Ada" and "NVIDIA RTX Blackwell GPU Architecture" for GeForce cards; the data sheets of
HGX and NVL72, per GPU, for B200 and GB200. An H800 has an H100's products, and slower links. Figures that a sheet
states with sparsity are halved. Cards whose figures are not sure are missing: B300, GB300, H20, RTX PRO, and the
float32 rates of Blackwell's data-centre cards."""


def peak_flops(name: str, *, bf16: bool) -> float | None:
    """Look up the operations per second that a GPU can do at most; ``None`` where they are not known.

    Args:
        name: as the driver tells it, such as ``NVIDIA H100 80GB HBM3``.
        bf16: whether products are in bfloat16 rather than float32.
    """
    model = name[MAKER.match(name).end() :]  # type: ignore[union-attr]
    peak = next((peak for peak in PEAKS if re.fullmatch(peak.name, model)), None)
    tera = None if peak is None else peak.bf16 if bf16 else peak.float32
    return None if tera is None else 1e12 * tera
