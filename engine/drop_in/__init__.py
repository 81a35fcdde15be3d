"""Domain alignment for users of a diffusers pipeline, who go on calling it as ever."""
