"""Devices, processes, checkpoints and progress of a running stage."""
