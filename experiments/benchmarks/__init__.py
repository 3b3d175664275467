"""Geodesic solvers side by side: time in units of one decoder evaluation, all paths scored by the same exact energy."""
