"""What a running stage needs of the machine: devices, checkpoints, progress and the training loop."""
