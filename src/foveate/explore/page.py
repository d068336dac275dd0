"""The page: its controls, and which of them computes what."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event
from typing import Any

import gradio as gr
from gradio import themes

from foveate.core.errors import OptionError
from foveate.data.stored import FORMATS, LARGEST_FILE
from foveate.explore.choice import Choice
from foveate.explore.drawing import Part, as_image, attention_at, map_figure, method_figure
from foveate.explore.export import Answered, command_of, export
from foveate.explore.frames import Curves, curves_of, frame_image
from foveate.explore.plan import MOST
from foveate.explore.player import Player, curves_image, frame_of, ready
from foveate.explore.session import Seen, Session, choice_of, failure
from foveate.explore.texts import answer_of, error_of, status_of

_NONE = "(none)"
_MEAN = "mean of the heads"
_ONE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""Options of events that run the model, which serves one at a time."""
_LIGHT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}
_CSS = """
.gradio-container {max-width: 1600px !important; padding: 8px 16px !important;}
.answer {font-size: 1.1em; font-weight: 600; overflow-wrap: anywhere;}
.same {color: #1a7f5a;} .changed, .failed {color: #b3470b;} .facts {color: #555; font-size: 0.85em;}
footer {display: none !important;}
"""
_HELP = (
    "Kept patches are in colour, dropped ones grey, merged ones pale; evidence is outlined where the data have it. "
    "Below them are the method's scores, coloured by rank: light is high. The budget is the number of patches to keep, "
    "as the method's authors define it; equivalent tokens are the mean over the blocks of the language model."
)
_FILE = (
    f"Your own image: {', '.join(FORMATS)}; at most {LARGEST_FILE >> 20} MiB and 178 million pixels. Or a video, "
    "such as MP4, for a model that takes videos. The question of the data brings its image or video back."
)


@dataclass(frozen=True, eq=False)
class _Column:
    """The components of a method's column."""

    name: gr.Dropdown
    keep: gr.Slider
    options: gr.Textbox
    answer: gr.HTML
    figure: gr.Image
    shown: gr.State

    @property
    def inputs(self) -> list[Any]:
        return [self.name, self.keep, self.options]

    @property
    def outputs(self) -> list[Any]:
        return [self.answer, self.figure, self.shown]


