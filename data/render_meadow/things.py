"""What stands on the meadow: trees, barns, tractors and fences.

Each function makes a `Sprite` of a generator and a `Spot`; a fence is one sprite per panel.
"""
import numpy as np

from canvas import (BARN, BIG, FENCE, FOCAL, PERSON, Spot, Sprite, TRACTOR, TREE, limb, mix,
                    pick, rgb, spline, vary)
from figures import driver

LEAVES = {"spring": [(112, 160, 62), (134, 172, 74), (96, 148, 72)],
          "summer": [(72, 116, 52), (88, 126, 56), (64, 106, 60)],
          "autumn": [(196, 120, 40), (178, 70, 40), (206, 160, 60), (150, 120, 56)],
          "winter": [(206, 214, 224)]}
BARK = [(96, 74, 58), (112, 88, 68), (78, 66, 58)]


def tree(rng, spot):
    season = spot.mood.season
    kinds = {"spring": [round_tree, round_tree, blossom, poplar, birch, conifer],
             "summer": [round_tree, round_tree, poplar, birch, conifer],
             "autumn": [round_tree, round_tree, poplar, birch, conifer, bare_tree],
             "winter": [conifer,
                     conifer, bare_tree, bare_tree]}[season]
    return pick(rng, kinds)(rng, spot)


def trunk(s, rng, height, radius, lean=0.0, color=None):
    bark = vary(rng, rgb(*pick(rng, BARK)), 0.05) if color is None else color
    s.polygon([(-2.2 * radius, -0.03), (-1.15 * radius, 2.5 * radius),
               (1.15 * radius, 2.5 * radius),
               (2.2 * radius, -0.03),
               (0.8 * radius, 0.05), (-0.7 * radius, 0.05)], bark, texture=0.2)
    s.tube([(0, 1.6 * radius, radius * 1.15), (lean * .3, 0.3 * height, radius),
            (lean, height, radius * 0.65)], bark,
           texture=0.2)
    return bark


def round_tree(rng, spot, color=None):
    height = rng.uniform(5, 8.5)
    wide = height * rng.uniform(0.30, 0.42)
    s = Sprite(spot, (-1.5 * wide, 1.5 * wide, height * 1.1), TREE)
    low = height * rng.uniform(0.30, 0.40)
    bark = trunk(s, rng, low * 1.35, 0.04 * height, rng.uniform(-0.3, 0.3))
    middle = (low + height) / 2
    for side in (-1, 1):
        s.tube([(0, low * 0.85, 0.025 * height),
                (side * wide * .35, middle * .95, 0.012 * height)], bark)
    angle, reach = rng.uniform(0, 2 * np.pi, 13), np.sqrt(rng.uniform(0, 1, 13))
    clumps = np.stack([np.cos(angle) * reach * wide * .72,
                       middle + np.sin(angle) * reach * (height - low)
                       * .32,
                       rng.uniform(0.36, 0.52, 13) * wide], 1)
    leaf = vary(rng, rgb(*pick(rng, LEAVES[spot.mood.season])), 0.06) if color is None else color
    s.dabs(rng, clumps, leaf * 1.05, 1500, 0.022 * height, spread=0.13)
    return s


def blossom(rng, spot):
    return round_tree(rng, spot, vary(
        rng, rgb(*pick(rng, [(244, 204, 214), (246, 238, 236), (232, 170, 190)])), 0.02))


def poplar(rng, spot):
    height = rng.uniform(7, 11)
    wide = height * rng.uniform(0.10, 0.14)
    s = Sprite(spot, (-2.2 * wide, 2.2 * wide, height * 1.08), TREE)
    trunk(s, rng, height * 0.3, 0.022 * height)
    t = np.linspace(0, 1, 12)
    clumps = np.stack([rng.normal(0, 0.12 * wide, 12), height * (0.17 + 0.76 * t),
                       wide * (0.45 + 0.75 * np.sin(np.pi * (0.12 + 0.8 * t)) ** 0.8)], 1)
    s.dabs(rng, clumps, vary(rng, rgb(*pick(rng, LEAVES[spot.mood.season])), 0.06), 1100,
           0.016 * height)
    return s


