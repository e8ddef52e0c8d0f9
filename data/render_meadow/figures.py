"""The living things of the meadow: horses, sheep and people, from joints and smooth strokes.

Each function makes a `Sprite` of a generator and a `Spot`; figures look to +x unless mirrored.
"""
import numpy as np

from canvas import (HORSE, PERSON, ROUGH, SHEEP, SOFT, Sprite, limb, look_up, mix, pick, rgb,
                    spline, vary)

# Legs: near fore, near hind, far fore, far hind; four bones each.
HORSE_POSES = {
    "stand": (52, -48, [(-17, 2, 0, 20), (26, -40, 0, 20), (-14, 8, 2, 22), (30, -34, 6, 22)]),
    "graze": (-40, -82,
              [(-8, 14, 10, 25), (24, -42, -4, 15), (-24, -12, -10, 10), (32, -32, 8, 22)]),
    "walk": (40, -50,
             [(0, 24, 16, 20), (8, -58, -22, -5), (-28, -18, -24, -10), (42, -24, 12, 25)]),
    "trot": (52, -46,
             [(8, 52, -38, -50), (10, -64, -30, -20), (-26, -14, -22, -10), (50, -24, 8, 10)]),
    "gallop": (32, -38,
               [(26, 58, 44, 40), (-4, -66, -50, -30), (6, 64, -30, -60), (10, -52, -58, -50)]),
}
LEG_BONES = [[0.21, 0.24, 0.19, 0.075], [0.23, 0.27, 0.24, 0.075]]     # fore, hind
LEG_RADII = np.array([[0.115, 0.080, 0.046, 0.035, 0.035],      # fore
                      [0.150, 0.098, 0.050, 0.037, 0.035]])     # hind
#          body, mane and tail, lower legs, patches or None
COATS = {"bay": ((122, 72, 40), (30, 24, 22), (36, 28, 26), None),
         "dark bay": ((78, 50, 36), (24, 20, 20), (30, 24, 22), None),
         "chestnut": ((158, 88, 46), (150, 84, 46), (150, 84, 46), None),
         "flaxen": ((150, 92, 52), (226, 200, 150), (140, 86, 50), None),
         "palomino": ((206, 164, 98), (240, 230, 206), (200, 160, 100), None),
         "buckskin": ((190, 154, 104), (40, 32, 28), (44, 36, 32), None),
         "black": ((46, 43, 46), (28, 26, 28), (40, 38, 40), None),
         "grey": ((172, 174, 178), (120, 122, 128), (110, 110, 116), (200, 202, 206)),
         "white": ((232, 228, 220), (238, 234, 226), (214, 208, 200), None),
         "piebald": ((48, 44, 46), (40, 38, 40), (232, 228, 220), (236, 232, 226)),
         "skewbald": ((140, 84, 50), (236, 226, 206), (232, 226, 214), (238, 232, 222))}


