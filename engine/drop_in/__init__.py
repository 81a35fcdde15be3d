"""Guidance for a diffusers pipeline of the user's own, which is called as usual."""
