"""Data set folders, contact sheets, curves and exports: what a run leaves on the disk."""

from engine.outputs.contact_sheet import contact_sheet, save_contact_sheet
from engine.outputs.curves import draw_curves
from engine.outputs.dataset import DatasetWriter, open_dataset, read_dataset
from engine.outputs.manifest import Row
from engine.outputs.run_record import read_run, write_run
from engine.outputs.webdataset import export_webdataset

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
