"""Guidance distilled into an adapter of the prior's denoiser."""
