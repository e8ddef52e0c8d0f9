"""What notebooks 01 to 06 share. The ideas, in reading order:

- `labels`: class ids, colours, void
- `pipeline`: decode, crop, augment, batch
- `layers`: pad, upsample, crop, and the blocks made of them
- `models`: the network, its weights from VGG16, model files
- `training`: loss, metric, optimiser, and one call for all
- `metrics`: the confusion matrix and the four scores
- `inference`: from a photo to a label map

The plumbing: `images` reads photos and masks, `datasets` finds them, `recipes` holds the values to
train with, `callbacks` resumes, stops and reports, `oracles` bounds what a stride can draw, `plots`
draws, `runs` keeps results.
"""