def serve(session: Session, port: int | None, browser: bool) -> None:
    """Serves the page on this machine until Ctrl-C.

    Args:
        session: Model and data.
        port: The port; None means the first free one from 7860 on.
        browser: Whether to open the page in the browser.

    Raises:
        OptionError: The port is in use.
    """
    with TemporaryDirectory(prefix="foveate-explore-") as folder:
        page = page_of(session, Path(folder))
        print(f"The page is at {_launched(page, port, browser)} (this machine only). Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
        page.close(verbose=False)


def _launched(page: gr.Blocks, port: int | None, browser: bool) -> str:
    """Returns the address of the page, which is served from now on."""
    try:
        _, url, _ = page.launch(
            **APPEARANCE,
            server_name="127.0.0.1",
            server_port=port,
            inbrowser=browser,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=LARGEST_FILE,
            ssr_mode=False,
            footer_links=[],
        )
    except OSError as error:
        raise OptionError(f"port {port or 'from 7860 on'}: {error}; give another one with --port") from error
    return url


_FONTS = ["system-ui", "sans-serif"]  # none that a browser would load
APPEARANCE: dict[str, Any] = {
    "theme": themes.Default(font=_FONTS, font_mono=["ui-monospace", "monospace"], spacing_size="sm", text_size="sm"),
    "css": _CSS,
}
"""Options of `launch` for the look of the page."""


def page_of(session: Session, folder: Path) -> gr.Blocks:
    """Returns the page of a session, which writes exported files to a folder."""
    with gr.Blocks(
        title="foveate explore", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True
    ) as page:
        seen, over_time = gr.State(), gr.State()
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                picked, events, inputs, status = _question(session)
                player = Player.made(seen)
                gr.HTML(_FILE, elem_classes="facts", padding=False)
            with gr.Column(scale=7):
                gr.HTML(_HELP, elem_classes="facts", padding=False)
                with gr.Row():
                    patches = session.patches_at_start()
                    columns = [_column(session, number, patches) for number in range(MOST)]
                curves = curves_image()
                maps, draw_maps = _maps(session, seen, player.frame)
                command, files, write = _export()
        shown = [column.shown for column in columns]
        cells = [cell for column in columns for cell in column.inputs]
        results = [cell for column in columns for cell in column.outputs]
        keeps = [column.keep for column in columns]
        figures = [column.figure for column in columns]

        def with_curves(run: Any) -> Any:  # noqa: ANN401 (an event of Gradio)
            return run.then(_draw_curves, [seen, player.frame, *shown], [over_time, curves], **_LIGHT)

        for begin in (picked.then, partial(gr.on, [page.load, *events])):
            looked = begin(_look(session), inputs, [seen, status, *player.outputs], **_ONE)
            run = looked.then(_inspect_all(session), [seen, *cells], [*keeps, *results, command], **_ONE)
            with_curves(run).then(draw_maps, [seen, *maps.inputs], maps.outputs, **_LIGHT)
        drawn = [player.image, curves, *figures]
        player.frame.change(_draw_frame, [seen, player.frame, over_time, *shown], drawn, **_LIGHT)
        gr.on([player.frame.input, player.button.click], draw_maps, [seen, *maps.inputs], maps.outputs, **_LIGHT)
        for column in columns:
            for run in _connect(session, [seen, player.frame], column):
                with_curves(run.then(_command, [seen, *shown], command, **_LIGHT))
        write.click(partial(_files, folder), [seen, *shown], files, **_ONE)
    return page


def _question(session: Session) -> tuple[Any, list[Any], list[Any], gr.HTML]:
    """Makes the left column; returns the choice of a question, the events that ask, the inputs, and the answer."""
    plan, last = session.plan, len(session.samples) - 1
    gr.HTML(f"<b>foveate explore</b><div class='facts'>model {escape(plan.model)}, {escape(session.device)}</div>")
    index = gr.Slider(
        0, last, plan.index, step=1, label=f"Question of {plan.data}", buttons=[], elem_id="index", visible=last > 0
    )
    file = gr.File(plan.image and str(plan.image), label="Your own image or video", height=132, elem_id="file")
    given = session.question(plan.index) if plan.question is None else plan.question
    question = gr.Textbox(given, label="Question", lines=1, max_lines=4, elem_id="question")
    button = gr.Button("Ask", variant="primary", elem_id="ask")
    status = gr.HTML(elem_id="status", padding=False)
    picked = index.release(lambda number: (session.question(number), None), index, [question, file], **_LIGHT)
    return picked, [file.upload, file.clear, question.submit, button.click], [file, index, question], status


def _look(session: Session) -> Callable:
    def look(file: str | None, index: float, question: str) -> tuple[Any, ...]:
        try:
            seen = session.see(Path(file) if file else None, int(index), question)
        except Exception as error:  # said in the page
            return None, error_of(failure(error)), *ready(None)
        return seen, status_of(seen), *ready(seen)

    return look


def _column(session: Session, number: int, patches: int) -> _Column:
    """Makes the column of a method for an image or a video of so many patches."""
    chosen = session.plan.methods[number] if number < len(session.plan.methods) else None
    keep = session.default_keep(chosen or Choice(_NONE), patches)
    options = ", ".join(f"{name}={value!r}" for name, value in chosen.options) if chosen else ""
    hint = session.options_hint(chosen.name) if chosen else ""
    with gr.Column(min_width=180):
        return _Column(
            gr.Dropdown(
                [_NONE, *session.names],
                value=chosen.name if chosen else _NONE,
                label="Method",
                elem_id=f"method{number}",
            ),
            gr.Slider(1, patches, keep, step=1, label="Budget", buttons=[], elem_id=f"keep{number}"),
            gr.Textbox(
                options, label="Options", placeholder=hint or "no options", max_lines=1, elem_id=f"options{number}"
            ),
            gr.HTML(elem_id=f"answer{number}", min_height=92, padding=False),
            gr.Image(
                type="pil", show_label=False, interactive=False, buttons=["fullscreen"], elem_id=f"figure{number}"
            ),
            gr.State(),
        )


def _connect(session: Session, about: list[Any], column: _Column) -> list[Any]:
    """Computes a column anew after a change of its method, budget or options; returns the last events.

    Args:
        session: Model and data.
        about: What is asked about, and the number of the shown frame.
        column: The column.
    """
    renamed = column.name.input(
        lambda name: gr.Textbox("", placeholder=(name != _NONE and session.options_hint(name)) or "no options"),
        column.name,
        column.options,
        **_LIGHT,
    )
    return [
        begin(_inspect(session), [*about, *column.inputs], column.outputs, trigger_mode="always_last", **_ONE)
        for begin in (renamed.then, partial(gr.on, [column.keep.input, column.options.submit]))
    ]


def _inspect(session: Session) -> Callable:
    def inspect(seen: Seen | None, frame: float, name: str, keep: float, options: str) -> tuple[Any, ...]:
        if seen is None or name == _NONE:
            return "", None, None
        try:
            choice = choice_of(name, keep, options)
            inspection = session.inspected(seen, choice)
        except Exception as error:  # said in the page; the other columns remain
            return error_of(failure(error)), None, None
        shown = Answered(choice, inspection)
        return answer_of(seen, inspection), _figure(seen, int(frame), shown), shown

    return inspect


def _figure(seen: Seen, frame: int, shown: Answered | None) -> Any:  # noqa: ANN401 (an image or None)
    if shown is None:
        return None
    if seen.clip:
        return frame_image(seen, shown.inspection, frame)
    return as_image(method_figure(seen.panes_at(frame), shown.inspection, seen.prompt.evidence))


def _draw_frame(seen: Seen | None, frame: float, curves: Curves | None, *shown: Answered | None) -> tuple[Any, ...]:
    """Returns the frame, the curves with a line at it, and the figure of each method."""
    if seen is None or not seen.clip:
        return (gr.skip(),) * (2 + len(shown))
    figures = [_figure(seen, int(frame), one) for one in shown]
    return frame_of(seen, int(frame)), curves and curves.at(int(frame)), *figures


def _draw_curves(seen: Seen | None, frame: float, *shown: Answered | None) -> tuple[Curves | None, gr.Image]:
    given = {str(one.choice): one.inspection for one in shown if one}
    if seen is None or not seen.clip or not given:
        return None, gr.Image(None, visible=False)
    curves = curves_of(seen, given)
    return curves, gr.Image(curves.at(int(frame)), visible=True)


def _inspect_all(session: Session) -> Callable:
    inspect = _inspect(session)

    def inspect_all(seen: Seen | None, *cells: Any, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: ANN401, B008
        patches = seen.prompt.arrangement.patches if seen else None
        keeps, results = [], []
        for number in range(MOST):
            name, keep, options = cells[3 * number : 3 * number + 3]
            progress((number, MOST), desc=name, unit="methods")
            keep = min(keep, patches or keep)
            keeps.append(gr.Slider(maximum=patches, value=keep) if patches else gr.skip())
            results.append(inspect(seen, 0, name, keep, options))
        command = _command(seen, *(shown for _, _, shown in results))
        return [*keeps, *(cell for result in results for cell in result), command]

    return inspect_all


@dataclass(frozen=True, eq=False)
class _Maps:
    """The components of the attention maps."""

    inputs: list[Any]
    outputs: list[Any]


def _maps(session: Session, seen: gr.State, frame: gr.Slider) -> tuple[_Maps, Callable]:
    """Makes the attention maps; returns their components, and the function that draws them."""
    adapter = session.loaded.adapter
    tower, blocks = adapter.tower, adapter.decoder.depth
    heads = [_MEAN, *map(str, range(tower.heads))]
    of_decoder = [_MEAN, *map(str, range(adapter.text_config.num_attention_heads))]
    name = "attention of [CLS]" if tower.has_cls else "no [CLS]: attention that each patch receives from all others"
    with gr.Row():
        with gr.Column(scale=1, min_width=180):
            gr.HTML(f"<b>Vision tower</b>, {name}")
            layer = gr.Slider(
                0, tower.depth - 1, tower.feature_layer, step=1, label="Layer", buttons=[], elem_id="layer"
            )
            head = gr.Dropdown(heads, value=_MEAN, label="Head", elem_id="head")
            vision = gr.Image(type="pil", show_label=False, interactive=False, buttons=["fullscreen"], elem_id="tower")
        with gr.Column(scale=3):
            gr.HTML("<b>Language model without compression</b>, attention to the patches")
            block = gr.Slider(0, blocks - 1, blocks // 2, step=1, label="Block", buttons=[], elem_id="block")
            other = gr.Dropdown(of_decoder, value=_MEAN, label="Head", elem_id="block_head")
            language = gr.Image(
                type="pil", show_label=False, interactive=False, buttons=["fullscreen"], elem_id="prompt"
            )
            note = gr.HTML("Attention maps are coloured by the square root of the weight.", elem_classes="facts")
    layer.change(_draw_tower, [seen, frame, layer, head], vision, **_LIGHT)
    head.change(_draw_tower, [seen, frame, layer, head], vision, **_LIGHT)
    for control in (block, other):
        control.change(_draw_language, [seen, frame, block, other], [language, note], **_LIGHT)

    def draw(seen: Seen | None, frame: float, layer: float, head: str, block: float, other: str) -> tuple[Any, ...]:
        return _draw_tower(seen, frame, layer, head), *_draw_language(seen, frame, block, other)

    return _Maps([frame, layer, head, block, other], [vision, language, note]), draw


def _draw_tower(seen: Seen | None, frame: float, layer: float, head: str) -> Any:  # noqa: ANN401 (an image or None)
    if seen is None:
        return None
    layers = seen.maps.layers
    row = min(range(len(layers)), key=lambda row: abs(layers[row] - layer))
    what = "[CLS]" if seen.maps.has_cls else "received"
    windows = f"\n(layer {int(layer)} sees windows only)" if layers[row] != layer else ""
    name = f"{what}, layer {layers[row]}, {_head_name(head)}{windows}"
    return as_image(map_figure(seen.panes_at(int(frame)), [(name, attention_at(seen.maps, "tower", row, _head(head)))]))


def _draw_language(seen: Seen | None, frame: float, block: float, head: str) -> tuple[Any, str]:
    if seen is None or seen.maps.unreadable:
        return None, error_of(seen.maps.unreadable) if seen else ""
    names: dict[Part, str] = {
        "last": "last prompt token",
        "question": "text after the image" if not seen.clip else "text after the video",
        "answer": "answer",
    }
    maps = [(text, attention_at(seen.maps, part, int(block), _head(head))) for part, text in names.items()]
    where = f"Block {int(block)}, {_head_name(head)}; coloured by the square root of the weight."
    return as_image(map_figure(seen.panes_at(int(frame)), maps)), where


def _head(name: str) -> int | None:
    return None if name == _MEAN else int(name)


def _head_name(name: str) -> str:
    return name if name == _MEAN else f"head {name}"


def _export() -> tuple[gr.Textbox, gr.File, gr.Button]:
    """Makes the command, the files and the button that writes them."""
    command = gr.Textbox(
        label="Command that shows this page", interactive=False, lines=1, buttons=["copy"], elem_id="command"
    )
    with gr.Row():
        button = gr.Button("Export figure (PNG, PDF), patches and scores (JSON), and command", elem_id="export")
        files = gr.File(
            label="Exported files", file_count="multiple", interactive=False, visible=False, elem_id="files"
        )
    return command, files, button


def _command(seen: Seen | None, *shown: Answered | None) -> str:
    given = [one for one in shown if one]
    return command_of(seen, given) if seen and given else ""


def _files(folder: Path, seen: Seen | None, *shown: Answered | None) -> gr.File:
    """Writes the exported files to a folder in `folder`, and returns the list of links to them."""
    given = [one for one in shown if one]
    if seen is None or not given:
        raise gr.Error("There is nothing to export: ask a question and choose a method first.", print_exception=False)
    return gr.File([str(path) for path in export(seen, given, Path(mkdtemp(dir=folder)))], visible=True)
