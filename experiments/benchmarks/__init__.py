"""Benchmarks of the geodesic engine, as ratios within one process."""
