"""A whole toy photo: skin with texture and light, a lesion, ink markers, a ruler, a cloth, and its mask."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from cgddi.core.colour import lab_to_rgb, to_uint8
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN

SIZE = 64
"""Side of a toy photo in pixels."""
ITA_CUTS = (38.0, -2.0)
"""Degrees of the typology angle (`core.colour.tone_of_angle`); skin is drawn well inside these cuts."""
ITA_RANGES = {"light": (42.0, 58.0), "medium": (14.0, 34.0), "dark": (-55.0, -18.0)}
"""Degrees from which the skin of each tone is drawn."""
SKIN_A_RANGES = {"light": (6.0, 12.0), "medium": (8.0, 14.0), "dark": (6.0, 12.0)}
SKIN_B_RANGES = {"light": (12.0, 18.0), "medium": (14.0, 22.0), "dark": (10.0, 17.0)}

_GRID_Y, _GRID_X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64) + 0.5
_INKS = (np.array([34.0, 26.0, -42.0]), np.array([28.0, 10.0, -34.0]), np.array([24.0, 2.0, -8.0]))
_CLOTHS = (
    np.array([52.0, -18.0, -20.0]),
    np.array([58.0, -26.0, 6.0]),
    np.array([84.0, 0.0, 2.0]),
    np.array([24.0, 1.0, -4.0]),
)
RULER_DEPTH = 11


@dataclass(frozen=True)
class Photo:
    """A photo: (64, 64, 3) uint8 sRGB, its (64, 64) int32 mask, and what it shows."""

    image: np.ndarray
    mask: np.ndarray
    tone: str
    marker: bool
    ruler: bool
    cloth: bool


def smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """A (64, 64) random field of zero mean and unit deviation, smooth over ``sigma`` pixels."""
    field = gaussian_filter(rng.standard_normal((SIZE, SIZE)), sigma, mode="reflect")
    return (field - field.mean()) / (field.std() + 1e-9)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def _outline(rng: np.random.Generator, angle: np.ndarray, lesion: Mapping[str, float]) -> np.ndarray:
    """Relative radius of the outline at each angle: lobes, teeth and a lopsided bulge around 1."""
    relative = np.ones_like(angle)
    for order in range(2, 6):
        amplitude = lesion["irregularity"] * rng.normal(0.0, 1.0) / (order - 0.5) ** 0.7
        relative += amplitude * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    for order in range(7, 13):
        relative += lesion["jaggedness"] * rng.normal(0.0, 0.35) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    bulge = np.exp(2.5 * (np.cos(angle - rng.uniform(0, 2 * np.pi)) - 1.0))
    relative += 0.6 * lesion["asymmetry"] * (bulge - bulge.mean())
    return np.clip(relative, 0.35, 1.9)


def lesion_extent(lesion: Mapping[str, float]) -> float:
    """Distance in pixels from the centre within which the lesion's body almost surely stays."""
    spread = 1.0 + 1.3 * lesion["irregularity"] + 0.45 * lesion["asymmetry"] + lesion["jaggedness"]
    return lesion["radius"] * np.sqrt(lesion["aspect"]) * spread + lesion["softness"]


