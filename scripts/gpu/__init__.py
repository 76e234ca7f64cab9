"""What scripts/gpu_check.py is made of: measurements, the records of them, and the page made from the records."""
