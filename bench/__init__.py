"""Benchmarks: measured figures only. Tests never time anything."""
