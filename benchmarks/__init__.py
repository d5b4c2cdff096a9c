"""What is measured, against which baseline, and the results (`python -m benchmarks.encoders --help`)."""
