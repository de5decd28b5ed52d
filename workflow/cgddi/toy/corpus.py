"""The generic pretraining corpus: captioned photos sampled broadly over lesion space, never from a toy disease's box."""

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cgddi.core.images import LESION, TONES
from cgddi.toy.diseases import EXCLUDED_BOXES, sample_broad
from cgddi.toy.scene import SIZE, Photo, render_photo

HEALTHY_SHARE = 0.25
CLUTTER_SHARE = 0.15
"""Chance of each of marker, ruler and cloth in a photo."""
_CHUNK = 256

HEALTHY_PROMPT = "A close-up clinical photograph of healthy, smooth, normal human skin"
NEGATIVE_PROMPT = "Bad anatomy, deformed, lesion, ugly, disfigured, illness, hole, transparent, eye"
WITH_RULER = " with a ruler"
WITH_MARKER = " deliniated with marker"  # spelt as the published prompts spell it
WITH_CLOTH = " beside a cloth"
ON_SKIN = "An image of {what} on the skin of a {tone}-skinned individual"
ON_TONED = "An image of {what} on a {tone}-toned individual"
HEALTHY_ON = "An image of healthy skin on a {tone}-skinned individual"

COLOUR_WORDS = [
    "black",
    "dark",
    "brown",
    "tan",
    "red",
    "pink",
    "purple",
    "blue",
    "grey",
    "yellow",
    "orange",
    "pale",
    "white",
]
SHAPE_WORDS = ["small", "large", "round", "oval", "irregular", "jagged", "lopsided", "smooth", "blurred", "sharp"]
STRUCTURE_WORDS = ["satellites", "blotches", "rim", "crater", "dome", "dots", "scales", "vessels", "pale", "dark"]
OTHER_WORDS = (
    "lesion skin image photo close-up clinical photograph of on the a an and with in disease mole spot plaque papule "
    "patch nodule tumor malignant benign light medium dark skinned toned individual patient person human healthy "
    "smooth normal ruler marker deliniated cloth beside bad anatomy deformed ugly disfigured illness hole "
    "transparent eye skin- , . - ( )"
)


def vocabulary() -> list[str]:
    """Every lower-case word and sign that captions and the project's prompts use, each once, sorted."""
    signs = {",", ".", "-"}
    words = {*COLOUR_WORDS, *SHAPE_WORDS, *STRUCTURE_WORDS}
    for text in (HEALTHY_PROMPT, NEGATIVE_PROMPT, WITH_RULER, WITH_MARKER, WITH_CLOTH, ON_SKIN, ON_TONED, OTHER_WORDS):
        for sign in ",.-(){}":
            text = text.replace(sign, " ")
        words.update(text.lower().split())
    return sorted((words - {"what", "tone"}) | signs)


def colour_word(lesion: Mapping[str, float]) -> str:
    """A colour word or two for a lesion's body, from its CIELAB offset to the skin."""
    lightness, red, yellow = lesion["lightness"], lesion["redness"], lesion["yellowness"]
    if yellow < -9.0:
        hue = "purple" if red > 9.0 else "blue" if lightness < 0 else "grey"
    elif red > 9.0:
        hue = "orange" if yellow > 7.0 else "red" if lightness < -2.0 else "pink"
    elif yellow > 7.0:
        hue = "brown" if lightness < -10.0 else "yellow"
    elif lightness < -10.0:
        hue = "black" if lightness < -28.0 and red < 4 else "brown"
    else:
        hue = "tan" if lightness < 0 else "white"
    depth = "dark " if lightness < -22.0 and hue != "black" else "pale " if lightness > 2.0 and hue != "white" else ""
    return depth + hue


def shape_words(lesion: Mapping[str, float]) -> list[str]:
    """Words for a lesion's size and outline."""
    words = []
    if lesion["radius"] < 6.5 or lesion["radius"] > 10.5:
        words.append("small" if lesion["radius"] < 8 else "large")
    if lesion["jaggedness"] > 0.07:
        words.append("jagged")
    elif lesion["irregularity"] > 0.13:
        words.append("irregular")
    elif lesion["irregularity"] < 0.10:
        words.append("oval" if lesion["aspect"] > 1.3 else "round")
    if lesion["asymmetry"] > 0.5:
        words.append("lopsided")
    if lesion["softness"] > 1.9 or lesion["softness"] < 0.8:
        words.append("blurred" if lesion["softness"] > 1.0 else "sharp")
    return words


