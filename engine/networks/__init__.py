"""What priors and classifiers share: frozen modules, devices, dtypes, files on a hub."""
