"""A trained model put to use: exported, run by `python -m tools.predict`, or by OpenCV alone."""
