"""Priors that are named by their architecture, `arch:<name>`: published configs, and what builds them."""
