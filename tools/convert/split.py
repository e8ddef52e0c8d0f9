"""Which photo goes into which split: as the source has it, else drawn, stratified by class."""

import re
from itertools import combinations

import numpy as np

from tools.convert.base import UsageError, plural, some, split_of

# Roboflow calls the copies of one photo that it makes NAME.rf.HASH, mostly NAME_jpg.rf.HASH.
ROBOFLOW = r"^(.+)\.rf\.[0-9A-Za-z]+$"


def check_splits(samples, options):
    """Refuse --val, --test and --group that do not fit the source, before it is converted."""
    splits, group = {sample.split for sample in samples} - {""}, options.group
    for option, value in (("val", options.val), ("test", options.test)):
        if value is not None and option in splits:
            raise UsageError(f"--{option} {value}: the source has this split already. Drop the "
                             "option, or remove the source's lists or split folders.")
    if splits and "train" not in splits:
        raise ValueError(f"the source has the splits {', '.join(sorted(splits))} and nothing to "
                         "train on; name one train.")
    try:
        matches = any(re.search(group, _name(sample)) for sample in samples)
    except re.error as error:
        raise UsageError(f"--group {group}: is no regular expression ({error}). An example: "
                         r"--group '(clip\d+)_'.") from None
    if samples and not matches:
        raise UsageError(f"--group {group}: matches no photo's name, such as {_name(samples[0])!r}."
                         " Give a regular expression for what photos of one clip share.")


def _name(sample):
    """Return a photo's path below its folder, without its split's folder and without suffix."""
    *folders, name = sample.key.split("/")
    return "/".join([*(part for part in folders if not split_of(f"{part}/")), name])


def groups_of(samples, photos, group, notes):
    """Return the group of each sample, int (N,), numbered from 0; adds to `notes` what is grouped.

    photos: bytes that only equal photos share. Photos stay together if `group` matches the same
    text in their names, if Roboflow made them from one photo, or if they are equal.
    """
    names, texts = _marks(samples, ROBOFLOW), [None] * len(samples)
    if group:
        texts = _marks(samples, group)
        alone = plural(texts.count(None), "photo")
        notes.append(f"--group {group}: {_counted(texts)}; {alone} without a match")
    if any(names):
        notes.append(f"Roboflow's names (NAME.rf.HASH): {_counted(names)}; copies of one photo "
                     "stay together")
    if equal := len(photos) - len(set(photos)):
        notes.append(f"{plural(equal, 'photo')} with the same pixels as another one: equal photos "
                     "stay together")
    numbers, before = list(range(len(samples))), None
    while numbers != before:  # a chain of marks joins all of its photos
        before = list(numbers)
        for marks in (photos, texts, names):
            first = {}
            for mark, number in zip(marks, numbers):
                first[mark] = min(number, first.get(mark, number))
            numbers = [number if mark is None else first[mark]
                       for mark, number in zip(marks, numbers)]
    return np.unique(numbers, return_inverse=True)[1]


def _marks(samples, pattern):
    """Return for each sample the text that a pattern, or its group 1, matches, or None."""
    matches = [re.search(pattern, _name(sample)) for sample in samples]
    return [match and (match[1] if match.re.groups else match[0]) for match in matches]


def _counted(marks):
    marks = [mark for mark in marks if mark is not None]
    return f"{plural(len(marks), 'photo')} in {plural(len(set(marks)), 'group')}"


def split_samples(samples, shown, photos, class_names, options, notes):
    """Return splits, name -> stems: as the source has them, the others drawn, which `notes` say.

    samples: sorted by stem. shown: bool (N, C), the classes that each shows. photos: as in
    `groups_of`. Raises ValueError if no split is possible.
    """
    splits = {}
    for number, sample in enumerate(samples):
        splits.setdefault(sample.split, []).append(number)
    left, given = splits.pop("", []), list(splits)
    if given and left:
        notes.append(f"left out, since they are in no split: {plural(len(left), 'photo')}")
    groups = groups_of(samples, photos, options.group, notes)
    pool = splits["train"] = splits["train"] if given else left
    fractions = {split: part for split, part in options.drawn_fractions().items()
                 if part and split not in given}
    if fractions:
        units = np.unique(groups[pool], return_inverse=True)[1]
        subsets = draw(shown[pool], units, list(fractions.values()), options.seed, class_names)
        for number, split in enumerate(["train", *fractions]):
            splits[split] = [pool[i] for i in np.flatnonzero(subsets == number)]
        counts = ", ".join(f"{split} ({plural(len(splits[split]), 'photo')})"
                           for split in fractions)
        source, grouped = plural(len(pool), "photo"), units.max() + 1 < len(pool)
        if grouped:
            source += f" in {plural(units.max() + 1, 'group')}"
        if given:
            source = f"train's {source}, since the source has none"
        notes.append(f"drawn: {counts} of {source}; stratified by class, seed {options.seed}")
        if not grouped:
            notes.append("photos of one scene or clip belong in one split: see --group, or write "
                         "train.txt and val.txt into SOURCE")
    order = [split for split in ("train", "val", "test") if split in splits]
    return {split: [samples[i].stem for i in splits[split]] for split in order}


