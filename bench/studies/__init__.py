"""The slower studies, one module each; `python bench/studies` lists them."""