def birch(rng, spot):
    height = rng.uniform(5.5, 8)
    s = Sprite(spot, (-0.42 * height, 0.42 * height, height * 1.08), TREE)
    lean = rng.uniform(-0.4, 0.4)
    trunk(s, rng, height * 0.85, 0.017 * height, lean, rgb(226, 222, 214))
    for y in rng.uniform(0.05, 0.6, 9) * height:
        x = lean * y / height
        s.line([(x - 0.02 * height * rng.random(), y), (x + 0.006 * height, y + 0.01)],
               rgb(60, 54, 52) * s.flat_light(), 0.06)
    leaf = vary(rng, rgb(*pick(rng, LEAVES[spot.mood.season])), 0.06) * 1.08
    clumps = np.stack([lean + rng.normal(0, 0.10, 15) * height,
                       rng.uniform(0.42, 0.97, 15) * height,
                       rng.uniform(0.07, 0.13, 15) * height], 1)
    s.dabs(rng, clumps, leaf, 900, 0.015 * height, spread=0.12, solid=0.75)
    return s


def conifer(rng, spot):
    height = rng.uniform(5.5, 10)
    wide, tiers = height * rng.uniform(0.19, 0.26), int(rng.integers(6, 10))
    s = Sprite(spot, (-1.4 * wide, 1.4 * wide, height * 1.06), TREE)
    trunk(s, rng, height * 0.3, 0.022 * height)
    needles = vary(rng, rgb(*pick(rng, [(54, 88, 58), (48, 80, 66), (66, 94, 56)])), 0.06)
    for k in range(tiers):
        low, top = (height * (0.10 + 0.86 * k / tiers),
                    height * min(0.10 + 0.86 * (k + 1.9) / tiers, 1.0))
        reach = wide * (1 - k / tiers) ** 0.85 + 0.02 * height
        count = int(70 + 160 * (1 - k / tiers))
        s.polygon([(-reach * .9, low), (-reach * .45, low - .02 * height), (0, low - .03 * height),
                   (reach * .45, low - .02 * height), (reach * .9, low), (0, top)], needles * 0.72)
        for across, t in zip(rng.uniform(-1, 1, count), np.sort(rng.uniform(0, 1, count) ** 1.5)):
            x, y = across * reach * (1 - t), low + t * (top - low)
            normal = np.array([across * 0.8, 0.5 - 0.9 * (1 - t) * 0.5, 0.6])
            light = (s.spot.mood.light((normal / np.linalg.norm(normal)).astype(np.float32))
                     * rng.normal(1, 0.14))
            snowy = s.spot.mood.snow and t > 0.15 and rng.random() < 0.45
            shade = (rgb(232, 238, 246) if snowy else needles * 1.15) * light * (0.7 + 0.4 * t)
            s.strokes([(x, y)], [(x + across * 0.05 * height, y - 0.03 * height)], [shade],
                      max(int(0.014 * height * s.scale), 1))
    return s


def bare_tree(rng, spot):
    height = rng.uniform(5, 7.5)
    s = Sprite(spot, (-0.6 * height, 0.6 * height, height * 1.15), TREE)
    bark = vary(rng, rgb(*pick(rng, BARK)), 0.05)

    def branch(start, angle, length, radius, level):
        bend = angle + rng.normal(0, 8)
        middle, end = limb(start, (180 - angle, 180 - bend), (length / 2, length / 2))[1:]
        s.tube([(*start, radius), (*middle, radius * .85), (*end, radius * .65)], bark,
               steps=3, texture=0.15)
        if level:
            for turn in (rng.uniform(14, 44, 2 + (level > 2))
                         * np.resize([1, -1, 0.2], 2 + (level > 2))):
                branch(end, bend + turn, length * rng.uniform(0.66, 0.82), radius * 0.64, level - 1)
    root = 0.045 * height
    s.polygon([(-2.0 * root, -0.03), (-root, 3 * root), (root, 3 * root), (2.0 * root, -0.03),
               (0.8 * root, 0.05), (-0.7 * root, 0.05)], bark, texture=0.15)
    branch(np.array([0.0, 1.2 * root]), rng.normal(0, 3), height * 0.29, 0.045 * height, 4)
    return s


