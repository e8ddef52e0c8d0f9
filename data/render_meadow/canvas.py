"""What meadow's scenes are painted with: noise, curves, light, camera, a `Sprite` for each thing.

World axes: x to the right, y up, z away from the viewer, in metres. Colours are RGB floats in 0..1.
"""
from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 256           # side of the finished picture, pixels
SUPER = 3            # drawn this many times larger, then shrunk
BIG = SIZE * SUPER
FOCAL = 1.2 * BIG    # pixels of the large picture
VOID = 255
VOID_COLOR = (224, 224, 192)

BACKGROUND, HORSE, SHEEP, PERSON, TREE, BARN, TRACTOR, FENCE = range(8)
# Chosen by a search for eight colours (and void) that stay apart under the three kinds of colour
# blindness.
CLASSES = {"background": (52, 54, 62), "horse": (214, 119, 12), "sheep": (136, 233, 255),
           "person": (255, 199, 6), "tree": (13, 157, 112), "barn": (169, 12, 15),
           "tractor": (2, 68, 194), "fence": (186, 103, 172)}


def rgb(*values):
    return np.array(values, np.float32) / 255


def pick(rng, options):
    """One element of a list or tuple (rng.choice would turn the elements into arrays)."""
    return options[rng.integers(len(options))]


def vary(rng, color, amount=0.05):
    """A colour a little lighter or darker and a little off in hue."""
    return np.clip(np.asarray(color) * rng.uniform(1 - 2 * amount, 1 + 2 * amount)
                   + rng.normal(0, amount / 3, 3) * np.mean(color) * 1.6, 0, 1).astype(np.float32)


def mix(a, b, t):
    return np.asarray(a) * (1 - t) + np.asarray(b) * t


def fractal_noise(rng, power, n=512):
    """Tileable noise (n, n) of mean 0 and deviation 1: its spectrum falls as frequency**-power."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n)))
    spectrum = np.fft.fft2(rng.normal(size=(n, n))) / np.maximum(frequency, 1 / n) ** power
    spectrum[0, 0] = 0
    noise = np.fft.ifft2(spectrum).real
    return (noise / noise.std()).astype(np.float32)


FINE, ROUGH, SOFT = (fractal_noise(np.random.default_rng(i), power)
                     for i, power in enumerate((0.5, 1.1, 1.7)))


def look_up(noise, u, v):
    """Noise at texel coordinates u, v (arrays of one shape), tiled without end."""
    n = np.float32(len(noise))
    u, v = u.astype(np.float32), v.astype(np.float32)
    u, v = u - n * np.floor(u / n), v - n * np.floor(v / n)     # faster than np.mod
    return cv2.remap(noise, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def spline(points, steps=8):
    """Catmull-Rom curve through the rows of `points` (N, K): x, y, and whatever comes after."""
    p = np.asarray(points, np.float64)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = [0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t ** 2
                    + (3 * b - a - 3 * c + d) * t ** 3)
             for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:])]
    return np.vstack(parts + [p[-2:-1]])


def limb(start, angles, lengths):
    """Joints of a limb: each bone's angle is in degrees from straight down, positive forwards."""
    bones = [(np.sin(np.radians(a)) * n, -np.cos(np.radians(a)) * n)
             for a, n in zip(angles, lengths)]
    return np.vstack([start, start + np.cumsum(bones, axis=0)])


@dataclass
class Mood:
    """Season, weather and light of one scene."""
    season: str
    weather: str
    sun: np.ndarray          # unit vector towards the sun: right, up, towards the viewer
    sun_color: np.ndarray
    sky_light: np.ndarray    # light from everywhere
    zenith: np.ndarray
    horizon: np.ndarray
    grass: np.ndarray
    haze: float              # per metre
    clouds: float
    snow: float              # 0..1

    def light(self, normal):
        """Light (..., 3) that falls on surfaces with unit normals (..., 3)."""
        direct = np.maximum(normal @ self.sun.astype(np.float32), 0)[..., None]
        from_sky = (0.75 + 0.25 * normal[..., 1:2])
        return (from_sky * self.sky_light + direct * self.sun_color).astype(np.float32)


GRASS = {"spring": [(116, 150, 68), (100, 140, 66)],
         "summer": [(134, 146, 66), (110, 140, 58), (166, 156, 82)],
         "autumn": [(150, 136, 70), (128, 132, 66), (160, 128, 76)],
         "winter": [(226, 232, 240), (216, 224, 238)]}
