"""The components of the page in which a run is chosen."""

from pathlib import Path
from typing import Any

from engine.apps.studio.choices import Offer, embedded_classifiers, finished_folders
from engine.apps.studio.form import ALL_WAYS, INVERSION, INVERSIONS, WAYS, Form


def fields(gr: Any, first: Form, offer: Offer) -> dict[str, Any]:
    """Components by the names of a form's fields, in their order. first: what they hold. offer: of its classifier."""
    made = {}
    made["classifier"] = gr.Dropdown(
        embedded_classifiers(),
        value=first.classifier,
        allow_custom_value=True,
        label="Classifier",
        info="One that ships, or hf:, timm:, onnx:, a folder, a file",
        elem_id="classifier",
    )
    made["classes"] = gr.Dropdown(
        [*offer.labels],
        value=[*first.classes],
        multiselect=True,
        label="Classes",
        info="Leave empty for all of them",
        elem_id="classes",
    )
    made["way"] = gr.Radio(
        [ALL_WAYS, *WAYS, INVERSION],
        value=first.way,
        label="Method",
        info="CAT: class tokens. DAG: guidance. All four: equal seeds, side by side",
        elem_id="way",
    )
    made["inversion"] = gr.Dropdown(
        [*INVERSIONS], value=first.inversion, label="Inversion", visible=False, elem_id="inversion"
    )
    with gr.Row(elem_classes="numbers"):
        made["images_per_class"] = _number(gr, first.images_per_class, "Per class", "number")
        made["steps"] = _number(gr, first.steps, "Steps", "steps")
        made["seed"] = _number(gr, first.seed, "Seed", "seed")
    made["out"] = gr.Textbox(first.out, label="Folder", elem_id="out", max_lines=1)
    with gr.Accordion("Prior, tokens, memory, more", open=False, elem_id="further"):
        made["prior"] = _text(gr, first.prior, "Prior", "embedded, a diffusers folder or a hub id")
        made["tokens"] = _text(gr, first.tokens, "Class tokens", "A file of ddis learn-tokens")
        made["memory"] = _text(gr, first.memory, "Memory budget", "auto, or a size such as 12GB")
        made["more"] = _text(
            gr, first.more, "Further options", "Of ddis generate, such as --alignment.scale 0.3"
        )
    return made


def data_set(gr: Any, label: str, name: str, **more: Any) -> Any:
    """A component that names a data set: one of those that `offered` lists, or any other."""
    return gr.Dropdown([], value="", allow_custom_value=True, label=label, elem_id=name, **more)


def offered(gr: Any, place: Path) -> Any:
    """A change of such a component: the data sets that are in `place` by now."""
    return gr.Dropdown(choices=finished_folders(place))


def _number(gr: Any, value: int | None, label: str, name: str) -> Any:
    return gr.Number(value, label=label, precision=0, min_width=70, elem_id=name)


def _text(gr: Any, value: str, label: str, info: str) -> Any:
    name = label.lower().replace(" ", "-")
    return gr.Textbox(value, label=label, info=info, max_lines=1, elem_id=name)
