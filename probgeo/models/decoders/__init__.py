"""Decoders: distributions over functions z -> parameters of the likelihood."""
