"""What a file is that was taken for a checkpoint, by how it begins, so that the advice is the right one."""

import zipfile
from pathlib import Path

from engine.errors import ModelError

BEGINNING = 1024
LFS = b"version https://git-lfs"
HTML = (b"<!doctype html", b"<html", b"<?xml", b"<head")
BY_BEGINNING = {
    b"\x89HDF": (
        "HDF5, as Keras writes it",
        "load its weights into a torch network and save those",
    ),
    b"GGUF": ("GGUF, of a language model", "name an image classifier"),
    b"\x93NUMPY": ("a NumPy array", "put its values into the network in Python and save that"),
    b"\x1f\x8b": ("gzip", "unpack it and name the file inside"),
    b"BZh": ("bzip2", "unpack it and name the file inside"),
    b"\xfd7zXZ": ("xz", "unpack it and name the file inside"),
    b"7z\xbc\xaf": ("7z", "unpack it and name the file inside"),
    b"Rar!": ("rar", "unpack it and name the file inside"),
    b"%PDF": ("PDF", "name the file of the weights"),
    b"\x89PNG": ("a picture", "name the file of the weights"),
    b"\xff\xd8\xff": ("a picture", "name the file of the weights"),
    b"GIF8": ("a picture", "name the file of the weights"),
}
BY_ENDING = {
    ".onnx": ("an ONNX file", "write 'onnx:' in front of it"),
    ".tflite": (
        "a TensorFlow Lite file",
        "export the network to ONNX and write 'onnx:' in front of it",
    ),
    ".pb": ("a TensorFlow graph", "export the network to ONNX and write 'onnx:' in front of it"),
    ".keras": ("a Keras file", "export the network to ONNX and write 'onnx:' in front of it"),
    ".engine": ("a TensorRT engine", "name the checkpoint or the ONNX file that it was made from"),
    ".mlmodel": ("a Core ML file", "name the checkpoint that it was made from"),
    ".json": (
        "JSON, which holds no weights",
        "name the file of the weights, or the folder with 'hf:' in front",
    ),
    ".yaml": ("YAML, which holds no weights", "name the file of the weights"),
    ".py": ("Python code", "build the network in Python and hand it over"),
    ".txt": ("a text", "name the file of the weights"),
}


def check_file_kind(path: Path) -> None:
    """Raise ModelError for a file that is plainly no checkpoint of torch's or safetensors'."""
    with path.open("rb") as file:
        begins = file.read(BEGINNING)
    if begins.startswith(LFS):
        raise _refused(
            path,
            "a pointer of Git LFS, a few lines of text that stand for the file",
            "run `git lfs pull` in its repository, or download the file itself",
        )
    text = begins.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(HTML):
        raise _refused(
            path,
            "an HTML page, such as one that asks to log in or to confirm a download",
            "open its address in a browser, and download the file behind it",
        )
    if text.startswith((b'{"error', b'{"message')) or begins.startswith(
        (b"Invalid ", b"Entry not found")
    ):
        raise _refused(
            path,
            "the answer of a server that refused the download",
            "fetch it again, logged in and from the address of the file itself",
        )
    for start, (kind, advice) in BY_BEGINNING.items():
        if begins.startswith(start):
            raise _refused(path, kind, advice)
    if begins[4:8] == b"TFL3":
        raise _refused(path, *BY_ENDING[".tflite"])
    if path.suffix.lower() in BY_ENDING:
        raise _refused(path, *BY_ENDING[path.suffix.lower()])
    if begins.startswith(b"PK"):
        _check_archive(path)


def _check_archive(path: Path) -> None:
    """Raise ModelError for a zip file that is not one of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return  # cut short: the reader says so
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise _refused(
            path,
            "a TorchScript file, which holds code with its weights",
            "where you trust it, load it with torch.jit.load in Python and save its `state_dict()`, which is a "
            "checkpoint; handed over as it is, the network's layers cannot be measured",
        )
    if any("archive_format" in name or "serialized_exported_program" in name for name in names):
        raise _refused(
            path,
            "a program of torch.export",
            "where you trust it, load it with torch.export.load in Python and save its `state_dict`, which is a "
            "checkpoint",
        )
    if "data.pkl" not in inside:
        raise _refused(path, "an archive", "unpack it and name the file of the weights")


def _refused(path: Path, kind: str, advice: str) -> ModelError:
    return ModelError(
        f"checkpoint {path} is {kind}, expected weights as safetensors or of torch.save: {advice}."
    )
