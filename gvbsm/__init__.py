"""gvbsm: dataset condensation by generalised backbone and statistical matching (G-VBSM, CVPR 2024)."""

__version__ = "0.1.0"