def draw(shown, groups, fractions, seed, class_names):
    """Return the subset of each photo, int (N,): 0 for train, then one for each of `fractions`.

    shown: bool (N, C), the classes of each photo. groups: int (N,) from 0, of photos that stay
    together. Train gets every class; ValueError where no such split exists.
    """
    photos, sizes = len(groups), np.bincount(groups)
    targets = [max(1, round(fraction * photos)) for fraction in fractions]
    if sum(targets) >= photos or len(targets) >= len(sizes):
        raise ValueError(f"{plural(photos, 'photo')} in {plural(len(sizes), 'group')} cannot be "
                         f"split into {len(targets) + 1} parts; add photos, or say --val 0.")
    shows = np.zeros((len(sizes), shown.shape[1]), int)
    np.add.at(shows, groups, shown)
    rng = np.random.default_rng(seed)
    subsets = stratify(shows, sizes, [photos - sum(targets), *targets], rng)
    if len(np.unique(subsets)) <= len(targets):
        subsets = _one_group_each(shows > 0, sizes, len(targets))
    if subsets is None:
        rare = [class_names[i] for i in np.flatnonzero((shows > 0).sum(axis=0) == 1)]
        raise ValueError(f"no split leaves every class in train: {some(rare)} are each in one "
                         "photo or group only. Label more of them, or say --val 0.")
    return subsets[groups]


def stratify(shows, sizes, targets, rng):
    """Return the subset of each group, int (G,), each with its share of the photos of every class.

    shows: int (G, C), photos of a group that show a class. sizes: int (G,), photos. targets: photos
    wanted in each subset, train first. Iterative stratification (Sechidis et al. 2011, algorithm
    1): the rarest class first. Beyond the paper, a full subset takes no more, and train gets the
    last group of a class that it lacks.
    """
    holds, order = shows > 0, rng.permutation(len(sizes))
    subset, room = np.full(len(sizes), -1), np.array(targets, float)
    wanted = np.outer(room, shows.sum(axis=0)) / sizes.sum()
    holders = holds.sum(axis=0)  # groups of each class that are not decided yet
    missing = holders > 0  # classes that train lacks

    def decide(group, rarest):
        fitting = np.flatnonzero(room >= sizes[group] / 2).tolist() or [room.argmax()]
        chosen = max(fitting, key=lambda j: (wanted[j, rarest], room[j]))
        if (holds[group] & missing & (holders == 1)).any():
            chosen = 0
        if chosen == 0:
            missing[holds[group]] = False
        subset[group] = chosen
        room[chosen] -= sizes[group]
        wanted[chosen] -= shows[group]
        holders[holds[group]] -= 1

    for group in order[holds[order][:, holders == 1].any(axis=1)]:
        decide(group, 0)
    while (left := order[subset[order] < 0]).size:
        rarest = np.where(holders > 0, holders, len(sizes) + 1).argmin()
        for group in left[holds[left, rarest]] if holders.any() else left:
            decide(group, rarest)
    return subset


def _one_group_each(holds, sizes, count):
    """Return subsets of one group each, the smallest that train can spare, or None without."""
    for held in combinations(np.argsort(sizes, kind="stable"), count):
        train = np.setdiff1d(np.arange(len(sizes)), held)
        if (holds[train].any(axis=0) == holds.any(axis=0)).all():
            subset = np.zeros(len(sizes), int)
            subset[list(held)] = range(1, count + 1)
            return subset
    return None
