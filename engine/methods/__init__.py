"""The methods that DDIS is compared with: they make images from a classifier alone, without a diffusion prior.

Written from their papers. Each module has the frozen settings of a method and a function (classifier, labels,
generator, settings) -> images (N, 3, H, W) in [0, 1].
"""
