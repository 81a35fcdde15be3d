"""Small networks of transformers that have no BatchNorm, with random weights: they read (N, 3, 16, 16)."""

from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


def vit(classes: int) -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=4,
            num_labels=classes,
        )
    )


def convnext(classes: int) -> nn.Module:
    return ConvNextForImageClassification(
        ConvNextConfig(
            num_stages=2, hidden_sizes=[8, 12], depths=[1, 1], patch_size=2, num_labels=classes
        )
    )