WALLS = [(150, 46, 38), (136, 52, 44), (122, 86, 60), (98, 74, 58), (148, 146, 140),
         (226, 222, 212),
         (200, 180, 148), (96, 120, 140), (104, 118, 88)]
ROOFS = [(72, 74, 80), (120, 70, 54), (150, 92, 66), (96, 86, 76), (130, 134, 138)]


def barn(rng, spot):
    """A barn in true perspective: faces in space, and those that look away are left out."""
    w, d, h, rise = (rng.uniform(6, 9), rng.uniform(7, 12), rng.uniform(2.6, 3.6),
                     rng.uniform(1.8, 3.0))
    yaw = np.radians(rng.uniform(18, 62) * rng.choice([-1, 1]))
    wall = vary(rng, rgb(*pick(rng, WALLS)), 0.05)
    roof = (rgb(232, 237, 244) if spot.mood.snow and rng.random() < 0.85
            else vary(rng, rgb(*pick(rng, ROOFS)), 0.05))
    trim = pick(rng, [rgb(236, 232, 222), wall * 0.6, rgb(92, 70, 54)])
    s = Sprite(spot, (-12, 12, 9.5), BARN)
    if rng.random() < 0.3:
        silo(rng, s, rng.choice([-1, 1]) * rng.uniform(0.55, 0.75) * w)
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    shape = [(-1, 0), (-0.62, 0.68), (0, 1), (0.62, 0.68),
             (1, 0)] if rng.random() < 0.45 else [(-1, 0),
            (0, 1), (1, 0)]
    profile = [(x * w / 2, h + y * rise) for x, y in shape]

    def at(x, y, z):
        return turn @ [x, y, z - d / 2]

    over = 0.35
    eaves = list(profile)
    eaves[0] = eaves[0] + np.array([-1, -0.8]) * over
    eaves[-1] = eaves[-1] + np.array([1, -0.8]) * over
    slopes = []
    for (xa, ya), (xb, yb) in zip(eaves[:-1], eaves[1:]):
        outward = turn @ (np.array([ya - yb, xb - xa, 0]) / np.hypot(xb - xa, yb - ya))
        slopes.append(((xa, ya), (xb, yb), outward, visible(spot, outward, at(xa, ya, d / 2))))
    for a, b, outward, seen in slopes:
        if not seen:     # its underside shows below the eaves
            s.solid_face([at(*a, -over), at(*b, -over), at(*b, d + over),
                          at(*a, d + over)], wall * 0.45,
                         (0, 0, 1))
    gable = [(-w / 2, 0)] + profile + [(w / 2, 0)]
    for z, facing in ((0, -1), (d, 1)):
        if visible(spot, turn @ [0, 0, facing], at(0, h, z)):
            normal = (turn @ [0, 0, facing]) * [1, 1, -1]
            s.solid_face([at(x, y, z) for x, y in gable], wall, normal)
            planks(s, [(at(x, 0, z), at(x, float(np.interp(x, *zip(*profile))), z))
                       for x in np.linspace(-w / 2, w / 2, 15)], wall, normal)
            barn_door(rng, s, lambda u, v, z=z: at(u, v, z), w, h, rise, trim, wall, normal)
    for x, facing in ((-w / 2, -1), (w / 2, 1)):
        if visible(spot, turn @ [facing, 0, 0], at(x, h, d / 2)):
            normal = (turn @ [facing, 0, 0]) * [1, 1, -1]
            s.solid_face([at(x, 0, 0), at(x, h, 0), at(x, h, d), at(x, 0, d)], wall, normal)
            planks(s, [(at(x, 0, z), at(x, h, z)) for z in np.linspace(0, d, 21)], wall, normal)
            for z in np.arange(1.2, d - 1.4, 2.6):
                s.solid_face([at(x, y, zz)
                              for y, zz in ((1.3, z), (2.1, z), (2.1, z + .9), (1.3, z + .9))],
                             trim, normal)
                s.solid_face([at(x, y, zz)
                              for y, zz in ((1.42, z + .1), (1.98, z + .1),
                                            (1.98, z + .8), (1.42, z + .8))],
                             rgb(56, 66, 80), normal)
    for a, b, outward, seen in slopes:
        if seen:
            face = outward * [1, 1, -1]
            s.solid_face([at(*a, -over), at(*b, -over), at(*b, d + over),
                          at(*a, d + over)], roof, face)
            planks(s,
                   [(at(*a, z), at(*b, z)) for z in np.linspace(-over, d + over, 26)], roof, face)
    if visible(spot, turn @ [0, 0, -1], at(0, h, 0)):
        for a, b, _, _ in slopes:
            s.line(s.seen([at(*a, -over), at(*b, -over)]), trim * s.flat_light() * 0.9, 0.22)
    return s


