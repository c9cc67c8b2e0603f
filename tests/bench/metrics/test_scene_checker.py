"""Protects the checker of captions: exact on drawn scenes, steady on damaged ones, strict with wrong ones."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from bench.data.captions import Meaning, encode_all, parse
from bench.data.scenes import BACKGROUND, Scenes, Thing, render
from bench.data.shapes import LONGER, SEEN, UNSEEN, USUAL, Law, draw
from bench.metrics.scene_checker import Reading, judge, read, verdict

Drawn = tuple[np.ndarray, Scenes, list[Meaning]]
EVERYTHING = Law(99, 300, (*SEEN, *UNSEEN), (*USUAL, *LONGER))


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return scenes_of(EVERYTHING)


def scenes_of(law: Law) -> Drawn:
    scenes, meanings = draw(law)
    return render(scenes), scenes, meanings


def correct(images: np.ndarray, meanings: list[Meaning]) -> float:
    return float(judge(images, [str(meaning) for meaning in meanings])["correct scenes"].mean())


def check_exact(drawn: Drawn) -> None:
    """Every thing comes back with its words and its place to a quarter of a pixel."""
    images, scenes, meanings = drawn
    assert correct(images, meanings) >= 0.999
    for n, reading in enumerate(read(images)):
        things = scenes.things(n)
        assert {(t.shape, t.colour, t.size) for t in reading.things} == {
            (t.shape, t.colour, t.size) for t in things
        }
        assert reading.fidelity > 0.95
        for thing in things:
            near = min(np.hypot(thing.x - t.x, thing.y - t.y) for t in reading.things)
            assert near <= 0.5


def test_drawn_scenes_are_read_exactly(drawn: Drawn) -> None:
    check_exact(drawn)


@pytest.mark.campaign
def test_five_thousand_drawn_scenes_are_read_exactly() -> None:
    check_exact(scenes_of(replace(EVERYTHING, seed=100, n=5000)))


@pytest.mark.parametrize(
    ("damage", "least"),
    [("noise 16", 0.999), ("noise 25", 0.99), ("blur 0.8", 0.999), ("shift", 0.999), ("all", 0.98)],
)
def test_damage_that_leaves_the_scene_visible_does_no_harm(drawn: Drawn, damage: str, least: float) -> None:
    images, _, meanings = drawn
    assert correct(damaged(images, damage), meanings) >= least


def damaged(images: np.ndarray, damage: str) -> np.ndarray:
    """`noise SD`, `blur RADIUS`, `shift`, or all three together; in grey levels and pixels."""
    noise = np.random.default_rng(0).normal(size=images.shape)
    x = images.astype(float)
    if damage.startswith("blur") or damage == "all":
        x = ndimage.gaussian_filter(x, (0, 0, 0.8, 0.8))
    if damage.startswith("noise") or damage == "all":
        x = x + noise * float(damage.removeprefix("noise") if damage != "all" else 16)
    if damage in ("shift", "all"):
        x = x + 15
    return x.clip(0, 255).round().astype(np.uint8)


def test_a_wrong_caption_passes_only_where_it_is_true_as_well(drawn: Drawn) -> None:
    """Captions of other scenes; the exception leaves a size out, or says the very same."""
    images, scenes, meanings = drawn
    readings, passed = read(images), 0
    for shift in range(1, 21):
        for n, reading in enumerate(readings):
            other = meanings[(n + shift) % len(meanings)]
            if verdict(reading, other).correct:
                passed += 1
                things = [(t.shape, t.colour, t.size) for t in scenes.things(n)]
                assert other.count == len(things)
                for group in other.wanted():
                    assert any(
                        s == group.shape and c == group.colour and group.size in (None, z)
                        for s, c, z in things
                    )
    assert passed <= 0.02 * 20 * len(readings)


A = Thing("circle", "red", "small", 8.0, 8.0)
B = Thing("square", "blue", "large", 22.0, 10.0)


@pytest.mark.parametrize(
    ("caption", "failing"),
    [
        ("a small red circle and a large blue square", set()),
        ("a red circle left of a blue square", set()),
        ("a blue square right of a red circle", set()),
        ("a red circle right of a blue square", {"relation"}),
        ("a red circle above a blue square", {"relation"}),
        ("a blue circle and a red square", {"binding"}),
        ("a large red circle and a small blue square", {"binding"}),
        ("a red circle and a green square", {"binding", "colour"}),
        ("a small red circle and a small blue square", {"binding", "size"}),
        ("a red circle and a blue cross", {"binding", "shape", "existence"}),
        ("a red circle", {"count"}),
        ("two red circles", {"shape", "colour"}),
        ("a red circle and two blue squares", {"count", "shape", "colour", "binding"}),
    ],
)
def test_each_question_fails_for_its_own_mistake(caption: str, failing: set[str]) -> None:
    found = verdict(Reading((A, B), True, 1.0), parse(caption))
    answers = {name: answer for name, answer in vars(found).items() if name != "correct"}
    assert {name for name, answer in answers.items() if answer is False} == failing
    assert found.correct == (not failing)


def test_what_is_not_asked_has_no_answer() -> None:
    found = verdict(Reading((A,), True, 1.0), parse("a circle"))
    assert (found.colour, found.size, found.binding, found.relation) == (None,) * 4
    assert verdict(Reading((), False, 0.0), parse("")).correct is False
    assert verdict(Reading((A,), True, 1.0), parse("")).correct is True


def test_things_that_no_caption_asks_for_are_not_parsable(drawn: Drawn) -> None:
    images, scenes, _ = drawn
    single = images[np.flatnonzero(scenes.count == 1)][:20].copy()
    corner = np.s_[:, :, :6, :6]
    free = [image for image in single if (image[:, :8, :8] == BACKGROUND).all()]
    stain = np.stack(free)
    assert all(reading.parsable for reading in read(stain))
    for colour in ((255, 255, 255), (0, 0, 0)):
        stain[corner] = np.asarray(colour, np.uint8)[:, None, None]
        assert not any(reading.parsable for reading in read(stain))
    bar = np.full((1, 3, 32, 32), BACKGROUND, np.uint8)
    assert not read(bar)[0].parsable
    bar[0, :, 14:18] = np.asarray([235, 25, 25], np.uint8)[:, None, None]
    assert not read(bar)[0].parsable
    noise = np.random.default_rng(1).integers(0, 256, (20, 3, 32, 32)).astype(np.uint8)
    assert not any(reading.parsable for reading in read(noise))


def test_an_image_with_something_extra_is_not_correct(drawn: Drawn) -> None:
    """One more thing beside the one asked for is read as two."""
    images, scenes, meanings = drawn
    more = images.copy()
    here = [n for n in np.flatnonzero(scenes.count == 1) if (images[n, :, :9, :9] == BACKGROUND).all()]
    more[here, :, 1:7, 1:7] = np.asarray([235, 25, 25], np.uint8)[:, None, None]
    verdicts = judge(more[here], [str(meanings[n]) for n in here])
    assert not verdicts["correct scenes"].any()
    assert not verdicts["count"].any()
    assert verdicts["existence"].all()


def test_text_and_tokens_are_scored_alike_and_nan_means_not_asked(drawn: Drawn) -> None:
    images, _, meanings = drawn
    texts = [str(meaning) for meaning in meanings]
    one, two = judge(images, texts), judge(images, encode_all(texts))
    for name, column in one.items():
        np.testing.assert_array_equal(column, two[name])
    related = np.asarray([meaning.relation is not None for meaning in meanings])
    np.testing.assert_array_equal(np.isfinite(one["relation"]), related)


def test_reading_is_fast_enough(drawn: Drawn) -> None:
    """60 images a second of a core's own time."""
    started = time.process_time()
    read(drawn[0])
    assert len(drawn[0]) / (time.process_time() - started) > 60


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 1, 8, 8), np.uint8), np.zeros((1, 3, 32, 32), np.float32), np.zeros((3, 32, 32))]
)
def test_other_images_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 images"):
        read(pixels)


def test_captions_and_images_must_match_in_number(drawn: Drawn) -> None:
    with pytest.raises(ValueError, match="2 images need 2 captions"):
        judge(drawn[0][:2], ["a circle"])
