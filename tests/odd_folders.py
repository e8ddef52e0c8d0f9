"""Small folders in VOC layout, each odd in its own ways; `tools.check` finds no error in them."""

import numpy as np
from PIL import Image

# Far apart, also as greys: a network learns to tell them in a few steps.
COLORS = ((40, 160, 40), (200, 40, 40), (40, 60, 220), (250, 220, 60), (250, 250, 250))
THREE = ("ground", "block", "disc")


def colors_of(num_classes):
    """Return uint8 (C, 3): the colours above, then made-up ones, none of them twice."""
    more = [((37 * i) % 251, (91 * i) % 241, (17 * i) % 239) for i in range(5, num_classes)]
    return np.uint8([*COLORS, *more][:num_classes])


def scene(seed, size, ids, void=0.0):
    """Return (photo uint8 (H, W, 3), mask uint8 (H, W)): blocks and discs of `ids` upon ids[0].

    void: share of the photo's width, on the right, whose pixels are void.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    mask = np.full(size, ids[0], np.uint8)
    room = width / max(1, len(ids) - 1)
    for number, class_id in enumerate(ids[1:]):
        row, column = rng.uniform(0.2, 0.8) * height, (number + 0.5) * room
        down, across = abs(y - row) / (0.2 * height), abs(x - column) / (0.35 * room)
        inside = np.maximum(down, across) < 1
        if number % 2:
            inside = down ** 2 + across ** 2 < 1
        mask[inside] = class_id
    noise = rng.normal(0, 12, (*size, 3))
    photo = 0.6 * colors_of(max(ids) + 1)[mask] + 50 + noise
    mask[:, round(width * (1 - void)):] = 255
    return photo.clip(0, 255).astype(np.uint8), mask


def pairs(name, count, size=(72, 96), ids=(0, 1, 2), void=0.0, mode="RGB"):
    """Return `count` triples (stem, Pillow photo, mask). size: (height, width), or a list."""
    made = []
    for i in range(count):
        shape = size[i % len(size)] if isinstance(size, list) else size
        photo, mask = scene(sum(map(ord, name)) + 1000 * i, shape, ids, void)
        made.append((f"{name}_{i}", Image.fromarray(photo).convert(mode), mask))
    return made


def write(root, class_names, **splits):
    """Write pairs in VOC layout, with palette masks, and return `root`. CMYK photos become JPEG."""
    colors = colors_of(len(class_names))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    lines = [f"{i} {name} {r} {g} {b}\n"
             for i, (name, (r, g, b)) in enumerate(zip(class_names, colors))]
    (root / "classes.txt").write_text("".join(lines), encoding="utf-8")
    for split, samples in splits.items():
        stems = "".join(f"{stem}\n" for stem, _, _ in samples)
        (lists / f"{split}.txt").write_text(stems, encoding="utf-8")
        for stem, photo, mask in samples:
            suffix = "jpg" if photo.mode == "CMYK" else "png"
            photo_file = root / "JPEGImages" / f"{stem}.{suffix}"
            mask_file = root / "SegmentationClass" / f"{stem}.png"
            for file in (photo_file, mask_file):
                file.parent.mkdir(parents=True, exist_ok=True)
            photo.save(photo_file)
            picture = Image.fromarray(mask)
            picture.putpalette(np.resize(np.vstack([colors, np.zeros((256, 3), np.uint8)]), 768))
            picture.save(mask_file)
    return root


def everyday(root):
    """Ids 0, 1, 2 and no void: halving such a mask bilinearly makes no id that is no class.

    Grey photos too; portrait and landscape, no side that 32 divides, one photo of 40x23 (warning);
    class 3 in train alone, class 1 not in test, class 4 nowhere (warning).
    """
    sizes = [(64, 101), (120, 77), (23, 40), (70, 70)]
    grey, pond = pairs("grey", 2, mode="L"), pairs("pond", 1, ids=(0, 3))
    return write(root, [*THREE, "pond", "snow"], train=[*pairs("train", 4, sizes), *grey, *pond],
                 val=[*pairs("val", 2, sizes), *pairs("grey_val", 1, mode="L")],
                 test=pairs("test", 2, ids=(0, 2)))


def two_classes(root):
    """Two classes, and one photo to validate on."""
    return write(root, ["background", "cell"],
                 train=pairs("train", 5, ids=(0, 1)), val=pairs("val", 1, ids=(0, 1)))


def many_classes(root):
    """Eighteen classes, most in one photo only; umlauts, long names, one called void; spaces."""
    names = ["Hintergrund", "Fußgängerübergang_mit_Mittelinsel", "Straßengrün", "void", "a,b"]
    names += [f"class_{i}" for i in range(5, 18)]
    train = [pair for i in range(8)
             for pair in pairs(f"Übersicht {i}", 1, ids=(0, 1, 2 * i + 2, 2 * i + 3))]
    return write(root, names, train=train, val=pairs("Übersicht im Mai", 2, ids=(0, 1, 4, 9)))


def much_void(root):
    """A third of void; the first photos all void, one of class 0 and void alone (warnings)."""
    plain = pairs("plain", 1, ids=(0,), void=0.4)
    return write(root, THREE, train=[*pairs("empty", 1, void=1.0), *pairs("train", 5, void=0.3)],
                 val=[*pairs("none", 1, void=1.0), *plain, *pairs("val", 2, void=0.3)])


def odd_files(root):
    """16 bits, alpha, CMYK; RGB masks; films with photos of one name; an empty test (warning)."""
    photos = [*pairs("a", 1), *pairs("b", 2, mode="RGBA"), *pairs("c", 2, mode="CMYK"),
              *pairs("d", 3)]
    deep = np.asarray(photos[0][1].convert("L")).astype(np.uint16) * 257
    photos[0] = (photos[0][0], Image.fromarray(deep), photos[0][2])
    photos[2][1].putpixel((3, 3), (0, 0, 0, 0))
    films = [(f"film{i}/0001", photo, mask) for i, (_, photo, mask) in enumerate(photos)]
    write(root, THREE, train=films[:5], val=films[5:], test=[])
    for path in root.glob("SegmentationClass/*/*.png"):
        Image.open(path).convert("RGB").save(path)
    return root


def thumbnails(root):
    """Photos of a few pixels (warnings): smaller than any cut-out that a notebook might take."""
    sizes = [(11, 9), (20, 30), (7, 16), (1, 24)]
    return write(root, THREE, train=pairs("train", 4, sizes), val=pairs("val", 2, sizes))


def without_borders(root):
    """Each photo shows one class all over, as photos for classification do."""
    splits = {split: [pair for i in range(3) for pair in pairs(f"{split}{i}", 2, ids=(i,))]
              for split in ("train", "val")}
    return write(root, ["sky", "sea", "sand"], **splits)


def nothing_to_see(root):
    """One black photo in train, a dark one in val, both of the first class only (warning)."""
    black, dark = (Image.new("RGB", (96, 72), color) for color in ((0, 0, 0), (1, 1, 1)))
    mask = np.zeros((72, 96), np.uint8)
    return write(root, THREE, train=[("black", black, mask)], val=[("dark", dark, mask)])


OTHERS = (two_classes, many_classes, much_void, odd_files, thumbnails, without_borders,
          nothing_to_see)
