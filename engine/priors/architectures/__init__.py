"""Priors named by their architecture, `arch:<name>`: published configs, and the code that builds them."""
