"""The machine: files and stores, cores, devices, and what a program settles before it starts."""
