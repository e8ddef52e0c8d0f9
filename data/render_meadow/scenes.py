"""Render `meadow`, the small data set that comes with this repository.

    python data/render_meadow --out data/meadow

Every scene is drawn from a seed with numpy and OpenCV, so the masks are exact: a part of a horse is
painted into the picture and into the label map by the same call. The steps for one scene:

1. `make_mood` draws season, weather and light; `Camera` fixes horizon and eye height.
2. `paint_sky`, `paint_hills` and `paint_ground` fill the background.
3. `compose` decides what stands where, in metres; one function per kind of thing
   (in `figures` and `things`) draws it as a `Sprite`.
4. `Scene.place` puts the sprites in from far to near, with shadow and haze.
5. `Scene.finish` shrinks picture and labels to a third, adds the camera's faults, marks void.

World axes: x to the right, y up, z away from the viewer, in metres. Colours are RGB floats in 0..1.
"""
import argparse
import hashlib
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from canvas import (BACKGROUND, BIG, CLASSES, Camera, FINE, FOCAL, Mood, ROUGH, SIZE, SOFT,
                    SUPER, Spot, VOID, VOID_COLOR, look_up, make_mood, mix, pick, rgb)
from figures import horse, person, sheep
from things import barn, fence_panels, tractor, tree

JPEG_QUALITY = 86
COUNTS = {"train": 200, "val": 40, "test": 80}