def visible(spot, normal, point):
    """Does a face with this outward normal look at the camera?"""
    eye = np.array([0, spot.camera.height, 0]) - (np.asarray(point) + [spot.x, 0, spot.z])
    return float(np.dot(normal, eye)) > 0


def planks(s, lines, color, normal):
    shade = color * s.spot.mood.light(np.asarray(normal, np.float32)) * 0.82
    for a, b in lines:
        s.line(s.seen([a, b]), shade, 0.05)


def barn_door(rng, s, at, w, h, rise, trim, wall, normal):
    wide, tall = w * 0.19, h * 0.80
    color = pick(rng, [wall * 0.78, wall * 1.12, rgb(40, 34, 32)])
    light = s.spot.mood.light(np.asarray(normal, np.float32)) * 0.95
    s.solid_face([at(-wide, 0, ), at(-wide, tall), at(wide, tall), at(wide, 0)], color, normal)
    frame = [(-wide, 0), (-wide, tall), (wide, tall), (wide, 0), (wide, tall), (0, tall), (0, 0)]
    s.line(s.seen([at(u, v) for u, v in frame]), trim * light, 0.14)
    for a in (-wide, 0):
        s.line(s.seen([at(a, 0), at(a + wide, tall)]), trim * light, 0.10)
        s.line(s.seen([at(a, tall), at(a + wide, 0)]), trim * light, 0.10)
    s.solid_face([at(-.5, h + rise * .22), at(-.5, h + rise * .56), at(.5, h + rise * .56),
                  at(.5, h + rise * .22)], trim, normal)
    s.solid_face([at(-.38, h + rise * .26), at(-.38, h + rise * .52), at(.38, h + rise * .52),
                  at(.38, h + rise * .26)], rgb(44, 42, 48), normal)


def silo(rng, s, x):
    tall, color = (rng.uniform(6.5, 8),
                   rgb(*pick(rng, [(176, 178, 180), (150, 146, 138), (120, 132, 142)])))
    s.polygon([(x - 1.3, 0.9), (x - 1.3, tall), (x + 1.3, tall), (x + 1.3, 0.9)],
              color, round_by=1.4)
    t = np.linspace(0, np.pi, 16)
    s.polygon(np.stack([x + 1.36 * np.cos(t), tall + 1.0 * np.sin(t)], 1), color * 0.8)
    for y in np.arange(1.2, tall, 0.9):
        s.line([(x - 1.3, y), (x + 1.3, y)], color * 0.62 * s.flat_light(), 0.05)


PAINTS = [(178, 38, 34), (58, 122, 52), (44, 92, 160), (214, 110, 34), (206, 168, 50),
          (96, 104, 110),
          (70, 140, 120)]


