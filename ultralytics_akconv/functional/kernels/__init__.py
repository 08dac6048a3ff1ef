# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum as Triton kernels, the fast form on a GPU, and the check that decides whether they are used.

Triton comes with PyTorch for CUDA on Linux. It is imported when the first kernel is launched and not before, so that
this package works without it.
"""

from ultralytics_akconv.functional.kernels.samples import KERNEL_DTYPES, kernel_samples
from ultralytics_akconv.functional.kernels.trust import KernelStatus, kernel_status

__all__ = ("KERNEL_DTYPES", "KernelStatus", "kernel_samples", "kernel_status")