SKY = {"clear": ((70, 128, 200), (190, 216, 236)), "cloudy": ((92, 146, 206), (204, 220, 232)),
       "overcast": ((150, 160, 172), (206, 210, 212)), "fog": (((196, 202, 206)), (214, 217, 218)),
       "dusk": ((92, 104, 158), (250, 186, 128))}


def make_mood(rng):
    season = pick(rng, ["spring", "summer", "autumn", "winter"])
    weather = rng.choice(["clear", "cloudy", "overcast", "fog", "dusk"],
                         p=[0.27, 0.33, 0.15, 0.08, 0.17])
    high = rng.uniform(28, 60) if weather != "dusk" else rng.uniform(14, 26)
    turn = rng.uniform(35, 70) * rng.choice([-1, 1])
    up, around = np.radians(high), np.radians(turn)
    sun = np.array([np.cos(up) * np.sin(around), np.sin(up), np.cos(up) * np.cos(around)])
    strength, sky = {"clear": (0.82, 0.42), "cloudy": (0.72, 0.48), "overcast": (0.26, 0.78),
                     "fog": (0.16, 0.80), "dusk": (0.78, 0.36)}[weather]
    warm = rgb(255, 190, 128) if weather == "dusk" else rgb(255, 246, 226)
    zenith, horizon = (vary(rng, rgb(*c), 0.04) for c in SKY[weather])
    if weather == "dusk" and rng.random() < 0.4:
        zenith, horizon = rgb(120, 104, 160), rgb(250, 170, 160)
    grass = vary(rng, rgb(*pick(rng, GRASS[season])), 0.05)
    haze = {"fog": rng.uniform(0.03, 0.055), "dusk": 0.008}.get(weather, 0.006)
    clouds = {"clear": 0.12, "cloudy": 0.55, "overcast": 0.9, "fog": 0.0, "dusk": 0.4}[weather]
    sky_light = sky * mix(rgb(226, 236, 255), warm, 0.25)
    return Mood(season, str(weather), sun, strength * warm, sky_light, zenith, horizon,
                grass, haze, clouds,
                snow=float(season == "winter"))


@dataclass
class Camera:
    horizon: float    # row of the large picture
    height: float     # of the eye, metres

    def project(self, points):
        """World points (N, 3) to pixels (N, 2) of the large picture."""
        x, y, z = np.asarray(points, np.float64).T
        scale = FOCAL / np.maximum(z, 0.3)
        return np.stack([BIG / 2 + x * scale, self.horizon + (self.height - y) * scale], axis=1)

    def depth(self, scale):
        """Distance at which a metre measures `scale` pixels of the finished picture."""
        return FOCAL / (scale * SUPER)


@dataclass
class Spot:
    """A place on the ground, and the light and camera there."""
    x: float
    z: float
    camera: Camera
    mood: Mood

    @property
    def scale(self):
        return FOCAL / self.z    # pixels of the large picture per metre


