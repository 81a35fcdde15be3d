"""Runs that are started on the page: the same folders as the command line's, stopped, resumed, and refused."""

import re
from pathlib import Path
from threading import Lock

import pytest

from engine.apps.cli import main
from engine.apps.studio.form import ALL_WAYS, INVERSION, Form, rows_of
from engine.apps.studio.pictures import content_of, data_uri
from engine.apps.studio.session import UNEXPECTED, Desk, Session
from engine.apps.studio.stage import stage
from engine.apps.studio.watch import Shot, State, Watch
from engine.datasets.dataset import read_dataset
from engine.errors import ConfigError, ModelError
from engine.events import Event, ImageMade, Started
from engine.methods.drawing import IMAGES
from engine.types import ImageKey

KEYS = [ImageKey(number, index) for number in (0, 4) for index in (0, 1)]
PATIENCE_S = 120


@pytest.fixture
def form(classifier_folder: Path, small_prior_folder: Path, tmp_path: Path) -> Form:
    return Form(
        classifier=str(classifier_folder),
        prior=str(small_prior_folder),
        classes=("dog", "horse"),
        way=ALL_WAYS,
        steps=3,
        out=str(tmp_path / "of the page"),
        more="--batch 1 --device cpu",
    )


def images(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.suffix in (".png", ".parquet")
    }


def carried_out(desk: Desk, form: Form) -> Session:
    session = desk.begin(rows_of(form))
    session.wait(PATIENCE_S)
    assert not session.going
    return session


def test_the_folders_are_those_of_the_command_line(form: Form, tmp_path: Path) -> None:
    desk = Desk()
    session = carried_out(desk, form)
    assert session.done
    for watch in session.watches:
        *words, out = watch.row.words
        again = tmp_path / "of the command line" / Path(out).name
        assert main(["generate", *words, str(again), "--quiet"]) == 0
        assert images(again) == images(Path(out))
        assert sorted(watch.shots) == KEYS
        assert all(
            shot.made and shot.src.startswith("data:image/") for shot in watch.shots.values()
        )
        assert [index for index, _ in watch.means] == [0, 1, 2]
        known = {row.key: row.confidence for _, row in read_dataset(out)}
        assert {key: shot.confidence for key, shot in watch.shots.items()} == known
    html = stage(session)
    assert 'data-state="done"' in html
    names = re.findall(r'<img src="pictures/(\w+)"', html)
    assert len(names) == len(session.watches) * len(KEYS)
    assert "data:" not in html  # what is finished is not sent with each look
    pictures = [content_of(str(desk.picture(name))) for name in names]
    files = [images(watch.folder) for watch in session.watches]
    assert {kind for _, kind in pictures} == {"image/png"}
    assert [png for png, _ in pictures] == [
        content for found in files for name, content in found.items() if name.startswith("images/")
    ]
    assert desk.picture("another") is None
    assert html.count("<polyline") == len(session.watches)
    assert html.count("the classifier recognises") == len(session.watches)
    twice = carried_out(desk, form)
    assert [watch.means for watch in twice.watches] == [watch.means for watch in session.watches]
    assert [watch.shots for watch in twice.watches] == [watch.shots for watch in session.watches]


def test_a_run_that_is_stopped_is_resumed_by_the_same_form(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, take = Desk(), Watch.__call__

    def stopping(self: Watch, event: Event) -> None:
        take(self, event)
        if isinstance(event, ImageMade) and desk.session is not None:
            desk.session.stop()

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "__call__", stopping)
        session = carried_out(desk, form)
    assert [watch.state for watch in session.watches] == ["stopped", "stopped"]
    assert session.watches[0].done == 1
    assert not session.done
    assert 'data-state="stopped"' in stage(session)
    with desk.alone():  # nothing is loaded yet
        session = desk.begin(rows_of(form))
        assert [*session.watches[0].shots] == KEYS[:1]
        assert "1 image on the disk" in stage(session)
    session.wait(PATIENCE_S)
    assert [watch.state for watch in session.watches] == ["done", "done"]
    assert [*sorted(session.watches[0].shots)] == KEYS
    calm = Form(**{**vars(form), "out": str(tmp_path / "calm")})
    assert carried_out(desk, calm).done
    for name in ("plain", "dag"):
        assert images(Path(form.out) / name) == images(Path(calm.out) / name)


def test_a_folder_of_other_settings_is_refused_in_the_words_of_the_engine(form: Form) -> None:
    desk = Desk()
    one = Form(**{**vars(form), "way": "Plain"})
    assert carried_out(desk, one).done
    session = carried_out(desk, Form(**{**vars(one), "seed": 9}))
    (watch,) = session.watches
    assert watch.state == "failed"
    assert "holds a run with other settings: seed is 0 there and 9 here. Expected" in watch.error
    html = stage(session)
    assert 'role="alert"' in html
    assert "seed is 0 there and 9 here" in html


