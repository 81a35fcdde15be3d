"""The whole page, as Gradio's blocks."""

from pathlib import Path
from typing import Any

from engine.apps.studio.browse_tab import BrowseTab
from engine.apps.studio.compare_tab import CompareTab
from engine.apps.studio.fields import offered
from engine.apps.studio.make_tab import QUIET, MakeTab
from engine.apps.studio.session import Desk

HERE = Path(__file__).parent
HEAD = (
    '<div class="studio-head"><h1>DDIS studio</h1><p>Images like a classifier\'s training set, from the classifier '
    "and none of its data</p></div>"
)
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")


def blocks(gr: Any, desk: Desk, place: Path) -> Any:
    """The page. gr: the module gradio. place: where new folders are."""
    with gr.Blocks(title="DDIS studio", analytics_enabled=False) as page:
        gr.HTML(HEAD)
        with gr.Tabs():
            with gr.Tab("Make"):
                make = MakeTab(gr, desk, place)
            with gr.Tab("Browse") as browsing:
                browse = BrowseTab(gr, desk)
            with gr.Tab("Compare") as comparing:
                compare = CompareTab(gr)
        browsing.select(lambda: offered(gr, place), None, browse.folder, **QUIET)
        both = [compare.one, compare.other]
        comparing.select(lambda: [offered(gr, place)] * 2, None, both, **QUIET)
        page.load(make.look, None, make.shown, **QUIET)
        chosen = [*make.fields.values()]
        restored = page.load(make.restore, None, [make.offered, *chosen], **QUIET)
        restored.then(make.look_ahead, chosen, make.planning, **QUIET)
    return page


def looks(gr: Any) -> dict[str, Any]:
    """Theme, style and script, as arguments of `launch`. Fonts are the system's: nothing is fetched."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_lg,
        font=[*FONTS],
        font_mono=[*MONO],
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
    )
    script = (HERE / "script.js").read_text("utf-8")
    return {
        "theme": theme,
        "css": (HERE / "style.css").read_text("utf-8"),
        "head": f"<script>{script}</script>",
    }
