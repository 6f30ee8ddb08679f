"""What tools/on_gpu.py runs."""