def horse(rng, spot, pose=None, coat=None, rider=False):
    """A horse, with a rider or without; pose and coat are drawn where not given.

    The joints are in units of the withers' height: x = 0 at the buttocks, about 1 at the chest.
    """
    pose = pose or rng.choice(list(HORSE_POSES), p=[0.3, 0.28, 0.2, 0.1, 0.12])
    coat = coat or pick(rng, list(COATS))
    body, hair, socks, patch = (None if c is None else vary(rng, rgb(*c), 0.05)
                                for c in COATS[coat])
    unit, flip = rng.uniform(1.4, 1.65), int(rng.choice([-1, 1]))     # metres at the withers
    neck_angle, head_angle, legs = HORSE_POSES[pose]
    legs = [np.array(leg) + rng.normal(0, 3, 4) for leg in legs]
    s = Sprite(spot, (-0.75 * unit, 1.95 * unit,
                      (1.75 if not rider else 1.6) * unit + 0.6 * rider), HORSE,
               flip, 0.6 * unit)
    hips = {0: (0.83, 0.72), 1: (0.19, 0.74), 2: (0.86, 0.71), 3: (0.24, 0.73)}
    joints = {i: limb(hips[i], legs[i], LEG_BONES[i % 2]) for i in range(4)}
    lift = -min(j[-1, 1] for j in joints.values()) + 0.035 + (0.10 if pose == "gallop" else 0)

    def up(points):
        return (np.asarray(points, np.float64) + np.array([0, lift, 0])[:len(points[0])]) * unit

    for i in (2, 3):
        s.tube(np.column_stack([up(joints[i]), LEG_RADII[i % 2] * unit]), body,
               dim=0.68, round_by=0.9)
        horse_foot(s, up(joints[i]), LEG_RADII[i % 2] * unit, socks, 0.68)
    blow = {"gallop": 0.42, "trot": 0.22}.get(pose, 0.06)
    horse_tail(rng, s, up([(0.03, 0.90), (-0.05 - 0.3 * blow, 0.86),
                           (-0.09 - 0.9 * blow, 0.62 + 0.5 * blow),
                           (-0.06 - 1.2 * blow, 0.30 + 0.9 * blow)]), unit, hair)
    neck, head, crest = horse_neck(rng, neck_angle, head_angle)
    barrel = [(0.15, 0.755, 0.185), (0.27, 0.775, 0.203), (0.45, 0.745, 0.212),
              (0.63, 0.735, 0.235),
              (0.78, 0.750, 0.222), (0.87, 0.755, 0.165)]
    trunk = s.tube_mask(up(barrel)) | s.tube_mask(up(neck))
    for i in (0, 1):
        trunk |= s.tube_mask(np.column_stack([up(joints[i]), LEG_RADII[i] * unit]))
    s.paint(trunk, body, round_by=1.15)
    s.tube(up(head), body, round_by=0.8)
    for i in (1, 0):
        muscle = np.column_stack([up(joints[i]), LEG_RADII[i] * unit])[:3]
        s.tube(muscle * [1, 1, 1.15], body, blend=0.07 * unit, round_by=0.8)
        horse_foot(s, up(joints[i]), LEG_RADII[i] * unit, socks, 1.0)
    horse_coat(rng, s, coat, patch, unit)
    horse_head(rng, s, up(head), unit, coat)
    horse_mane(rng, s, up(crest), unit, hair, blow)
    if rider:
        ride(rng, s, unit, lift)
    return s


def horse_tail(rng, s, middle, unit, hair):
    light = s.flat_light() * 0.85
    for _ in range(22):
        fan = rng.normal(0, 1, 2) * [0.030, 0.02] * unit
        strand = middle + np.array([[0.2], [0.6], [1.0], [1.1]]) * fan
        strand[-1] += rng.normal(0, 0.05, 2) * unit
        s.line(spline(strand, 6), hair * light * rng.normal(0.95, 0.13), 0.03 * unit)


def horse_foot(s, joints, radii, socks, dim):
    """Hoof, and the colour of the lower leg."""
    unit = radii[3] / 0.036
    shin = mix(joints[2], joints[3], 0.35)
    lower = s.tube_mask([(*shin, radii[3] * 1.25)]
                        + [(*j, r * 1.15) for j, r in zip(joints[3:], radii[3:])])
    s.stain(lower, np.asarray(socks) * s.flat_light() * dim * 0.85, soft=0.01)
    fetlock, toe = joints[3], joints[4]
    way = (toe - fetlock) / max(np.linalg.norm(toe - fetlock), 1e-6)
    side = np.array([-way[1], way[0]])
    top, sole = toe - way * 0.005 * unit, toe + way * 0.055 * unit
    hoof = [top - side * 0.036 * unit, top + side * 0.036 * unit, sole + side * 0.062 * unit,
            sole - side * 0.046 * unit]
    s.polygon(hoof, rgb(60, 52, 48), dim=dim, round_by=0.4)