def tractor(rng, spot):
    """A tractor from the side, with a cabin or with seat and driver, perhaps a trailer of hay."""
    flip, color = int(rng.choice([-1, 1])), vary(rng, rgb(*pick(rng, PAINTS)), 0.05)
    rims = rgb(*pick(rng, [(222, 190, 60), (220, 216, 206), (178, 40, 34), (130, 130, 130)]))
    cabin, tow = rng.random() < 0.65, rng.random() < 0.35
    s = Sprite(spot, (-4.4 if tow else -0.5, 4.2, 3.2), TRACTOR, flip, 0.0 if tow else 1.8)
    if tow:
        trailer(rng, s, pick(rng, [color, rgb(120, 90, 64), rgb(150, 60, 48)]), rims)
    iron = rgb(54, 54, 58)
    for x, r in ((1.05, 0.80), (3.22, 0.50)):
        s.disc(x, r, r, iron * 0.5, round_by=0.2)
    s.polygon([(0.7, 0.65), (3.3, 0.55), (3.3, 0.95), (0.7, 1.05)], iron)
    if cabin:
        s.polygon([(0.38, 1.1), (0.52, 2.55), (1.72, 2.55), (1.92, 1.2)], color * 0.8, round_by=0.1)
        s.polygon([(0.55, 1.45), (0.64, 2.42), (1.10, 2.42), (1.10, 1.45)],
                  mix(spot.mood.horizon, rgb(60, 80, 96), 0.55), round_by=0)
        s.polygon([(1.18, 1.35), (1.18, 2.42), (1.64, 2.42), (1.78, 1.35)],
                  mix(spot.mood.horizon, rgb(60, 80, 96), 0.4), round_by=0)
        s.polygon([(0.36, 2.52), (0.42, 2.72), (1.80, 2.72), (1.90, 2.52)],
                  pick(rng, [color, rims]),
                  round_by=0.5)
    hood = spline([(1.6, 1.0), (1.62, 1.60), (2.2, 1.64), (3.3, 1.55), (3.52, 1.40), (3.55, 0.85),
                   (2.6, 0.85), (1.6, 1.0)])
    s.polygon(hood, color, round_by=0.5)
    for x in np.linspace(2.75, 3.25, 5):
        s.line([(x, 1.05), (x, 1.42)], iron * s.flat_light() * 0.7, 0.045)
    s.line([(1.75, 1.28), (2.6, 1.28)], pick(rng, [rims, color * 0.5]) * s.flat_light(), 0.07)
    s.tube([(2.35, 1.6, 0.045), (2.35, 2.30, 0.045)], iron)
    s.disc(3.52, 1.28, 0.09, rgb(244, 240, 214), round_by=0)
    if not cabin:
        s.tube([(0.75, 1.35, 0.06), (1.2, 1.35, 0.06)], iron)
        s.tube([(0.68, 1.4, 0.05), (0.62, 1.85, 0.05)], iron)
        s.line([(1.55, 1.6), (1.40, 1.95)], iron * 0.7, 0.06)
        s.cls = PERSON
        driver(rng, s)
        s.cls = TRACTOR
    arc = np.linspace(np.pi * 0.95, np.pi * 0.12, 14)
    outer = np.stack([0.95 + 0.98 * np.cos(arc), 0.85 + 0.98 * np.sin(arc)], 1)
    inner = np.stack([0.95 + 0.70 * np.cos(arc[::-1]), 0.85 + 0.70 * np.sin(arc[::-1])], 1)
    s.polygon(np.vstack([outer, inner]), color, round_by=0.5)
    wheel(s, 0.92, 0.86, rims)
    wheel(s, 3.05, 0.52, rims)
    return s


def wheel(s, x, r, rims):
    tyre = rgb(44, 43, 46)
    for a in np.linspace(0, 2 * np.pi, 26, endpoint=False):
        c, d = np.array([np.cos(a), np.sin(a)]), np.array([np.cos(a + .12), np.sin(a + .12)])
        s.line([[x, r] + c * r * 0.9, [x, r] + d * r * 1.0], tyre * s.flat_light() * 0.8,
               0.09 * r + 0.02)
    s.disc(x, r, r * 0.95, tyre, round_by=0.35)
    s.disc(x, r, r * 0.58, rims * 0.9, round_by=0.3)
    s.disc(x, r, r * 0.42, rims * 0.72, round_by=-0.3)
    s.disc(x, r, r * 0.17, rims)