def structure_words(lesion: Mapping[str, float]) -> list[str]:
    """Phrases for what is inside and around a lesion, those below notice left out."""
    found = []
    if lesion["satellites"] >= 1.5:
        found.append("satellites")
    if lesion["blotches"] > 0.15 and abs(lesion["blotch_lightness"]) + abs(lesion["blotch_redness"]) > 8.0:
        shade = "pale " if lesion["blotch_lightness"] > 4.0 else "dark " if lesion["blotch_lightness"] < -4.0 else ""
        found.append(f"{shade}blotches")
    if abs(lesion["rim"]) > 4.0:
        found.append("a pale rim" if lesion["rim"] > 0 else "a dark rim")
    if abs(lesion["centre"]) > 5.0:
        found.append("a pale dome" if lesion["centre"] > 0 else "a crater")
    if lesion["dots"] >= 2.5 and abs(lesion["dot_lightness"]) > 7.0:
        found.append("pale dots" if lesion["dot_lightness"] > 0 else "dark dots")
    if lesion["scale"] > 0.3:
        found.append("scales")
    if lesion["vessels"] > 0.35:
        found.append("vessels")
    return found


def describe(rng: np.random.Generator, lesion: Mapping[str, float]) -> str:
    """A noun phrase of a lesion; some words are left out at random, so that each word carries its own meaning."""
    if rng.random() < 0.10:
        return str(rng.choice(["lesion", "a lesion"]))
    adjectives = [word for word in (*shape_words(lesion), colour_word(lesion)) if rng.random() < 0.85]
    structures = [word for word in structure_words(lesion) if rng.random() < 0.85]
    rng.shuffle(structures)
    noun = "lesion" if rng.random() < 0.8 else str(rng.choice(["spot", "mole", "patch", "papule", "plaque", "nodule"]))
    article = "a " if rng.random() < 0.7 else ""
    return article + " ".join([*adjectives, noun]) + (" with " + " and ".join(structures) if structures else "")


def caption(rng: np.random.Generator, photo: Photo, lesion: Mapping[str, float] | None) -> str:
    """A caption of a photo in one of the project's phrasings; clutter is always named."""
    clutter = (
        (WITH_RULER if photo.ruler else "")
        + (WITH_MARKER if photo.marker else "")
        + (WITH_CLOTH if photo.cloth else "")
    )
    draw = rng.random()
    if lesion is None:
        if draw < 0.30:
            toned = f", {photo.tone}-toned" if rng.random() < 0.3 else ""
            return HEALTHY_PROMPT + toned + clutter
        form = HEALTHY_ON if draw < 0.65 else ON_SKIN if draw < 0.8 else ON_TONED
        return form.format(what="healthy skin", tone=photo.tone) + clutter
    if draw < 0.06:
        words = NEGATIVE_PROMPT.split(", ")
        rng.shuffle(words)
        return (
            ", ".join(words[: rng.integers(3, len(words) + 1)]) + clutter if draw < 0.03 else NEGATIVE_PROMPT + clutter
        )
    form = ON_SKIN if draw < 0.55 else ON_TONED
    return form.format(what=describe(rng, lesion), tone=photo.tone) + clutter


@dataclass(frozen=True)
class Corpus:
    """Images (N, 64, 64, 3) uint8, lesion masks (N, 64, 64) bool, captions and tones of length N."""

    images: np.ndarray
    lesions: np.ndarray
    captions: list[str]
    tones: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def draw_example(rng: np.random.Generator):
    """One corpus example: (photo, lesion parameters or None, caption)."""
    tone = TONES[rng.integers(len(TONES))]
    lesion = None if rng.random() < HEALTHY_SHARE else sample_broad(rng, EXCLUDED_BOXES)
    marker, ruler, cloth = rng.random(3) < CLUTTER_SHARE
    photo = render_photo(rng, tone, lesion, marker=bool(marker), ruler=bool(ruler), cloth=bool(cloth))
    return photo, lesion, caption(rng, photo, lesion)


def _draw_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    seed, chunk, count = job
    rng = np.random.default_rng([seed, chunk])
    images, masks = np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty((count, SIZE, SIZE), bool)
    texts, tones = [], []
    for index in range(count):
        photo, _, text = draw_example(rng)
        images[index], masks[index] = photo.image, photo.mask == LESION
        texts.append(text)
        tones.append(photo.tone)
    return images, masks, texts, tones


def build_corpus(count: int, seed: int, processes: int = 1) -> Corpus:
    """``count`` examples; the same whatever the number of processes (3 ms an example and process).

    Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"a corpus needs at least one photo, not {count}")
    jobs = [(seed, chunk, min(_CHUNK, count - start)) for chunk, start in enumerate(range(0, count, _CHUNK))]
    if processes > 1:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            parts = pool.map(_draw_chunk, jobs)
    else:
        parts = [_draw_chunk(job) for job in jobs]
    images, masks, texts, tones = zip(*parts, strict=True)
    return Corpus(np.concatenate(images), np.concatenate(masks), sum(texts, []), sum(tones, []))