class Sprite:
    """One thing, drawn part by part in metres: x right, y up, origin on the ground at `spot`.

    `box` = (left, right, top) in metres bounds what can be drawn. `rgb` (h, w, 3) float32 is the
    picture, `ids` (h, w) uint8 the classes with 255 = empty. With flip = -1 the thing is mirrored,
    the light is not. The x that is drawn at the spot is `centre`.
    """

    def __init__(self, spot, box, cls, flip=1, centre=0.0):
        left, right, top = (box[0] - centre, box[1] - centre, box[2])
        left, right = (left, right) if flip == 1 else (-right, -left)
        self.centre = centre
        self.spot, self.cls, self.flip, self.scale = spot, cls, flip, spot.scale
        self.origin = np.array([left, top])
        shape = int((top + 0.35) * self.scale) + 4, int((right - left) * self.scale) + 4
        self.rgb = np.zeros((*shape, 3), np.float32)
        self.ids = np.full(shape, VOID, np.uint8)
        self.corner = np.round(spot.camera.project([[spot.x + left, top, spot.z]])[0]).astype(int)

    def pixels(self, points):
        p = (np.asarray(points, np.float64)[:, :2] - [self.centre, 0]) * [self.flip, 1]
        return (p - self.origin) * [self.scale, -self.scale]

    def window(self, pixels, margin=2.0):
        """Corner (x, y) and shape (h, w) of the part of the canvas that holds these pixels."""
        low = np.clip(np.floor(pixels.min(0) - margin), 0, self.ids.shape[::-1]).astype(int)
        high = np.clip(np.ceil(pixels.max(0) + margin), 0, self.ids.shape[::-1]).astype(int)
        return low, tuple((high - low)[::-1])

    def polygon(self, points, color, **how):
        pixels = self.pixels(points)
        corner, shape = self.window(pixels)
        mask = np.zeros(shape, np.uint8)
        if mask.size:
            cv2.fillPoly(mask, [np.round((pixels - corner) * 16).astype(np.int32)], 1,
                         cv2.LINE_8, 4)
            self.paint(mask, color, corner, **how)

    def tube(self, points, color, steps=8, **how):
        """Smooth stroke through rows of x, y, radius."""
        curve = spline(points, steps)
        corner, shape = self.window(self.pixels(curve), curve[:, 2].max() * self.scale + 2)
        if min(shape) > 0:
            self.paint(self.tube_mask(points, steps, corner, shape), color, corner, **how)

    def tube_mask(self, points, steps=8, corner=(0, 0), shape=None):
        """The stroke as a mask uint8 of `shape`, `corner` at its top left; else of the canvas."""
        mask, curve = np.zeros(shape or self.ids.shape, np.uint8), spline(points, steps)
        centre = self.pixels(curve) - corner
        radius = np.maximum(curve[:, 2] * self.scale, 0.8)
        side = np.diff(centre, axis=0)[:, ::-1] * [-1, 1]
        side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
        for a, b, ra, rb, s in zip(centre[:-1], centre[1:], radius[:-1], radius[1:], side):
            quad = np.array([a + s * ra, b + s * rb, b - s * rb, a - s * ra])
            cv2.fillConvexPoly(mask, np.round(quad * 16).astype(np.int32), 1, cv2.LINE_8, 4)
        for c, r in zip(np.round(centre * 16).astype(int), np.round(radius * 16).astype(int)):
            cv2.circle(mask, (int(c[0]), int(c[1])), int(r), 1, -1, cv2.LINE_8, 4)
        return mask

    def disc(self, x, y, radius, color, **how):
        t = np.linspace(0, 2 * np.pi, 40)
        self.polygon(np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], 1), color, **how)

    def paint(self, mask, color, corner=(0, 0), round_by=1.0, texture=0.06, dim=1.0, blend=0.0):
        """Colour `mask` as a body whose edges bend away from the viewer, or flat (round_by = 0).

        With `blend` metres the part melts into what is below it and adds no outline of its own.
        """
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0:
            return
        roi = mask[y:y + h, x:x + w]
        x, y = x + int(corner[0]), y + int(corner[1])
        shade = (self.spot.mood.light(bulge(roi, round_by)) if round_by
                 else self.flat_light()) * np.float32(dim)
        row, column = ((start + np.arange(n)) * 60 / self.scale for start, n in ((y, h), (x, w)))
        grain = ROUGH[np.ix_(row.astype(int) % len(ROUGH), column.astype(int) % len(ROUGH))]
        paint = np.asarray(color, np.float32) * shade * (1 + texture * grain[..., None])
        inside = roi > 0
        below = self.rgb[y:y + h, x:x + w]
        if blend:
            paint = mix(below, paint, 0.6 * soft_inside(roi, blend * self.scale)[..., None])
            inside = inside & (self.ids[y:y + h, x:x + w] != VOID)
        below[inside] = paint[inside]
        self.ids[y:y + h, x:x + w][inside] = self.cls

    def stain(self, mask, color, soft=0.0):
        """Recolour what is painted in `mask`, keeping its shading; `soft` metres blur its edge."""
        x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
        if w == 0:
            return
        reach = max(soft * self.scale, 0.5)
        margin = int(3 * reach)
        part = np.s_[max(y - margin, 0):y + h + margin, max(x - margin, 0):x + w + margin]
        weight = cv2.GaussianBlur(mask[part].astype(np.float32), (0, 0), reach)
        weight *= self.ids[part] != VOID
        grey = self.rgb[part].mean(axis=2)
        shading = np.clip(grey / max(float(grey[self.ids[part] != VOID].mean()), 1e-3), 0.35, 1.5)
        target = np.asarray(color, np.float32) * shading[..., None]
        self.rgb[part] += weight[..., None] * (target - self.rgb[part])

    def line(self, points, color, width):
        """Thin line of `width` metres, at least one subpixel."""
        thick = max(int(round(width * self.scale)), 1)
        line = np.round(self.pixels(points) * 16).astype(np.int32)
        for canvas, value in ((self.rgb, [float(c) for c in color]), (self.ids, self.cls)):
            cv2.polylines(canvas, [line], False, value, thick, cv2.LINE_8, 4)

    def dabs(self, rng, clumps, color, count, length, spread=0.12, solid=0.85, contrast=1.0,
             shade=0.62):
        """Leaves or wool: short strokes on round clumps (rows of x, y, radius), lit ones last."""
        clumps, mood = np.asarray(clumps, np.float64), self.spot.mood
        middle = clumps[:, :2].mean(0)
        extent = np.abs(clumps[:, :2] - middle).max(0) + clumps[:, 2].max()
        for x, y, r in clumps:
            self.disc(x, y, r * solid, np.asarray(color) * shade, round_by=0, texture=0.12)
        which = rng.choice(len(clumps), count, p=clumps[:, 2] ** 2 / (clumps[:, 2] ** 2).sum())
        angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
        offset = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None]
        place = clumps[which, :2] + offset * clumps[which, 2:]
        facing = 0.55 * offset + 0.6 * (place - middle) / extent
        normal = np.column_stack([facing * [self.flip, 1],
                                  np.sqrt(np.maximum(1 - (facing ** 2).sum(1), 0.15))])
        light = mood.light(normal / np.linalg.norm(normal, axis=1, keepdims=True))
        light = mix(light.mean(0), light, contrast) * rng.normal(1, spread, (count, 1))
        order = np.argsort(light.sum(1) + rng.normal(0, 0.12, count))
        ends = rng.normal(0, length, (count, 2))
        thick = max(int(round(length * 0.9 * self.scale)), 1)
        self.strokes((place - ends / 2)[order], (place + ends / 2)[order],
                     (color * light)[order], thick)

    def strokes(self, starts, ends, colors, thick):
        """Many short straight lines, in order; `thick` in pixels."""
        rows = zip(self.pixels(starts).round().astype(int).tolist(),
                   self.pixels(ends).round().astype(int).tolist(),
                   np.asarray(colors, np.float64).tolist())
        for a, b, color in rows:
            cv2.line(self.rgb, a, b, color, thick)
            cv2.line(self.ids, a, b, self.cls, thick)

    def solid_face(self, corners, color, normal):
        """Flat face in space: corners (N, 3) in metres relative to the spot, lit by its normal."""
        shade = self.spot.mood.light(np.asarray(normal, np.float32))
        self.polygon(self.seen(corners), np.asarray(color) * shade / self.flat_light(), round_by=0,
                     texture=0.05)

    def flat_light(self):
        return self.spot.mood.light(np.array([0, 0, 1], np.float32))

    def seen(self, corners):
        """Points in space (N, 3), relative to the spot, in this sprite's metres, in perspective."""
        p = np.asarray(corners, np.float64) + [self.spot.x, 0, self.spot.z]
        base = self.spot.camera.project([[self.spot.x, 0, self.spot.z]])[0]
        return (self.spot.camera.project(p) - base) / [self.scale, -self.scale]


def soft_inside(mask, reach):
    """0 at the border of a mask, rising to 1 at `reach` pixels from it."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.clip(cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
                   / max(reach, 1.0), 0, 1)


def bulge(mask, round_by):
    """Unit normals (h, w, 3) of a body inflated from its outline; round_by scales the height."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    radius = max(float(inside.max()), 1.0)
    height = (radius
              * np.sqrt(np.maximum(1 - (1 - np.minimum(inside / radius, 1)) ** 2, 0)) * round_by)
    height = cv2.GaussianBlur(height, (0, 0), 0.8 + 0.12 * radius)
    normal = np.ones((*mask.shape, 3), np.float32)
    normal[..., 0] = -cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)[1:-1, 1:-1]
    normal[..., 1] = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)[1:-1, 1:-1]
    return normal / np.linalg.norm(normal, axis=2, keepdims=True)
