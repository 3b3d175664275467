"""Calculus on the discrete energy: exponential, logarithm, transport, angles, volumes, means, curvature."""
