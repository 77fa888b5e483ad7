"""Experiments: many transfers and runs as one file describes them, their raw measurements, and tables made of these."""