@dataclass
class Scene:
    camera: Camera
    mood: Mood
    rgb: np.ndarray = field(default_factory=lambda: np.zeros((BIG, BIG, 3), np.float32))
    ids: np.ndarray = field(default_factory=lambda: np.zeros((BIG, BIG), np.uint8))
    order: np.ndarray = field(default_factory=lambda: np.zeros((BIG, BIG), np.int16))

    def place(self, rng, sprite):
        """Put a sprite in front of what is there: its shadow first, then itself through haze."""
        self.cast_shadow(sprite)
        x, y = sprite.corner
        h, w = sprite.ids.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, BIG), min(y + h, BIG)
        if x0 >= x1 or y0 >= y1:
            return
        ids = sprite.ids[y0 - y:y1 - y, x0 - x:x1 - x]
        seen, veil = ids != VOID, 1 - float(np.exp(-self.mood.haze * sprite.spot.z))
        picture = sprite.rgb[y0 - y:y1 - y, x0 - x:x1 - x][seen]
        self.rgb[y0:y1, x0:x1][seen] = mix(picture, self.mood.horizon, veil)
        self.ids[y0:y1, x0:x1][seen] = ids[seen]
        self.order[y0:y1, x0:x1][seen] = self.order.max() + 1
        if not self.mood.snow and sprite.scale > 15 * SUPER:
            self.grass_at_feet(rng, sprite)

    def cast_shadow(self, sprite):
        """Throw the outline on the ground, away from the sun, and darken the ground right below."""
        spot, mood = sprite.spot, self.mood
        base = self.camera.project([[spot.x, 0, spot.z]])[0]
        body = (sprite.ids != VOID).astype(np.float32)
        flat = self.camera.height / spot.z      # how steeply the ground is seen
        shift, away = (np.clip(-mood.sun[0] / mood.sun[1], -1.7, 1.7),
                       np.clip(mood.sun[2] / mood.sun[1], 0, 1.4))
        (x, y), (h, w) = sprite.corner, sprite.ids.shape
        for slide, tall, blur, strength in (
                (shift, away * flat, 0.05, min(mood.sun_color.mean() * 0.62, 0.5)),
                (0.0, 0.05, 0.16, 0.34)):
            # A pixel `up` above the base lands at base.x + slide * up, base.y - tall * up.
            move = np.array([[1, -slide, x + slide * (base[1] - y)],
                             [0, tall, base[1] - tall * (base[1] - y)]])
            corners = cv2.transform(np.array([[(0, 0), (w, 0), (0, h), (w, h)]],
                                             np.float64), move)[0]
            margin = int(3 * blur * sprite.scale) + 3
            x0, y0 = np.maximum(corners.min(0).astype(int) - margin, 0).tolist()
            x1, y1 = np.minimum(corners.max(0).astype(int) + margin, BIG).tolist()
            if x0 >= x1 or y0 >= y1:
                continue
            move[:, 2] -= [x0, y0]
            cast = cv2.warpAffine(body, move, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
            cast = cv2.GaussianBlur(cast, (0, 0), max(blur * sprite.scale, 1.0))
            weight = cast * (self.ids[y0:y1, x0:x1] == BACKGROUND) * np.float32(strength)
            self.rgb[y0:y1, x0:x1] *= 1 - weight[..., None] * rgb(255, 240, 205)

    def grass_at_feet(self, rng, sprite):
        """A few blades that hide the feet, so that things stand in the grass and not on it."""
        spot = sprite.spot
        base = self.camera.project([[spot.x, 0, spot.z]])[0]
        low = int(base[1] - sprite.corner[1])
        columns = np.flatnonzero((sprite.ids[max(low - int(0.08 * sprite.scale), 0):]
                                  != VOID).any(axis=0))
        if len(columns) == 0:
            return
        tall = 0.075 * sprite.scale
        for column in rng.choice(columns, min(len(columns), 120)):
            x = int(column + sprite.corner[0] + rng.normal(0, 2))
            y = int(base[1] + rng.uniform(0.01, 0.10) * sprite.scale)
            if 0 <= x < BIG and 0 <= y < BIG and self.ids[y, x] == BACKGROUND:
                color = [float(c) for c in self.rgb[y, x] * rng.uniform(0.75, 1.08)]
                end = (int(x + rng.normal(0, 0.3) * tall), int(y - tall * rng.uniform(0.5, 1.5)))
                for canvas, value in ((self.rgb, color), (self.ids, BACKGROUND), (self.order, 0)):
                    cv2.line(canvas, (x, y), end, value, 2)

    def finish(self, rng):
        """Picture uint8 (256, 256, 3) and mask uint8 (256, 256) at their final size."""
        picture = cv2.resize(self.rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        v, u = np.mgrid[-1:1:SIZE * 1j, -1:1:SIZE * 1j]
        picture *= (1 - rng.uniform(0.05, 0.16) * (u ** 2 + v ** 2))[..., None]
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.25, 0.6))
        picture = np.clip(picture * rng.uniform(0.95, 1.08), 0, None)
        # highlights roll off instead of clipping
        picture = 1 - np.log1p(np.exp((1 - picture) * 12)) / 12
        picture += rng.normal(0, rng.uniform(0.004, 0.011), picture.shape)
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
        middle = slice(SUPER // 2, None, SUPER)
        return picture, outline(self.ids[middle, middle], self.order[middle, middle])


def outline(ids, order):
    """Void on the far side of every border between classes: thin things in front stay whole."""
    mask = ids.copy()
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        move = np.float32([[1, 0, dx], [0, 1, dy]])
        other, front = (cv2.warpAffine(a, move, (SIZE, SIZE), flags=cv2.INTER_NEAREST,
                                       borderMode=cv2.BORDER_REPLICATE) for a in (ids, order))
        mask[(other != ids) & (front > order)] = VOID
    return mask


def paint_sky(rng, scene):
    mood, horizon = scene.mood, scene.camera.horizon
    v, u = np.mgrid[0:int(horizon) + 4, 0:BIG].astype(np.float32)
    up = np.clip((horizon - v) / horizon, 0, 1)[..., None]
    sky = mix(mood.horizon, mood.zenith, up ** 0.7)
    far = 60 / np.maximum(horizon - v + 40, 20)      # clouds crowd together towards the horizon
    side, push = rng.uniform(0, 512, 2)
    cloud = look_up(SOFT, (u - BIG / 2) * far * 0.35 + side,
                    far * 130 + push) + 0.25 * look_up(ROUGH,
            (u - BIG / 2) * far * 1.2 + push, far * 420)
    cover = (np.clip((cloud + 2.4 * mood.clouds - 1.1) * 0.9, 0, 1)[..., None]
             * (0.85 if mood.clouds else 0))
    lit = mix(rgb(250, 250, 250), mood.horizon, 0.75 if mood.weather == "dusk" else 0.25)
    dark = mix(rgb(178, 184, 196), mood.zenith, 0.35)
    shade = np.clip((cloud - 0.4) * 0.45, 0, 1)[..., None]
    sky = mix(sky, mix(lit, dark, shade), cover)
    if mood.weather == "dusk":
        x, y = BIG * rng.uniform(0.1, 0.9), horizon * rng.uniform(0.55, 0.95)
        sky += np.exp(-np.hypot(u - x, v - y) / 130)[..., None] * rgb(90, 60, 24)
    scene.rgb[:len(sky)] = sky


def paint_hills(rng, scene):
    """Ridges behind the meadow, bluer the farther they are, with fields on the nearest."""
    mood, horizon = scene.mood, scene.camera.horizon
    top, low = max(int(horizon) - 190, 0), int(horizon) + 4
    v, u = np.mgrid[top:low, 0:BIG].astype(np.float32)
    meadow = mood.grass * mood.light(np.array([0, 1, 0], np.float32)) * 0.8
    blue = mood.horizon * 0.85 + mood.zenith * 0.12
    for k in range(int(rng.integers(1, 4)), 0, -1):
        where, row = rng.uniform(0, 512, 2)
        wave = look_up(SOFT, u[:1] * rng.uniform(0.10, 0.30) + where, np.full_like(u[:1], row))
        ridge = horizon - (6 + 22 * k) - wave * rng.uniform(8, 20)
        color = mix(meadow, blue, 0.9 if mood.weather == "fog" else min(0.30 + 0.2 * k, 0.92))
        fields = look_up(SOFT, u * 0.5 + 90 * k, (v - ridge) * 2.2)
        hill = color * (1 + 0.08 * np.clip(fields, -1.5, 1.5)[..., None])
        scene.rgb[top:low][v > ridge] = hill[v > ridge]


def paint_ground(rng, scene):
    """The meadow in perspective: texture, path and pond are laid out in metres on the ground."""
    mood, camera = scene.mood, scene.camera
    top = int(camera.horizon) + 2
    v, u = np.mgrid[top:BIG, 0:BIG].astype(np.float32)
    z = camera.height * FOCAL / (v - camera.horizon)
    x = (u - BIG / 2) * z / FOCAL
    shift = rng.uniform(0, 512, 4)
    tone = 0.10 * look_up(SOFT, x * 5 + shift[0], z * 5 + shift[1])
    tone += 0.10 * look_up(ROUGH, x * 22 + shift[2], z * 22 + shift[3]) * np.minimum(1, 16 / z)
    tone += 0.10 * look_up(FINE, x * 90 + shift[1], z * 90 + shift[2]) * np.minimum(1, 6 / z)
    tone *= 0.35 if mood.snow else 1.0
    dry = np.clip(look_up(SOFT, x * 3 + shift[3], z * 3 + shift[0]), -1, 1.5)[..., None]
    soil = mix(mood.grass, rgb(150, 166, 190) if mood.snow else mood.grass * rgb(288, 250, 190),
               0.24 * np.maximum(dry, 0))
    ground = soil * (1 + tone[..., None])
    if rng.random() < 0.45:
        bend, drift, wide = rng.uniform(-0.5, 0.5), rng.uniform(-2.5, 2.5), rng.uniform(0.6, 1.1)
        middle = drift + bend * z + 1.6 * np.sin(z * 0.22 + shift[0])
        edge = np.abs(x - middle) + 0.22 * look_up(ROUGH, x * 40, z * 40)
        track = np.clip((wide - edge) * 4, 0, 1)[..., None]
        earth = mix(rgb(166, 138, 104), mood.grass, 0.15) if not mood.snow else rgb(186, 190, 198)
        ground = mix(ground, earth * (1 + 0.6 * tone[..., None]), track * 0.85)
    ground *= mood.light(np.array([0, 1, 0], np.float32)) * (1.22 if mood.snow else 0.97)
    if rng.random() < 0.28:
        ground = paint_pond(rng, scene, ground, x, z)
    veil = (1 - np.exp(-mood.haze * np.minimum(z, 60)))[..., None]
    scene.rgb[top:] = mix(ground, mix(mood.horizon, ground, 0.15), veil)


def paint_pond(rng, scene, ground, x, z):
    mood, (h, w) = scene.mood, x.shape
    px, pz, wide = rng.uniform(-4, 4), rng.uniform(12, 22), rng.uniform(2.5, 5)
    inside = 1 - ((x - px) / wide) ** 2 - ((z - pz)
                                           / (wide * 0.9)) ** 2 + 0.12 * look_up(ROUGH, x * 20,
            z * 20)
    sky = scene.rgb[max(int(scene.camera.horizon) - h, 0):int(scene.camera.horizon)][::-1]
    mirror = cv2.resize(sky, (w, h)) * 0.85
    mirror *= (1 + 0.05 * look_up(ROUGH, x * 6, z * 40))[..., None]
    if mood.snow:
        mirror = mix(mirror, rgb(206, 220, 232), 0.5)
    bank = np.clip((inside + 0.12) * 8, 0, 1)[..., None] * 0.4
    return mix(mix(ground, ground * 0.55, bank), mirror, np.clip(inside * 14, 0, 1)[..., None])


def paint_blades(rng, scene):
    """Grass blades and flowers: more of them, and larger, towards the viewer."""
    camera, mood = scene.camera, scene.mood
    petals = [rgb(*c) for c in [(250, 246, 236), (240, 208, 70), (200, 60, 60), (150, 110, 190)]]
    bloom = (pick(rng, petals) if mood.season in ("spring", "summer")
             and rng.random() < 0.7 else None)
    rows = camera.horizon + 14 + (BIG - camera.horizon - 14) * rng.uniform(0, 1, 2600) ** 0.8
    spread = look_up(SOFT, rng.uniform(0, 512, (1, 2600)), rng.uniform(0, 512, (1, 2600)))[0]
    for y, x, wild in zip(rows.astype(int), rng.integers(0, BIG, 2600), spread):
        scale = (y - camera.horizon) / camera.height
        y = min(y, BIG - 1)
        tall = scale * rng.uniform(0.03, 0.10) * (0.5 if mood.snow else 1)
        color = scene.rgb[y, x] * rng.uniform(0.8, 1.22) if not mood.snow else mix(scene.rgb[y, x],
                rgb(150, 130, 96), 0.5 * (wild > 1))
        cv2.line(scene.rgb, (int(x), y), (int(x + rng.normal(0, 0.35) * tall), int(y - tall)),
                 [float(c) for c in color], 1 + int(scale > 130))
        if bloom is not None and wild > 0.6:
            petal = (bloom * mood.light(np.array([0, 0.8, 0.6], np.float32))
                     * rng.uniform(0.85, 1.05))
            cv2.circle(scene.rgb, (int(x), int(y - tall)), max(int(0.022 * scale), 1),
                       [float(c) for c in petal], -1)


# What a scene holds, as (fewest, most) of each kind.
STORIES = {
    "portrait": {"horse": (1, 1), "barn": (0, 1), "fence": (0, 1), "tree": (0, 1),
                 "person": (0, 1)},
    "herd": {"horse": (2, 4), "barn": (0, 1), "tractor": (0, 1), "fence": (0, 1), "tree": (0, 2)},
    "flock": {"sheep": (3, 7), "tractor": (0, 1), "person": (0, 2), "tree": (0, 2),
              "fence": (0, 1)},
    "pasture": {"horse": (1, 1), "sheep": (2, 4), "tractor": (0, 1), "barn": (0, 1),
                "fence": (0, 1),
                "tree": (0, 1)},
    "fold": {"barn": (1, 1), "sheep": (2, 5), "person": (0, 1), "fence": (0, 1), "tree": (0, 1)},
    "farmyard": {"barn": (1, 1), "tractor": (1, 1), "person": (0, 2), "sheep": (0, 2),
                 "horse": (0, 1),
                 "fence": (0, 1)},
    "field work": {"tractor": (1, 1), "sheep": (0, 2), "person": (0, 2), "tree": (0, 2),
                   "fence": (0, 1)},
    "machine shed": {"tractor": (1, 1), "barn": (1, 1), "sheep": (0, 2), "person": (0, 1),
                     "fence": (0, 1)},
    "orchard": {"tree": (2, 4), "person": (1, 3), "sheep": (0, 3), "horse": (0, 1),
                "fence": (0, 1)},
    "ride": {"horse": (1, 2), "barn": (0, 1), "tractor": (0, 1), "fence": (0, 1), "tree": (0, 2)},
}
# Pixels of the finished picture per metre, smallest and largest.
SCALES = {"horse": (46, 76), "sheep": (66, 120), "person": (74, 122), "tree": (19, 38),
          "barn": (14, 25),
          "tractor": (34, 58), "fence": (34, 64)}
# metres
WIDTHS = {"horse": 2.2, "sheep": 1.2, "person": 0.7, "tree": 3.2, "barn": 9.0, "tractor": 4.0}
DRAW = {"horse": horse, "sheep": sheep, "person": person, "tree": tree, "barn": barn,
        "tractor": tractor}


def compose(rng, camera, mood):
    """Sprites of one scene, farthest first."""
    story = pick(rng, list(STORIES))
    sprites, taken = [], []
    for kind, (least, most) in STORIES[story].items():
        for _ in range(int(rng.integers(least, most + 1))):
            low, high = SCALES[kind]
            if story in ("portrait", "ride") and kind == "horse":
                low, high = 60, 86
            z = camera.depth(np.exp(rng.uniform(np.log(low), np.log(high))))
            if kind == "fence":
                sprites += list(fence_panels(rng, camera, mood, z))
                continue
            spot = free_spot(rng, camera, mood, kind, z, taken)
            if spot is not None:
                extra = {"rider": story == "ride" or rng.random() < 0.1} if kind == "horse" else {}
                if extra.get("rider"):
                    extra["pose"] = pick(rng, ["stand", "walk", "trot", "gallop"])
                sprites.append(DRAW[kind](rng, spot, **extra))
    return sorted(sprites, key=lambda s: -s.spot.z)


def free_spot(rng, camera, mood, kind, z, taken):
    """A place where things as far away hide at most a third of each other, or None."""
    # feet stay in the picture
    z = max(z, camera.height * FOCAL / (0.965 * BIG - camera.horizon))
    half = WIDTHS[kind] / 2 * FOCAL / z
    inset = min(0.95 * half, BIG / 2)
    for _ in range(20):
        middle = rng.uniform(inset, BIG - inset)
        hidden = [(min(middle + half, b) - max(middle - half, a)) / min(2 * half, b - a)
                  / (2.2 if max(z, other) > 1.5 * min(z, other) else 1) for a, b, other in taken]
        if max(hidden, default=0) < 0.34:
            taken.append((middle - half, middle + half, z))
            return Spot((middle - BIG / 2) * z / FOCAL, z, camera, mood)
    return None


def render_scene(seed, split, index):
    """One scene: picture uint8 (256, 256, 3) RGB, mask uint8 (256, 256) of 0..7 and 255 = void."""
    rng = np.random.default_rng([seed, list(COUNTS).index(split), index])
    mood = make_mood(rng)
    camera = Camera(BIG * rng.uniform(0.26, 0.42), rng.uniform(1.3, 1.9))
    scene = Scene(camera, mood)
    paint_sky(rng, scene)
    paint_hills(rng, scene)
    paint_ground(rng, scene)
    paint_blades(rng, scene)
    for sprite in compose(rng, camera, mood):
        scene.place(rng, sprite)
    return scene.finish(rng)


def write_scene(job):
    """Render a scene; write its photo and its palette mask. job: (folder, seed, split, index)."""
    folder, seed, split, index = job
    cv2.setNumThreads(1)     # the scenes run side by side
    picture, mask = render_scene(seed, split, index)
    stem = f"{split}_{index:03d}"
    Image.fromarray(picture).save(folder / "JPEGImages" / f"{stem}.jpg", quality=JPEG_QUALITY,
                                  optimize=True)
    image = Image.fromarray(mask, "P")
    colors = np.zeros((256, 3), np.uint8)
    colors[:len(CLASSES)], colors[VOID] = list(CLASSES.values()), VOID_COLOR
    image.putpalette(colors.tobytes())
    image.save(folder / "SegmentationClass" / f"{stem}.png", optimize=True)
    return stem


def folder_hash(folder):
    """SHA-256 over the sorted relative paths and contents of all files but SHA256 itself."""
    digest = hashlib.sha256()
    for file in sorted(f for f in Path(folder).rglob("*") if f.is_file() and f.name != "SHA256"):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def render(folder, seed=0, counts=None, workers=None):
    """Render the splits into `folder` (VOC layout), with a progress line."""
    folder, counts = Path(folder), counts or COUNTS
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    jobs = [(folder, seed, split, index) for split, count in counts.items()
            for index in range(count)]
    stems, start = [], time.perf_counter()
    # A forked child would inherit OpenCV's locks and may hang; a spawned one starts clean.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for stem in pool.map(write_scene, jobs, chunksize=2):
            stems.append(stem)
            print(f"\rscene {len(stems)}/{len(jobs)}  {time.perf_counter() - start:.0f} s", end="",
                  flush=True)
    print()
    for split in counts:
        lines = "".join(f"{stem}\n" for stem in stems if stem.startswith(f"{split}_"))
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines, newline="\n")
    lines = [f"{i} {name} {r} {g} {b}\n" for i, (name, (r, g, b)) in enumerate(CLASSES.items())]
    (folder / "classes.txt").write_text("".join(lines), newline="\n")
    (folder / "SHA256").write_text(folder_hash(folder) + "\n", newline="\n")


def main():
    parser = argparse.ArgumentParser(
        prog="python data/render_meadow",
        description="Render the meadow data set in PASCAL VOC's layout: photos, masks, "
                    "split lists, class table and hash.")
    parser.add_argument("--out", required=True, type=Path,
                        help="folder to write; files of the same name are replaced")
    parser.add_argument("--seed", type=int, default=0,
                        help="other seeds give other scenes (default: %(default)s, "
                        "the committed set)")
    for split, count in COUNTS.items():
        parser.add_argument(f"--count-{split}", type=int, default=count, metavar="N",
                            help=f"scenes in the {split} split (default: %(default)s)")
    parser.add_argument("--workers", type=int,
                        help="processes side by side (default: one per core)")
    args = parser.parse_args()
    render(args.out, args.seed,
           {split: getattr(args, f"count_{split}") for split in COUNTS}, args.workers)
    print(f"{args.out}: SHA-256 {folder_hash(args.out)}")
