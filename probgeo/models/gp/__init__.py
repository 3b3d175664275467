"""Gaussian processes as decoders, and models of codes under them."""
