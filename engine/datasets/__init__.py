"""Data set folders, contact sheets, curves and exports: what a run leaves on the disk."""

from engine.datasets.contact_sheet import contact_sheet, save_contact_sheet
from engine.datasets.curves import draw_curves
from engine.datasets.dataset import DatasetWriter, open_dataset, read_dataset
from engine.datasets.manifest import Row
from engine.datasets.run_record import read_run, write_run
from engine.datasets.webdataset import export_webdataset

__all__ = [
    "DatasetWriter",
    "Row",
    "contact_sheet",
    "draw_curves",
    "export_webdataset",
    "open_dataset",
    "read_dataset",
    "read_run",
    "save_contact_sheet",
    "write_run",
]