def trailer(rng, s, color, rims):
    s.line([(-0.6, 0.75), (0.6, 0.7)], rgb(60, 60, 64) * s.flat_light(), 0.09)
    hay = vary(rng, rgb(206, 176, 98), 0.05)
    heap = [(x, 1.55 + 0.25 * np.cos((x + 2.25) * 0.9), 0.52) for x in np.linspace(-3.6, -0.95, 8)]
    s.dabs(rng, heap, hay, 500, 0.05, spread=0.12)
    s.polygon([(-4.1, 0.75), (-4.2, 1.45), (-0.4, 1.45), (-0.5, 0.75)], color, round_by=0.15)
    for y in (0.98, 1.22):
        s.line([(-4.1, y), (-0.5, y)], color * 0.6 * s.flat_light(), 0.05)
    for x in (-3.1, -1.5):
        wheel(s, x, 0.42, rims)


FENCE_COLORS = [(128, 98, 70), (104, 82, 64), (232, 228, 218), (232, 228, 218),
                (150, 146, 138), (90, 64, 48)]


def fence_panels(rng, camera, mood, z):
    """Panels of a fence that crosses the picture near depth `z`, each a sprite of its own."""
    kind = rng.choice(["rails", "pickets", "boards", "wire"], p=[0.17, 0.47, 0.31, 0.05])
    color, snow = vary(rng, rgb(*pick(rng, FENCE_COLORS)), 0.05), bool(mood.snow)
    slope = np.tan(np.radians(rng.uniform(-24, 24)))
    step = 1.9 if kind != "wire" else 2.6
    edge = 0.62 * BIG * z / FOCAL + 2
    left, right = ((-edge, edge) if rng.random() < 0.65
                   else (-edge, rng.uniform(-.2, .5) * edge) if rng.random() < .5
                   else (rng.uniform(-.5, .2) * edge, edge))
    for x in np.arange(left, right, step):
        depth = z + slope * x
        if depth > 2.5 and depth + slope * step > 2.5:
            yield fence_panel(rng, Spot(x, depth, camera, mood), kind, color,
                              (step, 0, slope * step), snow)


def fence_panel(rng, spot, kind, color, along, snow):
    s = Sprite(spot, (-1.0, along[0] * 1.9, 1.9), FENCE)
    along, thin = np.array(along), 3.1 / s.scale    # nothing thinner than one finished pixel

    def beam(a, b, width, dim=1.0):
        (ax, ay), (bx, by) = s.seen([a, b])
        width = max(width, thin) / 2
        side = np.array([-(by - ay), bx - ax]) / np.hypot(bx - ax, by - ay) * width
        quad = np.array([(ax, ay) + side, (bx, by) + side, (bx, by) - side, (ax, ay) - side])
        s.polygon(quad, color * dim, round_by=0.5, texture=0.12)
        if snow and abs(bx - ax) > abs(by - ay):
            s.line([(ax, ay + width), (bx, by + width)], rgb(236, 240, 246) * s.flat_light(), 0.035)

    def picket(foot, tall):
        low, shoulder, tip = s.seen([foot + [0, 0.06, 0], foot + [0, tall - 0.07, 0],
                                     foot + [0, tall, 0]])
        half = np.array([max(0.13 * np.cos(np.arctan2(along[2], along[0])), thin) / 2, 0])
        s.polygon([low - half, shoulder - half, tip, shoulder + half, low + half],
                  color, round_by=0.4,
                  texture=0.12)

    tall = 1.25
    rails = {"rails": (0.42, 0.78, 1.12), "pickets": (0.35, 0.85), "boards": (),
             "wire": (0.35, 0.70, 1.05)}[kind]
    for y in rails:
        beam([0, y, 0], along + [0, y, 0],
             {"rails": 0.15, "pickets": 0.10, "wire": 0.02}[kind], 0.92)
    if kind == "boards":
        for y in (0.24, 0.52, 0.80, 1.08):
            beam([0, y, 0], along + [0, y, 0], 0.22, rng.uniform(0.88, 1.05))
    if kind == "pickets":
        for t in np.arange(0.09, 1.0, 0.105):
            picket(along * t, 1.10 + 0.03 * rng.random())
    beam([0, -0.05, 0], [rng.normal(0, .02), tall, 0], 0.15)
    return s