def render_lesion(
    rng: np.random.Generator, lesion: Mapping[str, float], skin: np.ndarray, centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a lesion at ``centre`` (x, y in pixels) over a (64, 64, 3) CIELAB skin.

    Returns the painted CIELAB image (64, 64, 3) and the coverage (64, 64) in [0, 1]; the lesion's mask
    is where the coverage passes one half.
    """
    dx, dy = _GRID_X - centre[0], _GRID_Y - centre[1]
    turn = rng.uniform(0, np.pi)
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    stretch = np.sqrt(lesion["aspect"])
    along, across = along / stretch, across * stretch
    distance, angle = np.hypot(along, across), np.arctan2(across, along)
    outline = lesion["radius"] * _outline(rng, angle, lesion)
    depth = distance / outline  # 0 in the middle, 1 on the outline
    coverage = _sigmoid((outline - distance) / (0.45 * lesion["softness"]))

    for _ in range(round(lesion["satellites"])):
        away = rng.uniform(0, 2 * np.pi)
        reach = lesion["radius"] * rng.uniform(1.35, 1.9)
        radius = lesion["satellite_radius"] * rng.uniform(0.7, 1.3)
        gap = np.hypot(dx - reach * np.cos(away), dy - reach * np.sin(away))
        coverage = np.maximum(coverage, _sigmoid((radius - gap) / 0.45))

    offset = np.empty((SIZE, SIZE, 3))
    offset[...] = lesion["lightness"], lesion["redness"], lesion["yellowness"]
    # Blotches of a second colour, pulled to one side by asymmetry.
    if lesion["blotches"] > 0.01:
        side = lesion["asymmetry"] * (dx * np.cos(turn) + dy * np.sin(turn)) / lesion["radius"]
        field = smooth_noise(rng, 0.22 * lesion["radius"]) + 0.8 * side
        threshold = np.quantile(field[coverage > 0.5], 1.0 - lesion["blotches"]) if (coverage > 0.5).any() else 0.0
        blotch = _sigmoid((field - threshold) * 5.0)[..., None]
        offset += blotch * np.array([lesion["blotch_lightness"], lesion["blotch_redness"], lesion["blotch_yellowness"]])
    ring = np.exp(-(((depth - (1.0 - lesion["rim_width"] / 2)) / (lesion["rim_width"] / 2)) ** 2))
    offset[..., 0] += lesion["rim"] * ring
    core = _sigmoid((lesion["centre_radius"] - depth) * 14.0)
    offset[..., 0] += lesion["centre"] * core
    offset[..., 1] += 0.35 * np.maximum(-lesion["centre"], 0.0) * core  # a crater is raw

    for _ in range(round(lesion["dots"])):
        way, reach = rng.uniform(0, 2 * np.pi), lesion["radius"] * 0.8 * np.sqrt(rng.random())
        gap = (dx - reach * np.cos(way)) ** 2 + (dy - reach * np.sin(way)) ** 2
        offset[..., 0] += lesion["dot_lightness"] * np.exp(-gap / (2 * 0.85**2))
    if lesion["scale"] > 0.02:
        flakes = _sigmoid((smooth_noise(rng, 0.9) - 1.9 + 1.1 * lesion["scale"]) * 4.0)
        offset += flakes[..., None] * np.array([20.0, -5.0, -2.0]) * (0.35 + 0.65 * lesion["scale"])
    if lesion["vessels"] > 0.02:
        thread = np.exp(-((smooth_noise(rng, 2.2) / 0.16) ** 2)) * lesion["vessels"]
        offset += thread[..., None] * np.array([-9.0, 15.0, 3.0])
    # Relief: a dome lit from one side.
    light = rng.uniform(0, 2 * np.pi)
    dome = (dx * np.cos(light) + dy * np.sin(light)) / lesion["radius"] * np.clip(1.3 - depth, 0.0, 1.0)
    offset[..., 0] += 7.0 * lesion["relief"] * dome

    # Darkening is relative, so that a lesion on dark skin stays above black.
    painted = skin + offset
    darker = offset[..., 0] < 0
    painted[..., 0] = np.where(darker, skin[..., 0] * np.exp(offset[..., 0] / 55.0), np.minimum(painted[..., 0], 96.0))
    return skin + coverage[..., None] * (painted - skin), coverage


def draw_skin_colour(rng: np.random.Generator, tone: str) -> np.ndarray:
    """One base skin colour (3,) in CIELAB for a tone, its typology angle inside ``ITA_RANGES[tone]``."""
    angle = np.radians(rng.uniform(*ITA_RANGES[tone]))
    b = rng.uniform(*SKIN_B_RANGES[tone])
    return np.array([50.0 + b * np.tan(angle), rng.uniform(*SKIN_A_RANGES[tone]), b])


def _draw_skin(rng: np.random.Generator, tone: str) -> np.ndarray:
    """A (64, 64, 3) CIELAB field: base colour, mottling, creases, pores, hairs and uneven light."""
    lab = np.empty((SIZE, SIZE, 3))
    lab[...] = draw_skin_colour(rng, tone)
    lab[..., 0] += rng.uniform(0.4, 1.5) * smooth_noise(rng, rng.uniform(5.0, 9.0))
    lab[..., 1] += rng.uniform(0.3, 1.1) * smooth_noise(rng, rng.uniform(4.0, 8.0))
    if rng.random() < 0.5:  # creases along one direction
        turn, period = rng.uniform(0, np.pi), rng.uniform(4.0, 9.0)
        wave = np.sin(
            2 * np.pi * (np.cos(turn) * _GRID_X + np.sin(turn) * _GRID_Y) / period + 1.3 * smooth_noise(rng, 6.0)
        )
        lab[..., 0] += rng.uniform(0.3, 0.9) * wave
    lab[..., 0] += rng.uniform(0.3, 1.0) * smooth_noise(rng, 0.7)
    for _ in range(rng.integers(0, 4) if rng.random() < 0.3 else 0):  # hairs
        turn, shift, bend = rng.uniform(0, np.pi), rng.uniform(-26, 26), rng.uniform(-0.012, 0.012)
        u = np.cos(turn) * (_GRID_X - 32) + np.sin(turn) * (_GRID_Y - 32)
        v = np.cos(turn) * (_GRID_Y - 32) - np.sin(turn) * (_GRID_X - 32)
        lab[..., 0] -= 9.0 * np.exp(-(((v - shift - bend * u**2) / 0.5) ** 2)) * (np.abs(u) < rng.uniform(8, 24))
    return lab


def _light(rng: np.random.Generator) -> np.ndarray:
    """A (64, 64) lightness offset of zero median: a gradient and a fall-off to the corners."""
    turn = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(turn) * (_GRID_X - 32) + np.sin(turn) * (_GRID_Y - 32)) / 32.0
    corner = ((_GRID_X - 32) ** 2 + (_GRID_Y - 32) ** 2) / 32.0**2
    light = rng.uniform(0.0, 2.6) * ramp - rng.uniform(0.0, 1.6) * corner
    return light - np.median(light)


def _ink(rng: np.random.Generator, centre: tuple[float, float], reach: float) -> np.ndarray:
    """Coverage (64, 64) of one or two pen strokes that frame a place without crossing it."""
    cover = np.zeros((SIZE, SIZE))
    width = rng.uniform(0.8, 1.3)
    for _ in range(rng.integers(1, 3)):
        away = rng.uniform(0, 2 * np.pi)
        radius = reach + rng.uniform(2.5, 6.0)
        span = rng.uniform(0.35, 1.1)
        gap_angle = np.angle(np.exp(1j * (np.arctan2(_GRID_Y - centre[1], _GRID_X - centre[0]) - away)))
        gap = np.hypot(_GRID_X - centre[0], _GRID_Y - centre[1]) - radius
        stroke = 1.0 / (1.0 + np.exp(np.clip((np.abs(gap) - width) / 0.3, -30, 30)))
        cover = np.maximum(cover, stroke / (1.0 + np.exp(np.clip((np.abs(gap_angle) - span) * 14.0, -30, 30))))
    return cover * rng.uniform(0.75, 0.95)


def _ruler(rng: np.random.Generator, lab: np.ndarray, side: int, depth: int) -> np.ndarray:
    """Paint a ruler strip with ticks along ``side`` (bottom, left, top, right); returns its region."""
    turned = np.rot90(lab, side)  # a view: the strip is painted along the bottom
    region = np.zeros((SIZE, SIZE), bool)
    np.rot90(region, side)[SIZE - depth :] = True
    strip = turned[SIZE - depth :]
    strip[...] = np.array([rng.uniform(80, 93), 0.0, rng.uniform(-2, 5)])
    period, start = rng.uniform(3.6, 5.2), rng.uniform(0, 4)
    for index in range(20):
        column = int(start + index * period)
        if column < SIZE:
            strip[: depth // 2 if index % 5 == 0 else depth // 3, column] = (22.0, 0.0, 0.0)
    return region


def _cloth(rng: np.random.Generator, lab: np.ndarray, side: int, depth: float) -> np.ndarray:
    """Paint a drape behind a curved edge on ``side`` (bottom, left, top, right); returns its region."""
    turn = (side + 1) * np.pi / 2 + rng.uniform(-0.35, 0.35)
    u = np.cos(turn) * (_GRID_X - 32) + np.sin(turn) * (_GRID_Y - 32)
    v = np.cos(turn) * (_GRID_Y - 32) - np.sin(turn) * (_GRID_X - 32)
    over = u - (32.0 - depth) - rng.uniform(-0.006, 0.006) * v**2
    cover = 1.0 / (1.0 + np.exp(np.clip(-over / 0.5, -30, 30)))
    colour = _CLOTHS[rng.integers(len(_CLOTHS))] + rng.uniform(-4, 4, 3) * (1.0, 0.5, 0.5)
    drape = np.empty_like(lab)
    drape[...] = colour
    drape[..., 0] += 3.0 * np.sin(v / rng.uniform(2.0, 4.0)) + 1.5 * smooth_noise(rng, 2.0)
    lab += cover[..., None] * (drape - lab)
    return cover > 0.5


def render_photo(
    rng: np.random.Generator,
    tone: str,
    lesion: Mapping[str, float] | None,
    *,
    marker: bool = False,
    ruler: bool = False,
    cloth: bool = False,
) -> Photo:
    """Render one photo of a skin tone, healthy where ``lesion`` is None.

    A marker frames the lesion (or, on healthy skin, an empty place); ruler and cloth take an edge each
    and never cover the lesion's centre.  Deterministic in ``rng``'s state.
    """
    lab = _draw_skin(rng, tone)
    sides = rng.permutation(4)
    depth_ruler = int(rng.integers(8, RULER_DEPTH + 1))
    depth_cloth = rng.uniform(6.0, 14.0)
    reach = lesion_extent(lesion) if lesion is not None else rng.uniform(5, 12)
    taken = [0.0, 0.0, 0.0, 0.0]  # by side: bottom, left, top, right
    if ruler:
        taken[sides[0]] = depth_ruler
    if cloth:
        taken[sides[1]] = depth_cloth + 3
    room = min(reach + 1.0, 20.0)
    low_x, high_x = taken[1] + room, SIZE - taken[3] - room
    low_y, high_y = taken[2] + room, SIZE - taken[0] - room
    middle = ((low_x + high_x) / 2, (low_y + high_y) / 2)
    centre = (
        middle[0] + max(high_x - low_x, 0.0) / 2 * rng.uniform(-0.8, 0.8),
        middle[1] + max(high_y - low_y, 0.0) / 2 * rng.uniform(-0.8, 0.8),
    )
    mask = np.full((SIZE, SIZE), SKIN, np.int32)
    if lesion is not None:
        lab, cover = render_lesion(rng, lesion, lab, centre)
        mask[cover > 0.5] = LESION
    if marker:
        ink = _ink(rng, centre, reach)
        colour = _INKS[rng.integers(len(_INKS))] + rng.uniform(-3, 3, 3)
        lab += ink[..., None] * (colour - lab)
        mask[ink > 0.4] = MARKER
    lab[..., 0] += _light(rng)
    if cloth:
        mask[_cloth(rng, lab, int(sides[1]), depth_cloth)] = BACKGROUND
    if ruler:
        mask[_ruler(rng, lab, int(sides[0]), depth_ruler)] = RULER
    rgb = lab_to_rgb(lab)
    rgb = gaussian_filter(rgb, (sigma := rng.uniform(0.15, 0.55), sigma, 0.0), mode="nearest")
    rgb += rng.normal(0.0, rng.uniform(0.002, 0.010), rgb.shape)
    return Photo(to_uint8(rgb), mask, tone, marker=bool((mask == MARKER).any()), ruler=ruler, cloth=cloth)