def horse_neck(rng, neck_angle, head_angle):
    """Neck and head (x, y, radius) and crest line (x, y), in units of the withers' height."""
    a = np.radians(neck_angle + rng.normal(0, 4))
    h = np.radians(head_angle + rng.normal(0, 4))
    base = np.array([0.80, 0.80 if neck_angle > 0 else 0.77])
    poll = base + np.array([np.cos(a), np.sin(a)]) * (0.57 + 0.04 * (neck_angle < 0))
    arch = np.array([-np.sin(a), np.cos(a)])
    middle = mix(base, poll, 0.55) + arch * (0.035 if neck_angle > 0 else -0.03)
    neck = [(*base, 0.185), (*mix(base, middle, 0.55), 0.158), (*middle, 0.115), (*poll, 0.078)]
    way = np.array([np.cos(h), np.sin(h)])
    size = 0.40
    start = poll + way * 0.01
    head = [(*start, 0.075), (*(start + way * 0.28 * size + [0, -0.012]), 0.090),
            (*(start + way * 0.62 * size), 0.064),
            (*(start + way * 0.86 * size), 0.052), (*(start + way * size), 0.046)]
    curve = spline(neck, 6)
    tangent = np.gradient(curve[:, :2], axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    crest = curve[:, :2] + tangent[:, ::-1] * [-1, 1] * curve[:, 2:] * 0.9
    return neck, head, crest[3:]


def horse_coat(rng, s, coat, patch, unit):
    """Piebald patches, the dapples of a grey, a darker belly."""
    h, w = s.ids.shape
    v, u = np.mgrid[0:h, 0:w].astype(np.float32) / s.scale
    if patch is not None:
        size, level = (260, 0.9) if coat == "grey" else (58, 0.15)
        noise = look_up(ROUGH if coat == "grey" else SOFT, u * size + rng.uniform(0, 512),
                        v * size + rng.uniform(0, 512))
        s.stain((noise > level).astype(np.float32) * (0.5 if coat == "grey" else 1),
                patch * s.flat_light() * 0.86, soft=0.008)
    belly = np.clip((v - (h / s.scale - 0.35 - 0.62 * unit)) / (0.2 * unit), 0, 1)
    s.rgb *= (1 - 0.16 * belly)[..., None]


def horse_head(rng, s, head, unit, coat):
    """Ears, eye, nostril, mouth, blaze."""
    poll, cheek, nose, muzzle = head[0, :2], head[1, :2], head[3, :2], head[4, :2]
    way = (muzzle - poll) / np.linalg.norm(muzzle - poll)
    front = np.array([-way[1], way[0]])
    front *= 1 if front @ [1, 0.6] > 0 else -1
    skin = s.rgb[tuple(np.clip(s.pixels([cheek])[0].astype(int)[::-1], 0,
                               np.array(s.ids.shape) - 1))].copy()
    if coat not in ("black", "dark bay") and rng.random() < 0.5 or coat in ("piebald", "skewbald"):
        s.line([mix(poll, muzzle, 0.18) + front * 0.062 * unit, nose + front * 0.036 * unit],
               rgb(238, 234, 226) * s.flat_light() * 0.9, 0.036 * unit)
    for back, dim in ((0.030, 0.75), (-0.008, 1.0)):
        root = poll + front * 0.035 * unit - way * back * unit
        tip = root + front * 0.055 * unit - way * 0.115 * unit
        s.polygon([root - front * 0.028 * unit, root - way * .06 * unit, tip,
                   root + front * 0.035 * unit], skin * dim / s.flat_light(), round_by=0.3)
    dark = rgb(22, 18, 18)
    s.line([mix(muzzle, nose, -0.1), mix(muzzle, nose, 1.0)], mix(skin, dark, 0.42), 0.07 * unit)
    eye = mix(poll, muzzle, 0.30) + front * 0.036 * unit
    s.disc(*eye, 0.017 * unit, dark, round_by=0)
    s.disc(*(mix(nose, muzzle, 0.95) + front * 0.02 * unit), 0.011 * unit, dark, round_by=0)


def horse_mane(rng, s, crest, unit, hair, blow):
    """Strands that fall from the crest, or blow back at speed."""
    light = s.flat_light()
    for root in spline(crest, 14):
        fall = np.array([-0.03 - 0.22 * blow, -0.13 + 0.10 * blow]) * unit * rng.uniform(0.7, 1.3)
        drift = rng.normal(0, 0.014, 2) * unit
        shade = hair * light * rng.normal(0.88, 0.14)
        s.line(spline([root, root + fall * [1.4, 0.35] + drift, root + fall + drift], 4),
               shade, 0.022 * unit)
    top = crest[-1]
    for _ in range(7):
        root = top + rng.normal(0, 0.012, 2) * unit
        tip = top + (np.array([0.07, -0.09]) + rng.normal(0, 0.02, 2)) * unit
        s.line([root, tip], hair * light * rng.normal(0.9, 0.12), 0.02 * unit)


def sheep(rng, spot):
    """A sheep: woolly or shorn, white or black-faced, standing, grazing or lying."""
    unit, flip = rng.uniform(0.72, 0.88), int(rng.choice([-1, 1]))
    if rng.random() < 0.15:
        unit *= 0.68     # a lamb
    pose = rng.choice(["stand", "graze", "lie"], p=[0.4, 0.4, 0.2])
    shorn = rng.random() < 0.25
    wool = vary(rng,
                rgb(*pick(rng, [(232, 226, 212), (238, 234, 226), (222, 212, 194), (232, 226, 212),
                                     (92, 74, 62)])), 0.04)
    face = rgb(*pick(rng, [(48, 42, 42), (226, 212, 196), (48, 42, 42), (150, 120, 96)]))
    s = Sprite(spot, (-0.4 * unit, 1.9 * unit, 1.3 * unit), SHEEP, flip, 0.7 * unit)
    low = 0.34 if pose == "lie" else 0.0

    def legs(which, dim):
        for x, bend in which:
            sway = rng.normal(0, 0.035)
            s.tube(np.array([(x, 0.5, 0.07), (x + bend, 0.26, 0.042), (x + sway, 0.10, 0.034),
                             (x + sway, 0.03, 0.036)]) * unit,
                   mix(face, wool, 0.25), dim=dim)
    if pose != "lie":
        legs([(0.98, 0.01), (0.30, -0.05)], 0.62)
        legs([(0.88, 0.01), (0.20, -0.05)], 0.95)
    thick = 0.25 if shorn else 0.31
    back = np.array([(0.18, 0.63, thick * .92), (0.45, 0.64, thick), (0.75, 0.645, thick),
                     (0.98, 0.66, thick * .86)]) - [0, low, 0]
    lift = 0.0 if pose == "graze" else 0.2
    head = np.array([(1.14, 0.74 + lift, 0.125), (1.24, 0.69 + lift, 0.125),
                     (1.36, 0.60 + lift, 0.085),
                     (1.40, 0.565 + lift, 0.075)])
    if pose == "graze":
        head = np.array([(1.17, 0.47, 0.12), (1.25, 0.35, 0.125), (1.32, 0.20, 0.085),
                         (1.335, 0.14, 0.075)])
    head -= [0, low, 0]
    neck = np.array([(1.0, 0.70 - low, 0.17), (*mix([1.0, 0.7 - low], head[0, :2], 0.6), 0.15),
                     (*head[0, :2], 0.12)])
    s.tube(back * unit, wool * 0.9, round_by=1.1)
    s.tube(neck * unit, wool * 0.9)
    if not shorn:
        rump = back[0] - [0.07, 0, 0.02]
        curve = np.vstack([rump, spline(back, 3), spline(neck, 2)[1:]])
        puffs = [(x + rng.normal(0, .02), y + r * k, r * 0.66) for x, y, r in curve
                 for k in (-0.46, 0, 0.46)]
        s.dabs(rng, np.array(puffs) * unit, wool * 1.03, 900, 0.026 * unit, spread=0.04, solid=0.95,
               contrast=0.8, shade=0.8)
    if pose == "lie":
        s.tube(np.array([(0.85, 0.06, 0.055), (1.05, 0.045, 0.05), (1.2, 0.045, 0.04)]) * unit,
               mix(face, wool, 0.25))
    for dim in (0.7, 1.0):
        ear = [(0.0, 0.0, 0.03), (-0.10 - 0.02 * dim, 0.01 + 0.05 * dim, 0.045),
               (-0.20, -0.01, 0.018)]
        s.tube((np.array(ear) + [*head[0, :2], 0]) * unit, face, dim=dim)
        if dim < 1:
            s.tube(head * unit, face)
    s.disc(*(head[1, :2] + [0.01, 0.045]) * unit, 0.018 * unit, rgb(20, 18, 18) if face.mean() > .3
           else rgb(200, 170, 110), round_by=0)
    if not shorn and rng.random() < 0.7:
        tuft = [(head[0, 0] + dx, head[0, 1] + 0.10, 0.07) for dx in (-0.05, 0.03)]
        s.dabs(rng, np.array(tuft) * unit, wool, 40, 0.03 * unit, spread=0.04, solid=0.8)
    return s


SKIN = [(244, 208, 180), (232, 188, 152), (206, 154, 114), (160, 110, 76),
        (112, 74, 52), (82, 54, 40)]
HAIR = [(38, 28, 24), (70, 46, 30), (120, 80, 44), (206, 170, 104), (150, 70, 36), (190, 188, 184)]
CLOTHES = [(176, 44, 44), (46, 84, 150), (62, 116, 70), (222, 186, 70),
           (232, 228, 220), (48, 48, 58),
           (124, 84, 56),
           (140, 70, 120), (70, 140, 150), (214, 120, 60), (96, 110, 76), (214, 150, 170)]
TROUSERS = [(52, 66, 104), (60, 54, 50), (120, 98, 70), (86, 92, 84), (36, 36, 42), (150, 138, 116)]


def wardrobe(rng):
    colour = {"skin": SKIN, "hair": HAIR, "top": CLOTHES, "legs": TROUSERS,
              "hat": [(214, 180, 110), (60, 48, 40), (170, 50, 46), (60, 84, 120)]}
    return {part: vary(rng, rgb(*pick(rng, options)), 0.05) for part, options in colour.items()}


def person(rng, spot, pose=None):
    """A person on foot, seen from the side, from the front, or from behind."""
    unit = rng.uniform(1.55, 1.88) if rng.random() < 0.8 else rng.uniform(1.1, 1.4)
    pose = pose or rng.choice(["front", "walk", "wave", "crook"], p=[0.3, 0.36, 0.14, 0.2])
    flip, wear = int(rng.choice([-1, 1])), wardrobe(rng)
    s = Sprite(spot, (-0.6 * unit, 0.7 * unit, 1.4 * unit), PERSON, flip)
    side = pose == "walk"
    skirt, stride = rng.random() < 0.28, rng.uniform(14, 26)
    if side:
        legs = [(-stride * .6, -stride - 8), (stride, stride * .45)]
        arms = [(stride * .9, stride * .9 + 20), (-stride, -stride + 12)]
        hips, shoulders = [(-0.005, 0.5), (0.005, 0.5)], [(0.0, 0.79), (0.0, 0.79)]
    else:
        spread = rng.uniform(2, 8)
        legs = [(-spread, -spread + 2), (spread, spread - 2)]
        arms = [(-12, 4), {"wave": (128, 168), "crook": (30, 62)}.get(pose, (12, -4))]
        hips, shoulders = [(-0.045, 0.5), (0.045, 0.5)], [(-0.10, 0.79), (0.10, 0.79)]
    for i in (0, 1):
        if i == 0:
            human_arm(s, shoulders[0], arms[0], unit, wear, dim=0.75 if side else 0.95)
        bones = limb(hips[i], legs[i], [0.245, 0.235])
        dim = 0.78 if side and i == 0 else 1.0
        s.tube(np.column_stack([bones, [0.062, 0.05, 0.034]]) * unit, wear["legs"] if not skirt
               else wear["skin"], dim=dim)
        foot = bones[-1] + [0, -0.012]
        toe = [0.085, -0.005] if side else [0.02 * (1 if i else -1), -0.012]
        s.tube(np.array([(*foot, 0.028), (*(foot + toe), 0.02)]) * unit, rgb(50, 38, 32), dim=dim)
    human_body(rng, s, unit, wear, side, skirt)
    human_head(rng, s, np.array([0.012 if side else 0.0, 0.925]) * unit, unit, wear, side)
    hand = human_arm(s, shoulders[1], arms[1], unit, wear)
    if pose == "crook":
        foot = np.array([hand[0] + 0.03, 0.0])
        s.line([foot, [hand[0] + 0.01, 0.95 * unit], [hand[0] + 0.05, 1.02 * unit],
                [hand[0] + 0.11, 0.97 * unit]], rgb(124, 88, 56) * s.flat_light(), 0.035)
    return s


def human_arm(s, shoulder, angles, unit, wear, dim=1.0):
    bones = limb(shoulder, angles, [0.165, 0.15])
    s.tube(np.column_stack([bones, [0.044, 0.036, 0.027]]) * unit, wear["top"], dim=dim * 0.94)
    s.disc(*(bones[-1] + (bones[-1] - bones[-2]) * 0.12) * unit, 0.026 * unit,
           wear["skin"], dim=dim)
    return bones[-1] * unit


def human_body(rng, s, unit, wear, side, skirt):
    wide = 0.072 if side else 0.088
    if skirt:
        flare = rng.uniform(0.12, 0.17)
        s.polygon(np.array([(-0.07, 0.60), (0.07, 0.60), (flare, 0.27), (0, 0.255),
                            (-flare, 0.27)]) * unit,
                  pick(rng, [wear["top"], wear["legs"]]))
    if side:
        s.tube(np.array([(0.0, 0.50, 0.07), (0.005, 0.62, 0.07), (0.01, 0.74, 0.078),
                         (0.005, 0.79, 0.05)])
               * unit, wear["top"])
    else:
        s.polygon(spline(np.array([(-wide, 0.48), (-wide * .92, 0.62), (-0.128, 0.775),
                                   (-0.06, 0.835),
                                   (0.06, 0.835), (0.128, 0.775),
                                   (wide * .92, 0.62), (wide, 0.48)])) * unit, wear["top"])
        if rng.random() < 0.4:
            s.line(np.array([(0.0, 0.5), (0.0, 0.81)]) * unit, wear["top"] * 0.6, 0.02)
    s.tube(np.array([(0, 0.80, 0.035), (0.008 * side, 0.87, 0.033)]) * unit, wear["skin"], dim=0.85)


def human_head(rng, s, centre, unit, wear, side):
    """Head of a person of height `unit`; `side` looks to +x, otherwise to the viewer or away."""
    c = np.asarray(centre) / unit
    away, long_hair = not side and rng.random() < 0.25, rng.random() < 0.45
    if long_hair:
        s.tube(np.array([(c[0] - 0.022 * side, c[1] + 0.02, 0.066),
                         (c[0] - 0.035 * side, c[1] - 0.09, 0.05)])
               * unit, wear["hair"])
    s.tube(np.array([(c[0], c[1] + 0.018, 0.055),
                     (c[0] + 0.008 * side, c[1] - 0.025, 0.046)]) * unit,
           wear["hair"] if away else wear["skin"])
    if side:
        s.disc(*(c + [0.056, -0.008]) * unit, 0.013 * unit, wear["skin"])
    if not away:
        top = [(c[0] - 0.028 * side - 0.012, c[1] + 0.038, 0.045),
               (c[0] - 0.01 * side + 0.012, c[1] + 0.048, 0.042)]
        s.tube(np.array(top) * unit, wear["hair"])
        for dx in ((0.034,) if side else (-0.02, 0.02)):
            s.disc(*(c + [dx, 0.002]) * unit, 0.008 * unit, rgb(30, 24, 24), round_by=0)
        if not side:
            s.line(np.array([c + [-0.014, -0.032], c + [0.014, -0.032]]) * unit,
                   wear["skin"] * 0.55, 0.012)
    if rng.random() < 0.5:
        brim = pick(rng, [0.075, 0.115])
        s.tube(np.array([(c[0] - 0.02, c[1] + 0.072, 0.042),
                         (c[0] + 0.02, c[1] + 0.072, 0.042)]) * unit,
               wear["hat"])
        s.tube(np.array([(c[0] - brim * (0.4 if brim < .1 and side else 1), c[1] + 0.046, 0.011),
                         (c[0] + brim, c[1] + 0.046, 0.011)]) * unit, wear["hat"], dim=0.85)


def ride(rng, s, unit, lift):
    """A rider on the horse just drawn; the reins and the saddle belong to the horse."""
    wear, back = wardrobe(rng), (0.95 + lift) * unit
    seat = np.array([0.55 * unit, back + 0.06])
    s.tube([(seat[0] - 0.22, back - 0.01, 0.035), (seat[0], back - 0.03, 0.05),
            (seat[0] + 0.2, back + 0.01, 0.035)], rgb(70, 44, 30))
    s.cls = PERSON
    size = 1.7
    leg = limb(seat, (52, -14), [0.42, 0.42])
    s.tube([(*seat, 0.115), (*mix(seat, seat + [0.02, 0.30], 0.6), 0.115),
            (seat[0] + 0.04, seat[1] + 0.46, 0.125),
            (seat[0] + 0.03, seat[1] + 0.56, 0.08)], wear["top"])
    s.tube(np.column_stack([leg, [0.105, 0.085, 0.055]]), wear["legs"])
    s.tube([(*leg[-1], 0.05), (*(leg[-1] + [0.12, -0.03]), 0.035)], rgb(40, 32, 28))
    s.tube([(seat[0] + 0.03, seat[1] + 0.55, 0.05),
            (seat[0] + 0.05, seat[1] + 0.66, 0.05)], wear["skin"],
           dim=0.85)
    human_head(rng, s, seat + [0.06, 0.74], size, wear, True)
    hand = human_arm(s, (seat + [0.02, 0.49]) / size, (20, 68), size, wear)
    s.cls = HORSE
    s.line([hand, hand + [0.22, 0.02]], rgb(44, 32, 26), 0.015)


def driver(rng, s):
    wear = wardrobe(rng)
    s.tube([(0.95, 1.45, 0.15), (0.93, 1.75, 0.16), (0.95, 1.98, 0.12)], wear["top"])
    s.tube([(0.97, 1.45, 0.11), (1.38, 1.46, 0.09), (1.48, 1.2, 0.07)], wear["legs"])
    s.tube([(0.96, 2.0, 0.06), (0.98, 2.12, 0.06)], wear["skin"])
    human_head(rng, s, (1.0, 2.2), 1.75, wear, True)
    human_arm(s, np.array([0.95, 1.93]) / 1.75, (38, 82), 1.75, wear)