def test_what_does_not_load_is_refused_as_by_the_command_line(form: Form, tmp_path: Path) -> None:
    """A pickle is not opened, wherever its name is typed."""
    with pytest.raises(ModelError, match="unknown classifier 'nothing', expected 'embedded"):
        Desk().begin(rows_of(Form(**{**vars(form), "classifier": "nothing"})))
    harmful = tmp_path / "net.pt"
    harmful.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "done").encode() + b"'\ntR.")
    more = "--architecture resnet8 --labels a b"
    chosen = Form(**{**vars(form), "classifier": str(harmful), "classes": (), "more": more})
    session = carried_out(Desk(), chosen)
    assert [watch.state for watch in session.watches] == ["failed", "stopped"]
    assert "expected" in session.watches[0].error
    assert not (tmp_path / "done").exists()


def test_one_run_at_a_time(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr(Session, "going", property(lambda self: True))
    desk.session = Session(rows_of(form), Lock())
    with pytest.raises(ConfigError, match="a run is going on already, expected one at a time"):
        desk.begin(rows_of(form))
    with pytest.raises(ConfigError, match="a run is going on, expected none"), desk.alone():
        pass


def test_a_run_waits_for_who_works_with_models_and_a_page_that_closes_for_the_run(
    form: Form,
) -> None:
    desk = Desk()
    with desk.alone():
        session = desk.begin(rows_of(form))
        session.wait(0.2)
        assert session.going
        assert session.watches[0].state == "waiting"
        assert 'data-state="waiting"' in stage(session)
    desk.close()
    session.wait(PATIENCE_S)
    assert session.watches[-1].state == "stopped"


@pytest.mark.parametrize(
    ("states", "going", "stopped", "said"),
    [
        (("waiting", "waiting"), True, False, "waiting"),
        (("loading", "waiting"), True, False, "loading"),
        (("done", "waiting"), True, False, "waiting"),  # between two runs
        (("done", "running"), True, False, "running"),
        (("done", "running"), True, True, "stopping"),
        (("waiting", "waiting"), True, True, "stopping"),
        (("done", "stopped"), False, True, "stopped"),
        (("done", "done"), True, False, "done"),
        (("done", "done"), False, True, "done"),  # stopped too late
        (("failed", "waiting"), True, False, "failed"),
    ],
)
def test_runs_have_one_state(
    form: Form,
    monkeypatch: pytest.MonkeyPatch,
    states: tuple[State, ...],
    going: bool,
    stopped: bool,
    said: str,
) -> None:
    session = Session(rows_of(form), Lock())
    for watch, state in zip(session.watches, states, strict=True):
        watch.state = state
    if stopped:
        session.stop()
    monkeypatch.setattr(Session, "going", property(lambda self: going))
    assert f'data-state="{said}"' in stage(session)


def test_an_inversion_that_is_done_keeps_its_curve_of_the_loss(form: Form) -> None:
    more = "--device cpu --deepinversion.iterations 3"
    inverted = Form(**{**vars(form), "way": INVERSION, "more": more})
    desk = Desk()
    once, again = (carried_out(desk, inverted) for _ in range(2))
    assert once.done
    assert "Loss by step" in stage(once)
    shown = [stage(session).split("<details")[0] for session in (once, again)]
    assert shown[0] == shown[1]


def test_images_that_were_deleted_meanwhile_are_shown_no_longer(form: Form, tmp_path: Path) -> None:
    row = rows_of(form)[0]
    known, watch = Watch(row, tmp_path / "none"), Watch(row, tmp_path / "none")
    known.shots = {KEYS[0]: Shot("data:,", made=True), KEYS[1]: Shot("data:,")}
    watch.follow(known)
    assert [*watch.shots] == KEYS[:1]
    watch(Started(IMAGES, 4, 0))
    assert watch.shots == {}


def test_a_page_that_looks_while_a_resumed_run_reads_its_images_shows_them_all(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = carried_out(Desk(), form)
    resumed = Session([], Lock())
    resumed.watches = [Watch(one.row, one.folder) for one in done.watches]
    for watch, earlier in zip(resumed.watches, done.watches, strict=True):
        watch.follow(earlier)
    pages = [stage(resumed)]

    def read(png: bytes) -> str:
        pages.append(stage(resumed))
        return data_uri(png)

    monkeypatch.setattr("engine.apps.studio.watch.data_uri", read)
    resumed.watches[0](Started(IMAGES, 4, 2))
    counts = [page.count('class="tile made"') for page in pages]
    assert len(counts) > 2
    assert {*counts} == {sum(len(watch.shots) for watch in done.watches)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_ours_ends_a_run_with_a_sentence(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, call: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("engine.apps.cli.commands.generate.Generate.run", broken)
    session = carried_out(Desk(), form)
    assert [watch.state for watch in session.watches] == ["failed", "stopped"]
    assert session.watches[0].error == UNEXPECTED


def test_labels_are_text_and_no_markup() -> None:
    watch = Watch(rows_of(Form(classifier="x", out="o", way="DAG"))[0], Path("o"))
    watch(ImageMade(0, 0, "<script>alert(1)</script>", 0.5, 1.0))
    watch.note("<b>bold</b>")
    session = Session([], Lock())
    session.watches = [watch]
    html = stage(session)
    assert "<script>" not in html
    assert "<b>bold" not in html
    assert "&lt;script&gt;" in html
